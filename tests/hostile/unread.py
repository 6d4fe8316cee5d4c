#!/usr/bin/python3
"""interceptor with a log that nobody reads, and with one whose reader is gone; run as root in a lab without daemons.
Prints `NAME ok` when it took leave of a filterd and greeted another, each with a line of the log, and served.
Not about filterd's log, which filterd's own tests do not read."""

import contextlib
import os
import socket
import subprocess
import sys

PROGRAM = ["imds-interceptor", "--config", os.environ["LAB_CONFIG"]]
ASK = ["imds-lab", "as", "alice", "--", "curl", "-fsS", "-o", "/dev/null", "--max-time", "5"]


def fill(writer):
    piece = b"x" * 512
    with contextlib.suppress(BlockingIOError):
        while True:
            writer.send(piece, socket.MSG_DONTWAIT)


def unread(reader, writer):
    fill(writer)
    return reader


def gone(reader, _):
    reader.close()


def expect_served(interceptor):
    for step in ("stop", "start"):
        subprocess.run(["imds-lab", step, "filterd"], check=True)
    subprocess.run([*ASK, "http://169.254.169.254/latest/meta-data/"], check=True)
    if interceptor.poll() is not None:
        sys.exit("interceptor has ended")


def main():
    for way in (unread, gone):
        reader, writer = socket.socketpair()
        with subprocess.Popen(PROGRAM, stderr=writer) as interceptor:
            try:
                # waits until interceptor has obeyed
                subprocess.run(["imds-lab", "start", "filterd"], check=True)
                kept = way(reader, writer)
                expect_served(interceptor)
                subprocess.run(["imds-lab", "stop", "filterd"], check=True)
                print(way.__name__, "ok", flush=True)
                del kept
            finally:
                interceptor.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
