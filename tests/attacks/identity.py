#!/usr/bin/python3
"""Asks for a path of the service in odd ways, each with a uid and a gid of its own; run as root. Prints NAME OUTCOME.
Must not decide what is right: the tests know what each outcome must be.

OUTCOME is an HTTP status, or the name of an error. Users have uid 2001 (alice, gid 3001), 2002 (bob), 2003 (mallory)."""

import ctypes
import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile

import place
import ring_ways

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
PATH = "/latest/meta-data/hostname"
ALICE, BOB = (2001, 3001), (2002, 3002)
STAFF, WHEEL = 4001, 4002


def become(uid, gid, groups=()):
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def outcome(sock, path=PATH, connect=None, address=None):
    sock.settimeout(place.PATIENCE)
    try:
        (connect or sock.connect)(address or place.service(4))
        sock.sendall(place.head(4, path))
        return place.read_answer(sock).split(None, 2)[1].decode()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def stream(family=socket.AF_INET, proto=0):
    return socket.socket(family, socket.SOCK_STREAM, proto)


def run_as(who, then, groups=()):
    """What `then` prints, in a process of that user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if who:
                become(*who, groups)
            os.write(writer, str(then()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    text = os.read(reader, 1000).decode()
    os.close(reader)
    return text or "nothing"


def disconnect(sock):
    nowhere = struct.pack("HHIQ", socket.AF_UNSPEC, 0, 0, 0)
    if LIBC.connect(sock.fileno(), nowhere, len(nowhere)) != 0:
        raise OSError(ctypes.get_errno(), "connect to AF_UNSPEC")


# --- sockets that one makes and another uses


def inherited():
    sock = stream()
    return run_as(ALICE, lambda: outcome(sock))


def inherited_listener():
    sock = socket.create_server(("", 0))

    def turned():
        disconnect(sock)
        return outcome(sock)

    return run_as(ALICE, turned)


def accepted():
    ear = socket.create_server(("0.0.0.0", 0))
    client = socket.create_connection(("127.0.0.1", ear.getsockname()[1]))
    sock, _ = ear.accept()
    client.close()

    def turned():
        disconnect(sock)
        return outcome(sock)

    return run_as(ALICE, turned)


def reconnected():
    sock = stream()
    outcome(sock)

    def turned():
        disconnect(sock)
        return outcome(sock)

    return run_as(ALICE, turned)


def in_flight():
    """Root's socket lies in a unix socket, held by nobody, until alice takes it out."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock = stream()
    socket.send_fds(near, [b"x"], [sock.fileno()])
    sock.close()

    def taken():
        _, (number,), _, _ = socket.recv_fds(far, 1, 1)
        return outcome(socket.socket(fileno=number))

    return run_as(ALICE, taken)


def mapped():
    sock = stream(socket.AF_INET6)
    return run_as(ALICE, lambda: outcome(sock, address=place.mapped()))


def ipv6():
    sock = stream(socket.AF_INET6)
    return run_as(ALICE, lambda: outcome(sock, address=place.service(6)))


def mptcp():
    sock = stream(proto=place.IPPROTO_MPTCP)
    return run_as(ALICE, lambda: outcome(sock))


def fast_open():
    sock = stream()

    def opened():
        def connect(address):
            sock.sendto(place.head(4, PATH), place.MSG_FASTOPEN, address)

        sock.settimeout(place.PATIENCE)
        try:
            connect(place.service(4))
            return place.read_answer(sock).split(None, 2)[1].decode()
        except OSError as error:
            return errno.errorcode[error.errno]

    return run_as(ALICE, opened)


def io_uring():
    sock = stream()

    def by_ring():
        try:
            return ring_ways.by_ring(sock, 4)
        except OSError as error:
            return errno.errorcode[error.errno]

    return run_as(ALICE, by_ring)


# --- who one is when the socket is made


def plain():
    return run_as(BOB, lambda: outcome(stream()))


def plain_mptcp():
    return run_as(BOB, lambda: outcome(stream(proto=place.IPPROTO_MPTCP)))


def effective():
    def then():
        os.seteuid(BOB[0])
        return outcome(stream())

    return run_as(None, then)


def set_uid_program():
    """Bob's program, run by alice."""
    return run_as(ALICE, lambda: by_program(*BOB, stat.S_ISUID))


def set_gid_program():
    """A program of the group wheel, run by alice: she is in the group while it runs."""
    return run_as(ALICE, lambda: by_program(0, WHEEL, stat.S_ISGID))


def set_gid_program_inherits():
    """Alice makes the socket; the program of the group only uses it."""

    def then():
        sock = stream()
        os.set_inheritable(sock.fileno(), True)
        return by_program(0, WHEEL, stat.S_ISGID, str(sock.fileno()))

    return run_as(ALICE, then)


# Python drops set-uid bits for scripts, so the interpreter itself carries them.
PROGRAM = os.path.join(os.environ.get("TMPDIR", "/tmp"), "set-id-python")
ASK = """
import socket, sys
sys.path.insert(0, sys.argv[1]); import identity
sock = socket.socket(fileno=int(sys.argv[2])) if sys.argv[2] else identity.stream()
print(identity.outcome(sock))
"""


def by_program(_uid, _gid, bit, number=""):
    program = f"{PROGRAM}-{bit}"
    command = [program, "-B", "-S", "-c", ASK, os.path.dirname(os.path.abspath(__file__)), number]
    done = subprocess.run(command, capture_output=True, text=True, close_fds=False, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1:]


def prepare_programs():
    for bit, (uid, gid) in {stat.S_ISUID: BOB, stat.S_ISGID: (0, WHEEL)}.items():
        program = f"{PROGRAM}-{bit}"
        with open("/usr/bin/python3", "rb") as source, open(program, "wb") as copy:
            copy.write(source.read())
        os.chown(program, uid, gid)
        os.chmod(program, 0o755 | bit)


# --- groups


def groups(number, more):
    """In `number` groups that no rule names, and in wheel, which is the last: the kernel sorts them."""
    many = [100 + n for n in range(number)] + ([WHEEL] if more else [])
    return run_as(ALICE, lambda: outcome(stream()), many)


def many_groups():
    return groups(300, True)


def most_groups():
    return groups(1023, True)


def too_many_groups():
    return groups(1024, True)


def too_many_other_groups():
    return groups(1025, False)


def other_groups():
    return groups(300, False)


# --- user namespaces


def in_namespace(then, uid_map, gid_map, levels=1):
    """Mallory's namespace, its maps written by root as newuidmap(1) writes them."""
    ready, mapped_ = os.pipe(), os.pipe()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(2003, 3003, [4003])
        LIBC.unshare(CLONE_NEWUSER)
        os.write(ready[1], b"x")
        os.read(mapped_[0], 1)
        for _ in range(levels - 1):
            LIBC.prctl(4, 1)
            LIBC.unshare(CLONE_NEWUSER)
            for name, text in ("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1"):
                with open("/proc/self/" + name, "w", encoding="ascii") as file:
                    file.write(text)
        os.write(writer, str(then()).encode())
        os._exit(0)
    os.read(ready[0], 1)
    for name, text in ("uid_map", uid_map), ("gid_map", gid_map):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    os.write(mapped_[1], b"x")
    os.waitpid(pid, 0)
    os.close(writer)
    return os.read(reader, 1000).decode() or "nothing"


MAPS = ("0 2003 1\n1 200000 1000", "0 3003 1\n1 200000 1000")


def mapped_uid():
    """Another kernel uid, in mallory's subordinate range."""

    def then():
        become(5, 5)
        return outcome(stream())

    return in_namespace(then, *MAPS)


def mapped_elsewhere():
    """Likewise, in a range that /etc/subuid does not know."""

    def then():
        become(5, 5)
        return outcome(stream())

    return in_namespace(then, *(text.replace("200000", "500000") for text in MAPS))


def dropped_groups():
    def then():
        os.setgroups([])
        return outcome(stream())

    return in_namespace(then, *MAPS)


def nested_namespaces():
    return in_namespace(lambda: outcome(stream()), *MAPS, levels=5)


# --- cgroups


def unit(path):
    """In a cgroup made by hand, as the service manager makes them."""
    directory = os.path.join(os.environ["LAB_CGROUPS"], path)
    os.makedirs(directory, exist_ok=True)

    def then():
        with open(os.path.join(directory, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")
        become(*ALICE)
        return outcome(stream())

    return run_as(None, then)


def unit_nginx():
    return unit("system.slice/nginx.service")


def unit_nginx_worker():
    return unit("system.slice/nginx.service/worker")


def unit_restarted():
    """Another cgroup of the same name, as after a restart."""
    unit_nginx()
    os.rmdir(os.path.join(os.environ["LAB_CGROUPS"], "system.slice/nginx.service/worker"))
    os.rmdir(os.path.join(os.environ["LAB_CGROUPS"], "system.slice/nginx.service"))
    return unit_nginx()


def unit_of_user_manager():
    return unit("user.slice/user-2001.slice/user@2001.service/app.slice/nginx.service")


def unit_in_container():
    return unit("system.slice/docker-0123.scope/system.slice/nginx.service")


def unit_other():
    return unit("system.slice/other.service")


def unit_none():
    return run_as(ALICE, lambda: outcome(stream()))


def unit_too_deep():
    return unit("user.slice/" + "d/" * 70 + "nginx.service")


WAYS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and value.__code__.co_argcount == 0
}


def main():
    if os.getuid() != 0:
        print("identity.py: needs root, to become users", file=sys.stderr)
        return 77
    if any(name.startswith("set_") for name in sys.argv[1:]):
        prepare_programs()
    for name in sys.argv[1:]:
        print(name, WAYS[name](), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
