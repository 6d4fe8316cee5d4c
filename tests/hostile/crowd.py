#!/usr/bin/python3
"""Many connections of several users at once, all open together, each used twice. Run as root.
Must not count a connection as served for less than the right answer: one's own path and nobody else's.

crowd.py COUNT USER:PATH USER:PATH..."""

import asyncio
import resource
import sys

import daemons
from exchange import VERSIONS, Connection, Wrong
from users import Process, User

# The budget for both daemons together.
KIB_FOR_A_CONNECTION = 64


class Crowd:
    """The connections of one user, half of them for each family."""

    def __init__(self, user, paths):
        self.user, self.paths = user, paths

    async def open(self, count):
        opening = [Connection.to(VERSIONS[number % 2]) for number in range(count)]
        self.connections = await asyncio.gather(*opening)

    async def ask(self, keep):
        """Everybody at once; the paths in turn."""
        asking = [
            self.one(connection, self.paths[(number // 2) % len(self.paths)], keep)
            for number, connection in enumerate(self.connections)
        ]
        statuses = await asyncio.gather(*asking)
        return f"served={statuses.count(200)} refused={statuses.count(403)}"

    async def one(self, connection, path, keep):
        status, _ = await connection.ask(path, keep)
        if status != (200 if path == self.user.path else 403):
            raise Wrong(f"{self.user.name} got {status} for {path}")
        return status

    async def close(self):
        await asyncio.gather(*(connection.close() for connection in self.connections))


def live(count, paths):
    def work(user, process):
        asyncio.run(steps(user, process))

    async def steps(user, process):
        crowd = Crowd(user, paths)
        await crowd.open(count)
        process.say("open")
        for keep in (True, False):
            process.hear()
            process.say(await crowd.ask(keep))
        await crowd.close()
        process.say("closed")

    return work


def main():
    count, users = int(sys.argv[1]), [User(pair) for pair in sys.argv[2:]]
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count, 2 * count))
    at_rest, before = daemons.descriptors(), daemons.memory()
    work = live(count // len(users), [user.path for user in users])
    processes = [Process(user, work) for user in users]
    for process in processes:
        process.hear()
    print("open", count)
    ask(processes, "first")
    # between its requests a connection costs neither daemon a descriptor
    daemons.wait_for(at_rest)
    expect_within_budget(count, before, daemons.memory())
    ask(processes, "second")
    for process in processes:
        process.hear()
    daemons.wait_for(at_rest)
    print("closed", count)
    return 0 if all([process.ended_well() for process in processes]) else 1


def ask(processes, name):
    for process in processes:
        process.say("go")
    for process in processes:
        print(name, process.user.name, process.hear(), flush=True)


def expect_within_budget(count, before, after):
    each = sum(after.values()) / count - sum(before.values()) / count
    print(f"memory {each:.1f} KiB a connection", flush=True)
    if each > KIB_FOR_A_CONNECTION:
        sys.exit(f"more than {KIB_FOR_A_CONNECTION} KiB a connection: from {before} to {after}")


if __name__ == "__main__":
    sys.exit(main())
