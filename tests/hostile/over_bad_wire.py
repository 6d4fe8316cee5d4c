#!/usr/bin/python3
"""Small and large exchanges of several users over a wire that somebody has spoiled; every byte must be right. Run as root.
Must not try again: TCP has to do that.

over_bad_wire.py LARGE_PATH FILE USER:PATH USER:PATH..."""

import asyncio
import sys

import daemons
import exchange
from exchange import VERSIONS, Wrong, once
from users import Process, User

SMALL, LARGE = 40, 2
# A lost segment costs a second, and a second loss of the same one two more.
exchange.PATIENCE = 60


def work_of(paths, large_path, large_body):
    async def small(user, number):
        path = paths[number // 2 % len(paths)]
        status, _ = await once(VERSIONS[number % 2], path)
        if status != (200 if path == user.path else 403):
            raise Wrong(f"{user.name} got {status} for {path}")

    async def large(number):
        if await once(VERSIONS[number % 2], large_path) != (200, large_body):
            raise Wrong("another body")

    async def all_at_once(user):
        await asyncio.gather(*(small(user, n) for n in range(SMALL)), *(large(n) for n in range(LARGE)))

    def work(user, process):
        asyncio.run(all_at_once(user))
        process.say("done")

    return work


def main():
    large_path, file, users = sys.argv[1], sys.argv[2], [User(pair) for pair in sys.argv[3:]]
    with open(file, "rb") as body:
        work = work_of([user.path for user in users], large_path, body.read())
    at_rest = daemons.descriptors()
    processes = [Process(user, work) for user in users]
    for process in processes:
        print(process.user.name, process.hear(), flush=True)
    daemons.wait_for(at_rest)
    return 0 if all([process.ended_well() for process in processes]) else 1


if __name__ == "__main__":
    sys.exit(main())
