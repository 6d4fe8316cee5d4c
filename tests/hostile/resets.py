#!/usr/bin/python3
"""Resets connections at every stage and sees that the daemons keep nothing of them. Run as root.
Must not go on to the next look before what is over is gone.

resets.py USER:SMALL_PATH BIG_PATH"""

import errno
import os
import socket
import sys

import daemons
import exchange
from exchange import VERSIONS, Wrong, connected, request, reset
from stopwatch import Stopwatch
from users import Process, User

ROUNDS = 40
# The first shows what memory the daemons need at all.
PASSES = 4
# Without a leak the quietest pass adds 4 to 24, with 1,500 bytes of each connection that filterd saw at least 176.
KEPT_KIB = 100
# Of connections that never get further than the SYN: as many as one user may have (the test sets the limit).
HALF_OPEN = 16
# Who was reset is not half-open any longer. The kernel resets when our SYN-ACK comes again, after a second; unnoticed it
# would take five seconds, and the next SYN of a client that was not let in comes after seven.
LET_IN_WITHIN = 5.5
# Not in Python's socket module.
IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73


def after_the_handshake(version, _small, _big):
    reset(connected(version))


def in_the_request(version, small, _big):
    sock = connected(version)
    sock.sendall(request(version, small)[:20])
    reset(sock)


def after_the_request(version, small, _big):
    """The service takes its time, so the daemons wait for it now."""
    sock = connected(version)
    sock.sendall(request(version, small))
    reset(sock)


def in_the_answer(version, _small, big):
    sock = connected(version)
    sock.sendall(request(version, big))
    if not sock.recv(1000).startswith(b"HTTP/1.1 200 "):
        raise Wrong("no answer to be in the middle of")
    reset(sock)


def after_the_answer(version, small, _big):
    sock = connected(version)
    sock.sendall(request(version, small, keep=True))
    if not sock.recv(65536).startswith(b"HTTP/1.1 200 "):
        raise Wrong("no answer")
    reset(sock)


def after_the_finish(version, small, _big):
    sock = connected(version)
    sock.sendall(request(version, small, keep=True))
    sock.shutdown(socket.SHUT_WR)
    reset(sock)


STAGES = (
    after_the_handshake,
    in_the_request,
    after_the_request,
    in_the_answer,
    after_the_answer,
    after_the_finish,
)


def all_stages(user, process):
    """In a process that has become the user; one pass for each line heard."""
    while (big := process.hear()) != "end":
        for stage in STAGES:
            for version in VERSIONS:
                for _ in range(ROUNDS):
                    stage(version, user.path, big)
        process.say("done")


def deaf(version):
    """A socket whose SYN is answered, but which does not hear that: the hop limit of the answer is below what it takes."""
    sock = socket.socket(exchange.FAMILY[version], socket.SOCK_STREAM)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255)
    sock.setblocking(False)
    error = sock.connect_ex(exchange.service(version))
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    return sock


def after_the_syn(user, process):
    """All the half-open connections one may have; each is closed, and the SYN-ACK that comes again is answered with a
    RST. An honest client is let in then."""
    for version in VERSIONS:
        process.hear()
        socks = [deaf(version) for _ in range(HALF_OPEN)]
        # they are half-open only when their SYNs were looked at, before they close: the process's other user sees to it
        process.say("begun")
        process.hear()
        for sock in socks:
            sock.close()
        waited = Stopwatch()
        sock = connected(version)
        least, most = waited.on_the_wall(), waited.elapsed()
        sock.sendall(request(version, user.path))
        status, _ = exchange.whole(exchange.read_to_end(sock))
        process.say(f"{status} {least:.3f} {most:.3f}")


def syns(user):
    """Root's own exchange comes after the SYNs in the same queue."""
    process = Process(user, after_the_syn)
    for version in VERSIONS:
        process.say("begin")
        process.hear()
        with connected(version) as sock:
            sock.sendall(request(version, "/"))
            exchange.read_to_end(sock)
        process.say("close")
        status, least, most = process.hear().split()
        print("after_the_syn", version, "status", status, "let in after", least, "s", flush=True)
        if status != "200":
            raise Wrong("the honest client is not served")
        if not (0.5 < float(least) and float(most) < LET_IN_WITHIN):
            raise Wrong("half-open connections stay, or there were none")
    if not process.ended_well():
        raise Wrong("the user's process failed")


def main():
    user, big = User(sys.argv[1]), sys.argv[2]
    at_rest = daemons.descriptors()
    syns(user)
    daemons.wait_for(at_rest)
    process = Process(user, all_stages)
    memory = []
    for _ in range(PASSES):
        process.say(big)
        process.hear()
        daemons.wait_for(at_rest)
        memory.append(daemons.memory())
    process.say("end")
    print("reset", PASSES * len(STAGES) * len(VERSIONS) * ROUNDS, "connections")
    daemons.expect_no_steady_growth(memory, KEPT_KIB)
    return 0 if process.ended_well() else 1


if __name__ == "__main__":
    sys.exit(main())
