#!/usr/bin/python3
"""Listens where interceptor does and misbehaves towards the filterd that comes; run as root in a bare lab.
Prints `NAME ok` when filterd ended the exchange, or itself with exit code 75, in time and without a panic.

With names as arguments only these; with --list the names."""

import os
import select
import socket
import subprocess
import sys
import tempfile
import time

import wire
from stopwatch import Stopwatch
from wire import connection, dial_failed, dialled, hello, message, receive, send

PROGRAM = [os.environ.get("LAB", "/run/lab") + "/bin/imds-filterd", "--config", os.environ.get("LAB_CONFIG", "")]
TEMPORARY = 75
GET = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


class Wrong(Exception):
    """filterd did something else."""


def expect(true, what):
    if not true:
        raise Wrong(what)


class Filterd:
    """A running one, attached to us."""

    def __init__(self, greeted=True, minor=0):
        os.makedirs(os.path.dirname(wire.path()), exist_ok=True)
        if os.path.exists(wire.path()):
            os.unlink(wire.path())
        self.door = wire.seqpacket()
        self.door.bind(wire.path())
        os.chmod(wire.path(), 0o666)
        self.door.listen()
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(PROGRAM, stdout=subprocess.DEVNULL, stderr=self.log)
        self.channel, _ = self.door.accept()
        self.channel.settimeout(wire.PATIENCE)
        expect(receive(self.channel)[0] == hello(minor=2), "no hello")
        self.next = 1
        if greeted:
            self.say(hello(minor))
            self.say(wire.identity())
            self.hear(wire.NEEDS)
            self.serves()
            self.before = self.held()

    def say(self, record, descriptors=()):
        send(self.channel, record, descriptors)

    def held(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def hear(self, wanted):
        """The number in the next message of a kind; others are passed over."""
        while True:
            got = receive(self.channel)
            expect(got, "the channel ended")
            kind, fields = wire.read(got[0])
            if kind == wanted:
                return wire.number_in(fields) if len(fields) >= 8 else None

    def client(self, request=GET):
        """The client's end of a connection just handed over."""
        ours, theirs = socket.socketpair()
        ours.settimeout(wire.PATIENCE + 5)
        self.next += 1
        self.say(connection(self.next), [theirs])
        theirs.close()
        ours.sendall(request)
        return ours

    def upstream(self):
        """Answers the dial that comes next."""
        ours, theirs = socket.socketpair()
        ours.settimeout(wire.PATIENCE)
        self.say(dialled(self.hear(wire.DIAL)), [theirs])
        theirs.close()
        return ours

    def serves(self):
        """A well-behaved exchange still works."""
        alice = self.client()
        upstream = self.upstream()
        upstream.recv(4096)
        upstream.sendall(OK)
        upstream.close()
        got = alice.recv(4096)
        expect(got.startswith(b"HTTP/1.1 200 OK"), f"a good exchange got {got}")
        alice.close()

    def goes_on(self):
        """It comes to hold no more descriptors than at first, serves, and ends when it is told to."""
        until = time.monotonic() + wire.PATIENCE
        while self.held() > self.before:
            expect(time.monotonic() < until, f"it holds {self.held()} descriptors and held {self.before}")
            if select.select([self.channel], [], [], 0.01)[0]:
                expect(receive(self.channel), "the channel ended")
        self.serves()
        self.child.terminate()
        self.ended(0)

    def ended(self, code=TEMPORARY):
        try:
            status = self.child.wait(wire.PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise Wrong("it hangs") from None
        self.log.seek(0)
        log = self.log.read().decode()
        self.close()
        # log.rs says it so of a panic
        expect("internal error" not in log, log)
        expect(status == code, f"exit status {status}: {log}")

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        for one in (self.door, self.channel, self.log):
            one.close()


def status_of(alice):
    """The status of an answer, read to its end; None if the connection was cut without one."""
    got = b""
    try:
        while b"\r\n\r\n" not in got:
            piece = alice.recv(65536)
            if not piece:
                break
            got += piece
    except ConnectionError:
        pass
    return int(got.split()[1]) if got else None


@way
def no_greeting():
    Filterd(greeted=False).ended()
    for record in (wire.identity(), connection(1), dialled(0), hello(9, 8)):
        filterd = Filterd(greeted=False)
        filterd.say(record)
        filterd.ended()
    for record in (hello(), connection(1), dial_failed(0), message(wire.IDENTITY, b"\xff\0\0")):
        filterd = Filterd(greeted=False)
        filterd.say(hello())
        filterd.say(record)
        filterd.ended()


@way
def gone_at_each_point():
    for greeted in (False, True):
        filterd = Filterd(greeted)
        filterd.channel.close()
        filterd.ended()
    filterd = Filterd()
    alice = filterd.client()
    filterd.hear(wire.DIAL)
    filterd.channel.close()
    expect(status_of(alice) == 502, "an exchange without an upstream")
    filterd.ended()
    filterd = Filterd()
    filterd.channel.shutdown(socket.SHUT_WR)
    filterd.ended()


@way
def deaf_channel():
    # it cannot ask, so nobody is served, and nobody waits for ever
    filterd = Filterd()
    filterd.channel.shutdown(socket.SHUT_RD)
    expect(status_of(filterd.client()) in (502, 504), "served without an upstream")
    filterd.child.terminate()
    filterd.ended(0)


@way
def malformed():
    fields = b"\1\0\0\0\0\0\0\0"
    records = [b"\0", b"\xff" * wire.MAX_MESSAGE, b"\0" * (wire.MAX_MESSAGE + 1), b"x" * 100_000, b"HTTP/1.1 200 OK\r\n\r\n"]
    records += [message(kind, fields) for kind in (0, 6, 16, 17, 18, 255, 65535)]
    records += [message(wire.DIALLED, fields, length=length) for length in (0, 8, 15, 17, 2**32 - 1)]
    records += [message(wire.DIALLED, fields, major=2), message(wire.DIAL_FAILED, fields + b"\0")]
    records += [message(wire.DIAL_FAILED, fields + b"\6"), message(wire.CONNECTION, connection(1)[8:-1])]
    records += [message(wire.CONNECTION, connection(1)[8:].replace(b"\4\n", b"\5\n"))]
    for record in records:
        filterd = Filterd()
        filterd.say(record)
        filterd.ended()
    # a Subject with more groups than any has, a text longer than what follows, a value that nothing sends
    begin, end = connection(1)[8:20], connection(1)[23:]
    for subject in (b"\1\xff\xff\0\0", b"\0\2\xff\xff\0", b"\0\0\2\1\0\0\0\xff\xff", b"\3\0\0", b"\0\3\0", b"\0\0\3"):
        filterd = Filterd()
        filterd.say(message(wire.CONNECTION, begin + subject + end))
        filterd.ended()
    for record in (b"", hello(), wire.identity(), wire.identity(6)):
        filterd = Filterd()
        filterd.channel.send(record)
        filterd.ended()


@way
def wrong_number_of_descriptors():
    null = os.open("/dev/null", os.O_RDWR)
    for record, count in (
        (connection(1), 0),
        (connection(1), 2),
        (connection(1), 3),
        (connection(1), 253),
        (hello(), 1),
        (dial_failed(0), 1),
        (dialled(0), 0),
        (dialled(0), 2),
    ):
        filterd = Filterd()
        filterd.say(record, [null] * count)
        filterd.ended()
    os.close(null)


@way
def answers_nobody_asked_for():
    null = os.open("/dev/null", os.O_RDWR)
    for number in (1, 2, 2**63, 2**64 - 1):
        filterd = Filterd()
        filterd.say(dialled(number), [null])
        filterd.ended()
    os.close(null)


@way
def asks_of_every_kind():
    # one of the oldest minor has no such words
    for record in (wire.asked(1, GET), wire.about(wire.OPENED, 1), wire.about(wire.GONE, 1)):
        filterd = Filterd()
        filterd.say(record)
        filterd.ended()
    # nothing of the kind was asked for; empty; too long; cut short; a descriptor too many or too few
    asks = wire.asked(1, GET)
    for records in (
        [wire.about(wire.OPENED, 1)],
        [wire.about(wire.GONE, 1)],
        [wire.asked(1, b"")],
        [wire.asked(1, b"x" * 2049)],
        [asks[:20]],
        [wire.asked(1, b"GET /half"), wire.about(wire.OPENED, 1)],
        [wire.asked(1, b"GET /half"), wire.about(wire.GONE, 2)],
    ):
        filterd = Filterd(minor=2)
        for record in records:
            filterd.say(record)
        filterd.ended()
    filterd = Filterd(minor=2)
    for _ in range(50):
        filterd.say(wire.asked(7, b"GET /half"))
        filterd.hear(wire.OPEN)
        filterd.say(wire.about(wire.GONE, 7))
    filterd.goes_on()


def odd_descriptors():
    """What is no connected stream."""
    listener = socket.create_server(("127.0.0.1", 0))
    datagram, other = socket.socketpair(type=socket.SOCK_DGRAM)
    packets, _ = socket.socketpair(type=socket.SOCK_SEQPACKET)
    dead, gone = socket.socketpair()
    gone.close()
    reader, writer = os.pipe()
    odd = [os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY), os.open("/dev/zero", os.O_RDWR)]
    odd += [os.eventfd(1), os.memfd_create("odd"), select.epoll(), reader, writer]
    odd += [listener, datagram, other, packets, dead, socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]
    return odd


@way
def connections_that_are_none():
    filterd = Filterd()
    for number, odd in enumerate(odd_descriptors(), 100):
        filterd.say(connection(number), [odd])
    filterd.goes_on()


@way
def our_own_end_as_a_connection():
    # it takes us for a client, and what it does to a client it does to the channel
    filterd = Filterd()
    filterd.say(connection(100), [filterd.channel])
    filterd.channel.send(b"GET / HTTP/1.1\r\n\r\n")
    filterd.ended()


@way
def upstreams_that_are_none():
    filterd = Filterd()
    waiting = []
    for odd in odd_descriptors():
        waiting.append((filterd.client(), odd))
        filterd.say(dialled(filterd.hear(wire.DIAL)), [odd])
    for alice, odd in waiting:
        expect(status_of(alice) in (502, 504), f"an answer from {odd}")
        alice.close()
    filterd.goes_on()


@way
def upstream_that_is_the_client():
    # the request comes back as if it were the answer
    filterd = Filterd()
    ours, theirs = socket.socketpair()
    filterd.say(connection(50), [theirs])
    ours.sendall(GET)
    filterd.say(dialled(filterd.hear(wire.DIAL)), [ours])
    theirs.close()
    ours.close()
    filterd.serves()
    filterd.child.terminate()
    filterd.ended(0)


@way
def one_connection_twice():
    filterd = Filterd()
    ours, theirs = socket.socketpair()
    ours.settimeout(wire.PATIENCE)
    for _ in range(3):
        filterd.say(connection(60), [theirs])
    theirs.close()
    ours.sendall(b"nonsense\r\n\r\n")
    expect(status_of(ours) == 400, "no answer")
    ours.close()
    filterd.goes_on()


@way
def more_connections_than_the_limit():
    filterd = Filterd()
    kept = []
    for number in range(1000, 1500):
        ours, theirs = socket.socketpair()
        filterd.say(connection(number, uid=number), [theirs])
        theirs.close()
        kept.append(ours)
    closed = {filterd.hear(wire.CLOSE) for _ in range(300)}
    expect(len(closed) == 300, "not closed")
    for one in kept:
        one.close()
    for _ in range(200):
        filterd.hear(wire.CLOSE)
    filterd.goes_on()


@way
def dials_never_answered():
    filterd = Filterd()
    clients = [filterd.client() for _ in range(20)]
    for _ in clients:
        filterd.hear(wire.DIAL)
    waited = Stopwatch()
    expect({status_of(alice) for alice in clients} == {504}, "not given up")
    expect(waited.elapsed() < 3, "given up late")
    for alice in clients:
        alice.close()
    filterd.goes_on()


@way
def dials_answered_again():
    filterd = Filterd()
    alice = filterd.client()
    number = filterd.hear(wire.DIAL)
    pairs = [socket.socketpair() for _ in range(50)]
    for _, theirs in pairs:
        filterd.say(dialled(number), [theirs])
        filterd.say(dial_failed(number))
        theirs.close()
    first = pairs[0][0]
    expect(first.recv(4096).startswith(b"GET /latest"), "no request")
    first.sendall(OK)
    expect(status_of(alice) == 200, "no answer")
    expect(all(ours.recv(1) == b"" for ours, _ in pairs[1:]), "a socket was kept")
    for one in [alice] + [ours for ours, _ in pairs]:
        one.close()
    filterd.goes_on()


@way
def upstreams_that_answer_nonsense():
    filterd = Filterd()
    for answer in (
        b"",
        b"\0" * 1000,
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    ):
        alice = filterd.client()
        upstream = filterd.upstream()
        try:
            upstream.sendall(answer)
        except ConnectionError:
            pass
        upstream.close()
        expect(status_of(alice) == 502, f"passed on: {answer[:60]}")
        alice.close()
    filterd.goes_on()


@way
def upstream_without_end():
    # more than an answer may have: cut, so that nobody takes it for whole, and never held as a whole
    filterd = Filterd()
    alice = filterd.client()
    upstream = filterd.upstream()
    upstream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    got = b""
    try:
        for _ in range(10_000):
            upstream.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            got = got[-100:] + alice.recv(65536)
    except ConnectionError:
        pass
    else:
        raise Wrong("40 MiB were passed on")
    expect(not got.endswith(b"0\r\n\r\n"), "it looks whole")
    with open(f"/proc/{filterd.child.pid}/status", encoding="ascii") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    expect(resident < 64 * 1024, f"{resident} KiB")
    alice.close()
    upstream.close()
    filterd.goes_on()


@way
def never_reading():
    filterd = Filterd()
    ours, theirs = socket.socketpair()
    ours.close()
    try:
        for number in range(100, 40_000):
            filterd.say(connection(number), [theirs])
    except (ConnectionError, TimeoutError):
        pass
    theirs.close()
    filterd.ended()


@way
def connections_without_end():
    # what is under way goes on meanwhile
    filterd = Filterd()
    alice = filterd.client()
    upstream = filterd.upstream()
    ours, theirs = socket.socketpair()
    ours.close()
    filterd.channel.setblocking(False)
    began, answered = time.monotonic(), None
    while answered is None or time.monotonic() < began + 1:
        expect(time.monotonic() < began + wire.PATIENCE, "nobody else was served meanwhile")
        for _ in range(100):
            try:
                filterd.say(connection(99), [theirs])
            except BlockingIOError:
                break
        while select.select([filterd.channel], [], [], 0)[0]:
            receive(filterd.channel)
        if answered is None and select.select([upstream], [], [], 0)[0]:
            upstream.recv(4096)
            upstream.sendall(OK)
            answered = status_of(alice)
    expect(answered == 200, f"another was answered {answered} meanwhile")
    for one in (alice, upstream, theirs):
        one.close()
    filterd.channel.settimeout(wire.PATIENCE)
    filterd.goes_on()


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(WAYS))
        return 0
    wrong = 0
    for name in sys.argv[1:] or WAYS:
        try:
            WAYS[name]()
            print(name, "ok", flush=True)
        except (Wrong, OSError, TypeError) as error:
            wrong += 1
            print(name, "WRONG", type(error).__name__, error, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
