"""Asks without a pause until /run/enough is there, on a connection that is kept and on a new one in turn. Then says how many
answers there were, how many requests failed, and the longest wait in milliseconds, without the time that the machine itself
stood still. Must not repeat what failed."""

import http.client
import os
import threading
import time

ADDRESS = "169.254.169.254"
TICK = 0.005


class Clock(threading.Thread):
    """Seconds that one processor was there: a hypervisor takes it away for moments, and nobody else can go on then."""

    def __init__(self, processor):
        super().__init__(daemon=True)
        self.processor, self.passed = processor, 0.0

    def run(self):
        os.sched_setaffinity(0, {self.processor})
        before = time.monotonic()
        while True:
            time.sleep(TICK)
            now = time.monotonic()
            self.passed += min(now - before, 2 * TICK)
            before = now


CLOCKS = [Clock(processor) for processor in os.sched_getaffinity(0)]


def now():
    return [clock.passed for clock in CLOCKS]


def since(began):
    """What has passed on whichever processor was away the longest."""
    return min(passed - before for passed, before in zip(now(), began))


def main():
    for clock in CLOCKS:
        clock.start()
    fine, failed, worst = 0, 0, 0
    kept = http.client.HTTPConnection(ADDRESS, timeout=5)
    print("started", flush=True)
    while not os.path.exists("/run/enough"):
        new = http.client.HTTPConnection(ADDRESS, timeout=5)
        for connection in new, kept:
            began = now()
            try:
                connection.request("GET", "/latest/meta-data/hostname")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    fine += 1
                else:
                    print(answer.status, flush=True)
                    failed += 1
            except (OSError, http.client.HTTPException) as error:
                print(repr(error), flush=True)
                failed += 1
                connection.close()
            worst = max(worst, since(began))
        new.close()
    print("fine=%d\nfailed=%d\nworst=%d" % (fine, failed, worst * 1000))


main()
