"""Runs ways, each in a process of its own, and prints a line for each: NAME FAMILY OUTCOME SOURCE.
Must not decide what is right: the tests compare the outcomes with what the world they made should show.

OUTCOME is one of
  reached            the service itself answered, or something was granted
  filtered:STATUS    the filter answered and refused
  refused:ERRNO      the kernel refused, or the connection was reset
  timeout            nothing came back
  unavailable:WHY    this kernel lacks what the way needs
SOURCE is the local end of the socket, `-` if there was none: it names the way in the sniffer's lines."""

import argparse
import os
import select
import signal
import sys
import time

import place

# A way that hangs in the kernel (io_uring) is ended by its parent.
LONGEST = 3 * place.PATIENCE + 2
AT_ONCE = 16


def main(ways, about):
    arguments = read_arguments(about)
    chosen = choose(ways, arguments.family, arguments.name)
    if arguments.list:
        for one, family in chosen:
            print(one.name, family, one.bare[family])
    else:
        run_all(chosen)
    return 0


def read_arguments(about):
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--family", type=int, choices=(4, 6))
    parser.add_argument("--list", action="store_true", help="names, families and what a bare world shows")
    parser.add_argument("name", nargs="*")
    return parser.parse_args()


def choose(ways, family, names):
    unknown = [name for name in names if name not in ways]
    if unknown:
        sys.exit("no such way: " + " ".join(unknown))
    return [
        (one, version)
        for one in ways.values()
        if not names or one.name in names
        for version in one.families
        if family in (None, version)
    ]


def run_all(chosen):
    """Some at once; a process for each, so that namespaces and limits are its own."""
    waiting, running = list(chosen), {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            start(*waiting.pop(0), running)
        ready, _, _ = select.select(list(running), [], [], 0.2)
        for reader in ready:
            finish(reader, running)
        for _, pid, began in running.values():
            if time.monotonic() - began > LONGEST:
                os.kill(pid, signal.SIGKILL)


def start(one, family, running):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, outcome(one.run, family).encode())
        os._exit(0)
    os.close(writer)
    running[reader] = (f"{one.name} {family}", pid, time.monotonic())


def finish(reader, running):
    text = os.read(reader, 4096).decode()
    os.close(reader)
    name, pid, _ = running.pop(reader)
    os.waitpid(pid, 0)
    print(name, text or "timeout -", flush=True)


def outcome(run, family):
    try:
        result = run(family)
    except place.Unavailable as why:
        result = "unavailable:" + str(why).replace(" ", "_")
    except TimeoutError as error:
        # ETIMEDOUT is the kernel's own word for it.
        result = "timeout" if error.errno is None else "refused:" + place.name_of(error)
    except OSError as error:
        result = "refused:" + place.name_of(error)
    return f"{result} {local_ends()}"


def local_ends():
    """Where the sockets were bound: asked last, when the kernel has chosen the ports."""
    ends = set()
    for sock in place.OPENED:
        try:
            address, port = sock.getsockname()[:2]
        except OSError:
            continue
        if port:
            ends.add(f"{address.removeprefix('::ffff:')}:{port}")
    return ",".join(sorted(ends)) or "-"
