#!/usr/bin/python3
"""Opens connections to the service before the daemons start and uses them after: prints `ready`, waits for a line, then reports.
Must not open anything after that line but what had been begun before it. Prints as runner.py says."""

import socket
import sys

import place
import runner
from place import stream, service


class Way:
    """`begin` runs while the service is open to all and returns what to do once it is not."""

    def __init__(self, begin):
        self.name = begin.__name__
        self.begin = begin


WAYS = []


def way(begin):
    WAYS.append(Way(begin))
    return begin


@way
def connected(v):
    sock = stream(v)
    sock.connect(service(v))
    return lambda: place.ask(sock)


@way
def connected_half_asked(v):
    sock = stream(v)
    sock.connect(service(v))
    request = place.head(v)
    sock.sendall(request[:20])
    return lambda: place.ask(sock, request[20:])


@way
def connected_by_device(v):
    sock = stream(v)
    place.bind_device(sock)
    sock.connect(service(v))
    return lambda: place.ask(sock)


@way
def multipath_connected(v):
    sock = stream(v, place.IPPROTO_MPTCP)
    sock.connect(service(v))
    return lambda: place.ask(sock)


@way
def device_bound(v):
    sock = stream(v)
    place.bind_device(sock)
    return lambda: place.reach(sock, service(v))


@way
def syn_sent(v):
    sock = stream(v)
    place.connect_deaf(sock, v, service(v))

    def go_on():
        place.hear_again(sock, v)
        return place.ask(sock)

    return go_on


@way
def udp_connected(v):
    """A connected socket keeps its route."""
    sock = place.keep(socket.socket(place.FAMILY[v], socket.SOCK_DGRAM))
    sock.connect(service(v))

    def go_on():
        sock.settimeout(1)
        sock.send(b"x")
        sock.recv(1)
        return "reached"

    return go_on


def main():
    begun = [(one.name, v, one.begin(v)) for one in WAYS for v in (4, 6)]
    print("ready", flush=True)
    sys.stdin.readline()
    for name, v, go_on in begun:
        # No source: all the sockets stay open to the end, so any packet at all is one of theirs.
        print(name, v, runner.outcome(lambda _, go_on=go_on: go_on(), v).split()[0], "-", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
