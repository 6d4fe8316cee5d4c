#!/usr/bin/python3
"""Destroys parts of the capture over and over while COMMAND runs; exit status is COMMAND's.
Must not touch what holds the line while it does: the parts are named by the caller."""

import subprocess
import sys
import time

import restored


def main():
    parts, command = sys.argv[1].split(","), sys.argv[2:]
    unknown = [part for part in parts if part not in restored.DISTURBANCES]
    if unknown or not command:
        print("disturb.py: PART,PART COMMAND...; parts:", *restored.DISTURBANCES, file=sys.stderr)
        return 64
    running = subprocess.Popen(command)
    rounds = 0
    while running.poll() is None:
        for part in parts:
            try:
                restored.DISTURBANCES[part]()
            except (subprocess.CalledProcessError, IndexError):
                continue  # somebody else, who puts it back, was quicker or slower
        rounds += 1
        # Now and then all is whole for a moment, as it is on a machine where something flushes at times.
        time.sleep(0.01 * (rounds % 8))
    print("disturbed", rounds, "times", file=sys.stderr)
    return running.returncode if rounds > 2 else 71


if __name__ == "__main__":
    sys.exit(main())
