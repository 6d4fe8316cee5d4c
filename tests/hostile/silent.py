#!/usr/bin/python3
"""One user's clients that leave the daemons waiting, each kind in its own way, until they are let go; another user is
served meanwhile, also one that reads slowly. Run as root.
Must not read what never_reads was sent: it would not be silent then.

silent.py SECONDS SILENT_USER:PATH BIG_PATH OTHER_USER:PATH"""

import asyncio
import select
import sys
import time

import daemons
from exchange import VERSIONS, Wrong, connected, once, read_to_end, request, whole
from stopwatch import Stopwatch
from users import Process, User

OF_EACH_KIND = 10
# What the other user's exchanges may take while the silent ones are there.
LONGEST_EXCHANGE = 1.0
# 4 KiB a second: slow, but never silent.
SLOW_PIECE, SLOW_EVERY = 2048, 0.5
GONE = select.POLLERR | select.POLLHUP


def never_asks(version, _small, _big):
    return connected(version)


def never_finishes_asking(version, small, _big):
    sock = connected(version)
    sock.sendall(request(version, small)[:-2])
    return sock


def never_reads(version, _small, big):
    sock = connected(version)
    sock.sendall(request(version, big))
    return sock


def never_closes(version, small, _big):
    sock = connected(version)
    sock.sendall(request(version, small))
    read_to_end(sock)
    return sock


KINDS = (never_asks, never_finishes_asking, never_reads, never_closes)


def silent(seconds, big):
    def work(user, process):
        kinds = {
            (kind.__name__, version): [kind(version, user.path, big) for _ in range(OF_EACH_KIND)]
            for kind in KINDS
            for version in VERSIONS
        }
        process.say("begun")
        began = time.monotonic()
        for (name, version), socks in kinds.items():
            for sock in socks:
                wait_until_let_go(sock, began + seconds, name)
            process.say(f"{name} {version} let go after {time.monotonic() - began:.1f} s at most")
        process.say("end")

    return work


def wait_until_let_go(sock, until, name):
    poll = select.poll()
    poll.register(sock, 0)
    for _, event in poll.poll(max(0, until - time.monotonic()) * 1000):
        if event & GONE:
            return
    raise Wrong(f"a client that {name} is still held")


def busy(user, process):
    """Exchanges one after the other until told to end."""
    asyncio.run(serve_oneself(user, process))


async def serve_oneself(user, process):
    told = asyncio.create_task(asyncio.to_thread(process.hear))
    slowest, count = 0.0, 0
    while not told.done():
        waited = Stopwatch()
        status, _ = await once(VERSIONS[count % 2], user.path)
        slowest, count = max(slowest, waited.elapsed()), count + 1
        if status != 200:
            raise Wrong(f"status {status}")
        await asyncio.sleep(0.05)
    process.say(f"{count} exchanges, the slowest {slowest:.3f}")


def slow(seconds, big):
    """Takes little at a time as long as the silent ones are there, then the rest."""

    def work(user, process):
        sock, answer = connected(4, room=SLOW_PIECE), []
        sock.sendall(request(4, big))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            answer.append(sock.recv(SLOW_PIECE))
            time.sleep(SLOW_EVERY)
        answer.append(read_to_end(sock))
        process.say(f"a slow reader got {whole(b''.join(answer))[0]}")

    return work


def main():
    seconds, first, big, second = float(sys.argv[1]), User(sys.argv[2]), sys.argv[3], User(sys.argv[4])
    at_rest = daemons.descriptors()
    quiet, loud = Process(first, silent(seconds, big)), Process(second, busy)
    patient = Process(second, slow(seconds, big))
    while (line := quiet.hear()) != "end":
        print(line, flush=True)
    loud.say("end")
    line = loud.hear()
    print(line)
    print(patient.hear())
    daemons.wait_for(at_rest)
    served = float(line.split()[-1]) <= LONGEST_EXCHANGE
    return 0 if served and all([process.ended_well() for process in (quiet, loud, patient)]) else 1


if __name__ == "__main__":
    sys.exit(main())
