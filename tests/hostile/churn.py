#!/usr/bin/python3
"""Connections come and go at a bounded rate for some time; nothing of them may stay with the daemons. Run as root.
Must not be faster than RATE: this is about what is left over, not about speed.

churn.py SECONDS USER:PATH USER:PATH..."""

import asyncio
import itertools
import sys
import time

import daemons
from exchange import VERSIONS, Connection, Wrong
from users import Process, User

# Connections a second and user.
RATE = 250
AT_ONCE = 16
# Until the daemons have what memory they need for this load.
WARM_UP_SECONDS = 2


async def finished(connection, path):
    """The service ends it."""
    return await connection.ask(path)


async def kept(connection, path):
    """Used twice, and ended by us."""
    await connection.ask(path, keep=True)
    return await connection.ask(path, keep=True)


async def cut(connection, path):
    answer = await connection.ask(path, keep=True)
    connection.reset()
    return answer


ENDS = (finished, kept, cut)


async def one(number, path, room):
    async with room:
        connection = await Connection.to(VERSIONS[number % 2])
        try:
            status, _ = await ENDS[number // 2 % len(ENDS)](connection, path)
        finally:
            await connection.close()
        if status != 200:
            raise Wrong(f"status {status}")


async def for_seconds(seconds, path):
    """How many there were."""
    room, began = asyncio.Semaphore(AT_ONCE), time.monotonic()
    running = set()
    for number in itertools.count():
        due = began + number / RATE
        if due >= began + seconds:
            break
        await asyncio.sleep(max(0, due - time.monotonic()))
        running.add(asyncio.create_task(one(number, path, room)))
        running = await without_those_done(running)
    await asyncio.gather(*running)
    return number


async def without_those_done(running):
    """What failed is raised here."""
    done = {task for task in running if task.done()}
    for task in done:
        task.result()
    return running - done


def work(user, process):
    while (seconds := process.hear()) != "end":
        process.say(str(asyncio.run(for_seconds(float(seconds), user.path))))


def run(processes, seconds):
    for process in processes:
        process.say(str(seconds))
    return sum(int(process.hear()) for process in processes)


def main():
    seconds, users = float(sys.argv[1]), [User(pair) for pair in sys.argv[2:]]
    at_rest = daemons.descriptors()
    processes = [Process(user, work) for user in users]
    run(processes, WARM_UP_SECONDS)
    daemons.wait_for(at_rest)
    before = daemons.memory()
    print("churned", run(processes, seconds), "connections in", seconds, "s", flush=True)
    daemons.wait_for(at_rest)
    daemons.expect_no_growth(before, daemons.memory())
    for process in processes:
        process.say("end")
    return 0 if all([process.ended_well() for process in processes]) else 1


if __name__ == "__main__":
    sys.exit(main())
