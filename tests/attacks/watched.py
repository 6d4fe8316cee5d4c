#!/usr/bin/python3
"""Runs COMMAND while the sniffer listens in the cloud namespace, then prints what was seen there after COMMAND's own output.
Must not be run outside the lab. Exit status is COMMAND's."""

import os
import shlex
import subprocess
import sys

IN_CLOUD = shlex.split(os.environ.get("IN_CLOUD", "imds-lab in cloud --"))
SNIFF = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sniff.py")


def main():
    command = sys.argv[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    sniffer = subprocess.Popen(
        IN_CLOUD + ["/usr/bin/python3", SNIFF], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if sniffer.stdout.readline() != "ready\n":
        print("watched.py: the sniffer did not start", file=sys.stderr)
        return 71
    # COMMAND keeps the caller's descriptors: tests talk to programs they began earlier.
    status = subprocess.run(command, check=False, close_fds=False).returncode
    seen, _ = sniffer.communicate()
    sys.stdout.write(seen)
    if sniffer.returncode != 0 or "dropped 0\n" not in seen:
        print("watched.py: the sniffer saw not everything", file=sys.stderr)
        return 71
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
