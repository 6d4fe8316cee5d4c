#!/usr/bin/python3
"""Clients that misbehave, while another user works; run as root in a lab, where it becomes mallory and bob.
Prints `NAME ok` when mallory was ended or refused as promised, bob lost nothing and the daemons hold nothing of it.

The limits of the lab's configuration are told by the environment: LIMIT_CONNECTIONS, LIMIT_BURST, LIMIT_RATE."""

import contextlib
import errno
import json
import os
import pwd
import select
import socket
import struct
import sys
import threading
import time

import daemons
import wire
from stopwatch import Stopwatch
from wire import User

SERVICE = {4: ("169.254.169.254", 80), 6: ("fd00:ec2::254", 80)}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
GET = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
CONNECTIONS = int(os.environ.get("LIMIT_CONNECTIONS", "256"))
BURST = int(os.environ.get("LIMIT_BURST", "1000"))
RATE = int(os.environ.get("LIMIT_RATE", "100"))
IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73
# where tcpi_total_retrans is in struct tcp_info
TOTAL_RETRANS = 100
WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


class Wrong(Exception):
    """Somebody was served who should not have been, or was not who should."""


def expect(true, what):
    if not true:
        raise Wrong(what)


def connect(user, version=4):
    with User(user):
        # a socket is his who made it
        sock = socket.socket(FAMILY[version])
        sock.settimeout(2 * wire.PATIENCE)
        sock.connect(SERVICE[version])
    return sock


def answer(sock, got=b""):
    """Status, head and what came after one answer that says its length; None at the end."""
    while b"\r\n\r\n" not in got:
        piece = sock.recv(65536)
        if not piece:
            return None
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += sock.recv(65536)
    return int(head.split()[1]), head, body[length:]


def expect_served_again(user):
    """When connections just closed are counted out: until then interceptor resets, or filterd refuses."""
    until = time.monotonic() + wire.PATIENCE
    status = None
    while status != 200:
        expect(time.monotonic() < until, f"refused for ever, the last with {status}")
        try:
            with connect(user) as sock:
                sock.sendall(GET)
                status = answer(sock)[0]
        except ConnectionRefusedError:
            status = "a reset"


def rest(sock):
    """Everything to the end, however it comes."""
    got = b""
    try:
        while piece := sock.recv(65536):
            got += piece
    except ConnectionError:
        pass
    return got


def audit():
    with open(os.environ["LAB_AUDIT"], encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def of_mallory():
    return sorted(line["status"] for line in audit() if line["user"] == "mallory")


class Bob(threading.Thread):
    """Works on one connection as long as mallory does, below his own limits; not one request may be lost, nor wait for long."""

    def __init__(self, pause=0.01):
        super().__init__()
        self.sock = connect("bob")
        self.pause = pause
        self.going, self.served, self.lost, self.waits = True, 0, [], []

    def run(self):
        while self.going:
            waited = Stopwatch()
            try:
                self.sock.sendall(GET)
                got = answer(self.sock)
            except OSError as error:
                self.lost.append(error)
                return
            self.waits.append(waited.elapsed())
            if not got or got[0] != 200:
                self.lost.append(got)
                return
            self.served += 1
            time.sleep(self.pause)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.going = False
        self.join()
        self.sock.close()
        expect(not self.lost and self.served > 0, f"bob lost {self.lost} after {self.served}")
        # but for one: where interceptor gets no processor the tun drops what a flood leaves no room for, also a packet of his
        waits = sorted(self.waits)
        expect(waits[-2:][0] < 0.9, f"bob waited {waits[-2:]} s")


@way
def slow_and_endless():
    # a head that never ends in time, one that never ends in size, and one never begun
    with Bob():
        slow, long_line, many_lines, silent = (connect("mallory") for _ in range(4))
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        for sock, piece in ((long_line, b"a" * 1000), (many_lines, b"A: b\r\n" * 100)):
            sock.sendall(b"GET / HTTP/1.1\r\n")
            try:
                for _ in range(100):
                    sock.sendall(piece)
            except ConnectionError:
                pass
            got = rest(sock)
            expect(got == b"" or b" 431 " in got.split(b"\r\n")[0], f"endless: {got[:80]}")
        waited = Stopwatch()
        for _ in range(8):
            slow.sendall(b"a")
            time.sleep(1)
        got = rest(slow)
        expect(b" 408 " in got.split(b"\r\n")[0], f"slow: {got[:80]}")
        expect(8 < waited.on_the_wall() and waited.elapsed() < 13, "not after ten seconds")
        expect(not select.select([silent], [], [], 0)[0], "an idle connection was ended")
        silent.close()
        # the line of an exchange may come a moment after its answer
        until = time.monotonic() + wire.PATIENCE
        while (statuses := of_mallory()) != [408, 431, 431]:
            expect(time.monotonic() < until, f"audit {statuses}")
            time.sleep(0.01)


@way
def pipelined():
    with Bob():
        for version in (4, 6):
            sock = connect("mallory", version)
            sock.sendall(GET * 100)
            sock.shutdown(socket.SHUT_WR)
            got = rest(sock)
            expect(got.count(b"HTTP/1.1 200 OK") == 100, f"{got.count(b'HTTP/1.1 ')} answers")
            sock.close()


def deaf(version):
    """Begins a connection and hears no answer: our own kernel drops the SYN-ACK for its hop limit."""
    sock = socket.socket(FAMILY[version])
    level, option = (socket.IPPROTO_IP, IP_MINTTL) if version == 4 else (socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT)
    sock.setsockopt(level, option, 255)
    sock.setblocking(False)
    error = sock.connect_ex(SERVICE[version])
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    return sock


def retransmissions(sock):
    """How many packets our own kernel had to send again."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from("I", info, TOTAL_RETRANS)[0]


@way
def half_open():
    # thousands of them; mallory has his share, and bob's new connections work
    with Bob():
        for _ in range(10):
            # fewer at once than the tun's queue holds: it drops anybody's packet where interceptor waits for a processor
            with User("mallory"):
                begun = [deaf(4 if number % 2 else 6) for number in range(300)]
            for version in (4, 6):
                bob = connect("bob", version)
                # a SYN is sent again after a second; what follows it after a fifth, which may be the machine's own pause
                expect(retransmissions(bob) == 0, "bob waited for a retransmission")
                bob.sendall(GET)
                expect(answer(bob)[0] == 200, "bob is not served")
                bob.close()
            for sock in begun:
                sock.close()
        with open(os.environ["LAB"] + "/log/interceptor.log", encoding="utf-8") as log:
            refused = f"too many half-open connections, the last of uid {pwd.getpwnam('mallory').pw_uid}"
            expect(refused in log.read(), "nothing was refused, so nothing was tried")


@way
def flood_of_connections():
    # SYNs as fast as one process can send them
    with Bob():
        until, begun = time.monotonic() + 3, 0
        with User("mallory"):
            while time.monotonic() < until:
                socks = [deaf(4) for _ in range(50)]
                begun += len(socks)
                for sock in socks:
                    sock.close()
        expect(begun > 1000, f"a flood of {begun}")


@way
def connections_over_the_limit():
    with Bob(pause=2 / RATE):
        kept = [connect("mallory") for _ in range(CONNECTIONS)]
        for sock in kept:
            sock.sendall(GET)
        expect({answer(sock)[0] for sock in kept} == {200}, "refused below the limit")
        over = [connect("mallory", 6) for _ in range(CONNECTIONS)]
        for sock in over:
            sock.sendall(GET)
            got = rest(sock)
            expect(got.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in got, f"{got[:90]}")
        expect_limited("connections", CONNECTIONS)
        for sock in kept + over:
            sock.close()
        expect_served_again("mallory")


@way
def connections_over_twice_the_limit():
    # more than filterd may have to refuse: interceptor does it, with a reset
    with Bob(pause=2 / RATE):
        kept, until = [], time.monotonic() + wire.PATIENCE
        while len(kept) < 2 * CONNECTIONS:
            expect(time.monotonic() < until, f"refused after {len(kept)}")
            # those of the way before may not be counted out yet
            with contextlib.suppress(ConnectionRefusedError):
                kept.append(connect("mallory"))
        try:
            kept.append(connect("mallory"))
            raise Wrong("one more was taken")
        except ConnectionRefusedError:
            pass
        for sock in kept:
            sock.close()
        expect_served_again("mallory")


@way
def requests_over_the_limit():
    # mallory sends all at once
    with Bob(pause=2 / RATE):
        sock = connect("mallory")
        before, began = limited("requests"), time.monotonic()
        sock.sendall(GET * 4 * BURST)
        heads, left = [], b""
        for _ in range(4 * BURST):
            status, head, left = answer(sock, left)
            heads.append((status, b"\r\nRetry-After: 1" in head))
        may = BURST + 1 + RATE * (time.monotonic() - began)
        served, refused = heads.count((200, False)), heads.count((503, True))
        expect(served + refused == 4 * BURST, f"{set(heads)}")
        # the ways before this one may have taken some of the burst
        expect(BURST / 2 <= served <= may and refused > 0, f"{served} served of {may:.0f}")
        expect_limited("requests", before + refused)
        time.sleep(2 / RATE)
        sock.sendall(GET)
        expect(answer(sock)[0] == 200, "refused for ever")
        sock.close()


def limited(what):
    """Audit lines about one of mallory's limits."""
    lines = [line for line in audit() if line["user"] == "mallory" and line["status"] == 503]
    expect(all(line["verdict"] == "limit" for line in lines), f"{lines[:1]}")
    return sum(what in line["why"] for line in lines)


def expect_limited(what, count):
    """So many audit lines; the last may come a moment after its answer."""
    until = time.monotonic() + wire.PATIENCE
    while limited(what) < count and time.monotonic() < until:
        time.sleep(0.01)
    expect(limited(what) == count, f"{limited(what)} audit lines about {what} and {count} refused")


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(WAYS))
        return 0
    wrong, before = 0, daemons.descriptors()
    for name in sys.argv[1:] or WAYS:
        try:
            WAYS[name]()
            daemons.wait_for(before)
            print(name, "ok", flush=True)
        except (Wrong, OSError, TypeError, KeyError) as error:
            wrong += 1
            print(name, "WRONG", type(error).__name__, error, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
