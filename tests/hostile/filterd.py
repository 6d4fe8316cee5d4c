#!/usr/bin/python3
"""Speaks to interceptor as filterd's user and misbehaves in every way; run as root in a lab whose filterd is stopped.
Prints `NAME ok` when interceptor dropped or bore it as it should, lives, and holds no descriptor more than before.

With names as arguments only these; with --list the names."""

import os
import socket
import struct
import sys
import time

import wire
from stopwatch import Stopwatch
from wire import User, close, dial, hello, message, receive, send

INTERCEPTOR = int(os.environ.get("LAB_INTERCEPTOR_PID", "0"))
SERVING = int(os.environ.get("LAB_UPSTREAM_PID", "0"))
LOG = os.path.join(os.environ.get("LAB", "/run/lab"), "log/interceptor.log")
SERVICE = {4: ("169.254.169.254", 80), 6: ("fd00:ec2::254", 80)}
# Who lost a filterd is held for 0.8 s; the rest is for a machine that stands still for moments.
RESET_WITHIN = 2
# What a lost packet would cost, at least.
LOST = 1
WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


class Wrong(Exception):
    """Interceptor did something else."""


def door():
    """Connected as filterd's user."""
    with User("imds"):
        sock = wire.seqpacket()
        sock.connect(wire.path())
    return sock


def attached(minor=0):
    sock = door()
    send(sock, hello(minor))
    for wanted in (wire.HELLO, wire.IDENTITY):
        expect(wire.read(receive(sock)[0])[0] == wanted, "no greeting")
    # from its first word of needs on a filterd is given connections
    send(sock, wire.needs())
    return sock


def expect(true, what):
    if not true:
        raise Wrong(what)


def expect_dropped(sock):
    try:
        while True:
            got = receive(sock)
            if got is None:
                return
            for descriptor in got[1]:
                os.close(descriptor)
    except TimeoutError:
        raise Wrong("not dropped") from None
    finally:
        sock.close()


def expect_alive(sock):
    """An ask is still answered."""
    send(sock, dial(77, 999))
    while True:
        got = receive(sock)
        expect(got, "dropped")
        kind, fields = wire.read(got[0])
        if kind == wire.DIAL_FAILED and wire.number_in(fields) == 77:
            return


def client(version=4):
    """An ordinary client of another user."""
    with User("alice"):
        # a socket is his who made it
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
        sock.settimeout(wire.PATIENCE)
        sock.connect(SERVICE[version])
    return sock


def given(sock):
    """The next connection: its number and its end."""
    record, descriptors = receive(sock)
    kind, fields = wire.read(record)
    expect(kind == wire.CONNECTION and len(descriptors) == 1, f"no connection: {record}")
    end = socket.socket(fileno=descriptors[0])
    end.settimeout(wire.PATIENCE)
    return wire.number_in(fields), end


def asked(sock):
    """The number of the connection of the next ask."""
    kind, fields = wire.read(receive(sock)[0])
    expect(kind == wire.ASKED, f"{kind} came, and no ask")
    return int.from_bytes(fields[:8], "little")


def expect_reset(sock):
    waited = Stopwatch()
    try:
        while sock.recv(65536):
            pass
        raise Wrong("the client saw an end, not a reset")
    except ConnectionResetError:
        pass
    except TimeoutError:
        raise Wrong("the client hangs") from None
    finally:
        sock.close()
    took = waited.elapsed()
    expect(took < RESET_WITHIN, f"reset after {took:.2f} s")


@way
def silent():
    expect_dropped(door())


@way
def hello_twice():
    sock = attached()
    send(sock, hello())
    expect_dropped(sock)


@way
def hello_of_other_versions():
    for record in (message(1, b"\0\0", major=2), message(1, b"\0\0", major=0), hello(200, 199), hello(7, 255)):
        sock = door()
        send(sock, record)
        expect_dropped(sock)


@way
def something_before_hello():
    for record in (dial(1), close(1), wire.needs()):
        sock = door()
        send(sock, record)
        expect_dropped(sock)


@way
def malformed():
    fields = struct.pack("<QH", 1, 0)
    records = [b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * wire.MAX_MESSAGE, b"\0" * (wire.MAX_MESSAGE + 1), b"x" * 100_000]
    records += [message(kind, fields) for kind in (0, 2, 3, 4, 5, 6, 15, 19, 255, 65535)]
    records += [message(wire.DIAL, fields, length=length) for length in (0, 8, 17, 19, 2**32 - 1)]
    records += [message(wire.DIAL, fields[:-1]), message(wire.DIAL, fields + b"\0"), message(wire.CLOSE, fields)]
    records += [message(wire.DIAL), message(wire.DIAL, fields, major=2), hello() + dial(1)]
    records += [message(wire.NEEDS), wire.needs(4), wire.needs(255), message(wire.NEEDS, b"\0\0")]
    for begin in (door, attached):
        for record in records:
            sock = begin()
            send(sock, record)
            expect_dropped(sock)


@way
def malformed_of_minor_1():
    records = [message(kind) for kind in (wire.ANSWERED, wire.RESET, wire.MODE, wire.KEEP)]
    records += [wire.answered(1, 0, 1, 2), message(wire.ANSWERED, bytes(20)), message(wire.ANSWERED, bytes(22))]
    records += [message(wire.RESET, bytes(9)), message(wire.LEAVING, b"\0"), message(wire.MODE, b"\2"), message(wire.MODE, b"\0\0")]
    records += [wire.keep(bytes(257)), wire.keep(bytes(8000)), message(wire.KEEP, b"\xff\xff"), wire.keep(b"x") + b"x"]
    for record in records:
        sock = attached(1)
        send(sock, record)
        expect_dropped(sock)
    # who speaks minor 0 may say none of it
    for record in (wire.answered(1, 0, 1), wire.reset(1), message(wire.LEAVING), message(wire.MODE, b"\0"), wire.keep(b"x")):
        sock = attached()
        send(sock, record)
        expect_dropped(sock)


@way
def claims_that_cannot_be():
    for count, end in ((1, 1), (2**32 - 1, 2**64 - 1), (0, 0)):
        sock, alice = attached(1), client()
        number, end_of_it = given(sock)
        send(sock, wire.answered(number, count, end))
        expect_dropped(sock)
        expect_reset(alice)
        end_of_it.close()
    # of connections that are nobody's
    sock = attached(1)
    for number in (0, 2**20, 2**64 - 1):
        send(sock, wire.answered(number, 2**32 - 1, 2**64 - 1, 1))
        send(sock, wire.reset(number))
    expect_alive(sock)
    sock.close()


@way
def leaving_without_end():
    log = os.path.getsize(LOG)
    sock = attached(1)
    for _ in range(2000):
        send(sock, message(wire.LEAVING))
    expect_alive(sock)
    sock.close()
    expect(os.path.getsize(LOG) - log < 10_000, f"{os.path.getsize(LOG) - log} bytes in the log")


@way
def empty_record():
    sock = attached()
    sock.send(b"")
    expect_dropped(sock)


@way
def unknown_upstreams():
    sock = attached()
    for upstream in (2, 3, 255, 65535):
        send(sock, dial(upstream, upstream))
        kind, fields = wire.read(receive(sock)[0])
        expect((kind, wire.number_in(fields), fields[8]) == (wire.DIAL_FAILED, upstream, 5), "dialled")
    sock.close()


@way
def closes_of_nothing():
    sock = attached()
    for number in (0, 1, 2**20, 2**63, 2**64 - 1):
        send(sock, close(number))
    expect_alive(sock)
    sock.close()


@way
def answers_of_every_kind():
    for minor, record in ((0, wire.answer(1, b"x")), (1, wire.about(wire.OPEN, 1)), (2, wire.answer(1, b"")),
                          (2, wire.answer(1, b"x" * 6145)), (2, wire.answer(1, b"x", closes=2))):
        sock = attached(minor)
        send(sock, record)
        expect_dropped(sock)
    sock = attached(2)
    # nobody's, and twice
    send(sock, wire.answer(2**64 - 1, b"x"))
    alice = client()
    alice.sendall(b"x")
    number = asked(sock)
    for _ in range(2):
        send(sock, wire.answer(number, b"y"))
    expect(alice.recv(10) == b"y", "two answers to one ask, or none")
    alice.sendall(b"x")
    expect(asked(sock) == number, "another was asked about")
    # what is never answered costs its client no more than that; then the next one is asked
    sock.close()
    sock = attached(2)
    send(sock, wire.answer(asked(sock), b"z", closes=1))
    expect(alice.recv(10) == b"z" and alice.recv(10) == b"", "not the next one's answer")
    expect_alive(sock)


@way
def descriptors_pushed():
    for count in (1, 2, 10, 253):
        for record in (hello(), dial(1), b"x"):
            sock = door()
            pushed = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
            send(sock, record, pushed)
            for descriptor in pushed:
                os.close(descriptor)
            expect_dropped(sock)


@way
def its_own_channel_pushed():
    sock = door()
    send(sock, hello(), [sock])
    expect_dropped(sock)


@way
def descriptors_pushed_at_a_connection():
    sock, alice = attached(), client()
    number, end = given(sock)
    for _ in range(100):
        socket.send_fds(end, [b"HTTP/1.1 200 OK\r\n"], [end.fileno(), sock.fileno()])
    got = alice.recv(65536)
    expect(got.startswith(b"HTTP/1.1 200 OK"), f"the client got {got}")
    send(sock, close(number))
    end.close()
    alice.close()
    sock.close()


@way
def dials_without_end():
    for upstream in (0, 1, 9):
        sock = attached()
        try:
            for number in range(200_000):
                send(sock, dial(number, upstream))
        except (ConnectionError, TimeoutError):
            pass
        expect_dropped(sock)


@way
def dials_answered_late():
    # fewer than may be under way at once: all are had
    wait_for_the_service()
    sock = attached()
    for number in range(150):
        send(sock, dial(number))
    for _ in range(150):
        kind_and_fields, descriptors = receive(sock)
        kind, fields = wire.read(kind_and_fields)
        expect(kind == wire.DIALLED and len(descriptors) == 1, f"a dial failed: {fields}")
        os.close(descriptors[0])
    sock.close()


@way
def gone_with_dials_under_way():
    for _ in range(20):
        sock = attached()
        for number in range(100):
            send(sock, dial(number))
        sock.close()


@way
def gone_at_each_point():
    for step in range(7):
        sock, alice = attached(), client(4 if step % 2 else 6)
        if step == 0:
            # its connection lies unread in the channel
            sock.close()
            expect_reset(alice)
            continue
        number, end = given(sock)
        if step == 1:
            sock.close()
        elif step == 2:
            end.close()
        elif step == 3:
            end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            end.close()
        elif step == 4:
            end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            sock.close()
        elif step == 5:
            send(sock, dial(1))
            end.close()
            sock.close()
        elif step == 6:
            end.shutdown(socket.SHUT_WR)
            end.shutdown(socket.SHUT_RD)
        expect_reset(alice)
        end.close()
        sock.close()


@way
def close_said_and_kept():
    # the client still gets what is sent; when the end is closed it is an end
    sock, alice = attached(), client()
    number, end = given(sock)
    for _ in range(10):
        send(sock, close(number))
    end.send(b"answer")
    expect(alice.recv(100) == b"answer", "nothing came")
    end.close()
    expect(alice.recv(100) == b"", "no end")
    alice.close()
    sock.close()


@way
def anothers_connection():
    for word in (close, wire.reset, lambda number: wire.answered(number, 0, 1)):
        older, alice = attached(1), client()
        number, end = given(older)
        newer = attached(1)
        send(newer, word(number))
        expect_dropped(newer)
        end.send(b"answer")
        expect(alice.recv(100) == b"answer", "the connection was harmed")
        send(older, close(number))
        for sock in (end, alice, older):
            sock.close()


@way
def never_reading_what_it_is_given():
    # more than its channel holds: the rest is held, and reset in time; who comes next is served
    sock = attached()
    clients = [client() for _ in range(400)]
    for alice in clients[-50:]:
        expect_reset(alice)
    newer, bob = attached(), client()
    _, end = given(newer)
    end.send(b"served")
    expect(bob.recv(100) == b"served", "the next is not served")
    for one in clients[:-50] + [sock, bob, end, newer]:
        one.close()


@way
def more_than_may_attach():
    # a fresh one always gets in
    waiting = [door() for _ in range(12)]
    sock = attached()
    newer = []
    for _ in range(12):
        newer.append(attached())
        # until interceptor has heard its hello it counts as one that says none, and those go first
        expect_alive(newer[-1])
    for one in newer:
        one.close()
    expect_dropped(sock)
    for one in waiting:
        expect_dropped(one)


@way
def in_and_out_without_end():
    # who come and go as fast as they can take nobody's turn, and do not fill the log
    until, log = time.monotonic() + 2, os.path.getsize(LOG)
    children = []
    while len(children) < 3 and 0 not in children:
        children.append(os.fork())
    while 0 in children and time.monotonic() < until:
        try:
            door().close()
        except OSError:
            pass
    if 0 in children:
        os._exit(0)
    worst = 0
    while time.monotonic() < until - 0.5:
        waited = Stopwatch()
        client().close()
        worst = max(worst, waited.elapsed())
        time.sleep(0.01)  # fewer than may be held
    for child in children:
        os.waitpid(child, 0)
    expect(worst < LOST, f"a connection took {worst:.2f} s")
    expect(os.path.getsize(LOG) - log < 10_000, f"{os.path.getsize(LOG) - log} bytes in the log")


def held():
    """What interceptor's descriptors are, counted by kind."""
    folder = f"/proc/{INTERCEPTOR}/fd"
    kinds = {}
    for name in os.listdir(folder):
        try:
            kind = os.readlink(f"{folder}/{name}").split(":")[0]
        except FileNotFoundError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def wait_for_the_service():
    """Until it has accepted all that dialled so far: a listener whose queue is full does not answer, as if it were dead."""
    until = time.monotonic() + wire.PATIENCE
    while waiting_to_be_accepted():
        expect(time.monotonic() < until, "the service accepts nobody")
        time.sleep(0.01)


def waiting_to_be_accepted():
    """By proc(5): of a listening socket (0A) the second number of the queues counts them."""
    count = 0
    for name in ("tcp", "tcp6"):
        with open(f"/proc/{SERVING}/net/{name}", encoding="ascii") as table:
            lines = [line.split() for line in table][1:]
        count += sum(int(line[4].split(":")[1], 16) for line in lines if line[3] == "0A")
    return count


def settles_at(before):
    """Whether it holds no more than it held, soon: ends are worked off as their events come, and that look may have met
    what is open for a moment."""
    until = time.monotonic() + wire.PATIENCE
    while any(count > before.get(kind, 0) for kind, count in held().items()):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(WAYS))
        return 0
    wrong = 0
    before = held()
    for name in sys.argv[1:] or WAYS:
        try:
            WAYS[name]()
            expect(settles_at(before), f"it holds {held()} and held {before}")
            print(name, "ok", flush=True)
        except (Wrong, OSError, TypeError) as error:
            wrong += 1
            print(name, "WRONG", type(error).__name__, error, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
