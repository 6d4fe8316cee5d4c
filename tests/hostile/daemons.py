"""What the two daemons hold: descriptors and memory, from /proc. Needs root.
Must not touch them."""

import os
import sys
import time

PIDS = {name: int(os.environ[f"LAB_{name.upper()}_PID"]) for name in ("interceptor", "filterd")}
# How long what is over may take to be gone: a reset is seen at once, on a loaded machine within seconds.
LONGEST = 20
LOOK_EVERY = 0.01
# What an allocator may keep between two moments of rest, by how the pieces happen to lie. It does not go on: seen after
# three thousand connections. Those who look make so many connections that one kept kilobyte of each would be more.
SLACK_KIB = 1024


def descriptors():
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in PIDS.items()}


def memory():
    """KiB that are their own, without the pages of files."""
    return {name: resident(pid) for name, pid in PIDS.items()}


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    raise LookupError("RssAnon")


def wait_for(most):
    """Until they hold no more descriptors than `most` says: that look may have met one that is open for a moment."""
    until = time.monotonic() + LONGEST
    while any((now := descriptors())[name] > most[name] for name in PIDS):
        if time.monotonic() > until:
            sys.exit(f"left over: {now} descriptors, should be {most}")
        time.sleep(LOOK_EVERY)


def expect_no_growth(before, after):
    expect_at_most(SLACK_KIB, {name: after[name] - before[name] for name in PIDS}, [before, after])


def expect_no_steady_growth(looks, most_kib):
    """What is kept of each connection is more after every pass; what an allocator keeps of the busiest moment is not."""
    passes = list(zip(looks, looks[1:]))
    least = {name: min(after[name] - before[name] for before, after in passes) for name in PIDS}
    expect_at_most(most_kib, least, looks)


def expect_at_most(most_kib, grown, looks):
    print("grown", *(f"{name}={kib}" for name, kib in grown.items()), "KiB", flush=True)
    if max(grown.values()) > most_kib:
        sys.exit("memory grew, in KiB: " + ", then ".join(map(str, looks)))
