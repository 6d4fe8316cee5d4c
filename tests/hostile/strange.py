#!/usr/bin/python3
"""Honest clients that use TCP in ways few do; prints `NAME FAMILY ok` for each. Run as the user who may read PATH.
Must not be satisfied with less than every byte: the body is compared with FILE, which the service itself filled.

strange.py NAME PATH FILE"""

import errno
import fcntl
import select
import socket
import struct
import sys
import termios
import time

import exchange
from exchange import VERSIONS, Wrong, connected, read_to_end, request, whole

# A window stays closed for so long: longer than the first probes of it.
CLOSED_FOR = 3.0
# Nothing more comes where nothing has come for so long, unless the machine stood still.
QUIET = 0.5
LOOK_EVERY = 0.02
LONGEST_PROBE = 10.0
SMALL_ROOM = 4096
PORT_TAKEN_AGAIN = 200
# Seconds; a retransmission of whatever was not answered at once would take 0.2.
LONGEST_TURN = 0.1
MPTCP = 262


def plain(version, path):
    sock = connected(version)
    sock.sendall(request(version, path))
    return read_to_end(sock)


def byte_by_byte(version, path):
    """Each byte a segment of its own."""
    sock = connected(version)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request(version, path):
        sock.sendall(bytes([byte]))
    return read_to_end(sock)


def finished_after_the_request(version, path):
    sock = connected(version)
    sock.sendall(request(version, path, keep=True))
    sock.shutdown(socket.SHUT_WR)
    return read_to_end(sock)


def finished_before_the_request(version, _):
    """Nothing was asked, so nothing is answered: the end, and no reset."""
    sock = connected(version)
    sock.shutdown(socket.SHUT_WR)
    if answer := read_to_end(sock):
        raise Wrong(f"an answer to nothing: {answer[:100]!r}")
    return None


def sends_on_after_the_answers_end(version, path):
    """The service has finished its way; ours stays open, and what we send is taken."""
    sock = connected(version)
    sock.sendall(request(version, path))
    answer = read_to_end(sock)
    for _ in range(4):
        sock.sendall(b"x" * 16384)
    wait_until_taken(sock)
    sock.close()
    return answer


def wait_until_taken(sock):
    """Until the other side's kernel, or what is in its place, has acknowledged all."""
    until = time.monotonic() + exchange.PATIENCE
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise Wrong(f"reset while it was sending: {error}")
        if time.monotonic() > until:
            raise Wrong("what was sent is not taken")
        time.sleep(0.001)


def closed_window(version, path):
    """Reads nothing for a while, then all."""
    sock = connected(version, room=SMALL_ROOM)
    sock.sendall(request(version, path))
    wait_until_full(sock, CLOSED_FOR)
    return read_to_end(sock)


def unread(sock):
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"))[0]


def wait_until_full(sock, quiet):
    """Until something and then no more has come for `quiet` seconds; how much that is."""
    select.select([sock], [], [], exchange.PATIENCE)
    waiting, since = unread(sock), time.monotonic()
    until = since + exchange.PATIENCE
    while time.monotonic() - since < quiet or not waiting:
        if time.monotonic() > until:
            raise Wrong("the window does not close")
        time.sleep(LOOK_EVERY)
        if (now := unread(sock)) != waiting:
            waiting, since = now, time.monotonic()
    return waiting


def lost_opening(version, path):
    """As before, but nobody hears that the window is open again: only who asks for it learns of it.

    The wire is cut and mended by whoever has our standard output and input."""
    sock = connected(version, room=SMALL_ROOM)
    sock.sendall(request(version, path))
    waiting = wait_until_full(sock, QUIET)
    turn("cut")
    early = b""
    while len(early) < waiting:
        early += sock.recv(waiting - len(early))
    turn("mend")
    began = time.monotonic()
    answer = early + read_to_end(sock)
    if time.monotonic() - began > LONGEST_PROBE:
        raise Wrong("only a keep-alive found the window open")
    return answer


def turn(word):
    print(word, flush=True)
    if sys.stdin.readline() != "done\n":
        raise Wrong("nobody cut the wire")


def multipath(version, path):
    sock = connected(version, protocol=MPTCP)
    sock.sendall(request(version, path))
    return read_to_end(sock)


def port_taken_again(version, path):
    """The service finishes first, so the old connection is in TIME-WAIT on its side when the next one comes."""
    port, began = free_port(version), time.monotonic()
    for _ in range(PORT_TAKEN_AGAIN):
        with as_soon_as_free(version, port) as sock:
            sock.sendall(request(version, path))
            answer = read_to_end(sock)
    if time.monotonic() - began > PORT_TAKEN_AGAIN * LONGEST_TURN:
        raise Wrong("a port is long in use")
    return answer


def as_soon_as_free(version, port):
    """Our own kernel frees the port when our FIN is acknowledged."""
    until = time.monotonic() + exchange.PATIENCE
    while True:
        try:
            return connected(version, port=port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > until:
                raise


def free_port(version):
    with socket.socket(exchange.FAMILY[version], socket.SOCK_STREAM) as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


CLIENTS = {
    one.__name__: one
    for one in (
        plain,
        byte_by_byte,
        finished_after_the_request,
        finished_before_the_request,
        sends_on_after_the_answers_end,
        closed_window,
        lost_opening,
        multipath,
        port_taken_again,
    )
}


def verdict(client, version, path, wanted):
    try:
        answer = client(version, path)
        if answer is not None and whole(answer) != (200, wanted):
            return f"another answer: {answer[:100]!r}..., {len(answer)} bytes"
    except (OSError, Wrong) as why:
        return f"{type(why).__name__}: {why}"
    return "ok"


def main():
    name, path, file = sys.argv[1:]
    with open(file, "rb") as body:
        wanted = body.read()
    good = True
    for version in VERSIONS:
        outcome = verdict(CLIENTS[name], version, path, wanted)
        print(name, version, outcome, flush=True)
        good = good and outcome == "ok"
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
