#!/usr/bin/python3
"""Tries to be taken for another user: run as root, which becomes each user in turn; prints `ok` or `mixed up` lines.
Must not say ok when nothing was tried: each line counts what was served and what was refused.

A USER:PATH pair is a user and the path that the rules give to that user alone. A 200 for another's path, or a 403 for
one's own, is a mix-up. A reset or a refused connection is none: who cannot be told apart is refused."""

import argparse
import errno
import os
import pwd
import select
import socket
import sys

import place

VERSIONS = (4, 6)


class Count:
    """What happened to the connections of one attack."""

    def __init__(self):
        self.own = self.refused = self.reset = self.mixed = 0

    def add(self, status, is_own):
        if status is None:
            self.reset += 1
        elif (status == 200) != is_own or status not in (200, 403):
            self.mixed += 1
        elif is_own:
            self.own += 1
        else:
            self.refused += 1

    def all(self):
        return self.own + self.refused + self.reset + self.mixed

    def text(self):
        return f"served={self.own} refused={self.refused} reset={self.reset} mixed={self.mixed}"


class User:
    def __init__(self, pair):
        name, self.path = pair.split(":", 1)
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid = name, entry.pw_uid, entry.pw_gid

    def become(self):
        """For good."""
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def __enter__(self):
        """For a moment: sockets made and connected meanwhile are this user's."""
        os.setegid(self.gid)
        os.seteuid(self.uid)
        return self

    def __exit__(self, *_):
        os.seteuid(0)
        os.setegid(0)


def request(version, path):
    return place.head(version, path)


def status_of(answer):
    words = answer.split(None, 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def exchange(sock, version, path):
    """The status of one exchange on a connected socket, None if it was reset."""
    try:
        sock.settimeout(place.PATIENCE)
        sock.sendall(request(version, path))
        return status_of(place.read_answer(sock))
    except (ConnectionError, TimeoutError):
        return None


def interleaved(users, count):
    """All users at once, in processes of their own, on `count` connections together."""
    readers = []
    for user in users:
        reader, writer = os.pipe()
        if os.fork() == 0:
            user.become()
            os.write(writer, crowd(user, users, count // len(users)).text().encode())
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    good = True
    for user, reader in zip(users, readers):
        text = os.read(reader, 1000).decode()
        good = report(f"interleaved {user.name}", text) and good
        os.wait()
    return good


def crowd(user, users, total, width=16):
    """`width` connections at a time, families and paths in turn, none waiting for another."""
    result, running, begun = Count(), {}, 0
    poll = select.poll()
    while begun < total or running:
        while begun < total and len(running) < width:
            version = VERSIONS[begun % 2]
            wanted = users[(begun // 2) % len(users)]
            sock = begin(version)
            running[sock.fileno()] = [sock, request(version, wanted.path), b"", wanted is user]
            poll.register(sock, select.POLLOUT)
            begun += 1
        ready = poll.poll(place.PATIENCE * 1000)
        if not ready:
            # Silence for all of them: nobody is served, and the report says so.
            result.reset += total - result.all()
            break
        for number, _ in ready:
            if not step(poll, running[number]):
                sock, _, answer, is_own = running.pop(number)
                result.add(status_of(answer), is_own)
                poll.unregister(number)
                sock.close()
    return result


def begin(version):
    sock = socket.socket(place.FAMILY[version], socket.SOCK_STREAM)
    sock.setblocking(False)
    error = sock.connect_ex(place.service(version))
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    return sock


def step(poll, connection):
    """Sends or reads what can be; False at the end."""
    sock, unsent, _, _ = connection
    try:
        if unsent:
            connection[1] = unsent[sock.send(unsent) :]
            if not connection[1]:
                poll.modify(sock, select.POLLIN)
            return True
        piece = sock.recv(65536)
        connection[2] += piece
        return bool(piece)
    except BlockingIOError:
        return True
    except OSError:
        return False


def overheard(client, other, version):
    """The client's socket, not yet connected, and the other user's that listens on the same port."""
    any_address = {4: "0.0.0.0", 6: "::"}[version]
    with client:
        sock = reusable(version)
        sock.bind((any_address, 0))
    with other:
        ear = reusable(version)
        ear.bind((any_address, sock.getsockname()[1]))
        ear.listen()
    return sock, ear


def listener(users, count):
    """The other user listens on the very port the client connects from; a look-up finds listeners too."""
    client, other = users
    result = Count()
    for number in range(count):
        version = VERSIONS[number % 2]
        sock, ear = overheard(client, other, version)
        with client:
            served_path(sock, version, users, number, client, result)
        ear.close()
    return report(f"listener {client.name}", result.text())


def closer(users, count):
    """The client is gone when its SYN is looked at, and another user listens where it was."""
    client, other = users
    for number in range(count):
        version = VERSIONS[number % 2]
        sock, ear = overheard(client, other, version)
        with client:
            sock.setblocking(False)
            sock.connect_ex(place.service(version))
            sock.close()
        ear.close()
    # What was made of it is in the audit log, which must name neither root nor the other user.
    print(f"closer ok tried={count}")
    return True


def reuse(users, count):
    """Users take turns on one source port, each the moment the one before is gone."""
    result = {user: Count() for user in users}
    port = {version: free_port(version) for version in VERSIONS}
    for number in range(count):
        version = VERSIONS[number % 2]
        user = users[(number // 2) % len(users)]
        with user:
            sock = reusable(version)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.bind(("", port[version]))
            served_path(sock, version, users, number // 4, user, result[user])
    return all([report(f"reuse {user.name}", result[user].text()) for user in users])


def served_path(sock, version, users, number, user, result):
    """Connects and asks for one's own path and the others' in turn."""
    wanted = users[number % len(users)]
    sock.settimeout(place.PATIENCE)
    try:
        sock.connect(place.service(version))
        status = exchange(sock, version, wanted.path)
    except (ConnectionError, TimeoutError):
        status = None
    sock.close()
    result.add(status, wanted is user)


def reusable(version):
    sock = socket.socket(place.FAMILY[version], socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def free_port(version):
    with socket.socket(place.FAMILY[version], socket.SOCK_STREAM) as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


def inherited(users, count):
    """A socket that one user made and another connects: it must be neither's, or its maker's; never more than both had."""
    maker, user = users
    result = Count()
    for number in range(count):
        version = VERSIONS[number % 2]
        with maker:
            sock = reusable(version)
        with user:
            # The path of whoever did not make the socket must stay closed.
            sock.settimeout(place.PATIENCE)
            try:
                sock.connect(place.service(version))
                status = exchange(sock, version, user.path)
            except OSError:
                status = None
            result.add(status, False)
            sock.close()
    return report(f"inherited {user.name}", result.text())


def idle(users, _):
    """Holds a connection open from the uplink's own address, as `curl --interface` does; says `ready PORT`."""
    (user,) = users
    with user:
        sock = place.stream(4)
        sock.bind((place.uplink_address(4), 0))
        sock.settimeout(place.PATIENCE)
        sock.connect(place.service(4))
        sock.sendall(place.head(4, user.path).replace(b"Connection: close\r\n", b""))
        status = status_of(place.read_answer(sock))
    print("ready", sock.getsockname()[1], status, flush=True)
    sys.stdin.readline()
    return status == 200


def report(name, text):
    """Good means: nobody mixed up, and somebody served, or the test would pass with the service dead."""
    numbers = dict(word.split("=") for word in text.split())
    good = text != "" and numbers["mixed"] == "0" and (numbers["served"] != "0" or name.startswith("inherited"))
    print(name, "ok" if good else "mixed up", text)
    return good


ATTACKS = {one.__name__: one for one in (interleaved, listener, closer, reuse, inherited, idle)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("users", nargs="+", type=User, metavar="USER:PATH")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    if os.getuid() != 0:
        print("attribution.py: needs root, to become the users", file=sys.stderr)
        return 77
    return 0 if ATTACKS[arguments.attack](arguments.users, arguments.count) else 1


if __name__ == "__main__":
    sys.exit(main())
