"""tests/src/stopwatch.rs for programs in Python: time in which the machine kept a processor to itself does not count.
Must be imported before anything is opened that others are to see closed: it forks a watcher for each processor."""

import mmap
import os
import time

TICK = 0.005
# Who sleeps for a tick on a processor that is there wakes up no later than this.
LATEST = 0.007


class Stopwatch:
    """Started at what is waited from."""

    def __init__(self):
        self._away = sum(_away)
        self._begun = time.monotonic()

    def on_the_wall(self):
        """For what must not be over too early."""
        return time.monotonic() - self._begun

    def elapsed(self):
        """For what must not take too long: without the time that any of the processors was away."""
        wall = self.on_the_wall()
        before = list(_ticks)
        # what just came back may have been used before its watcher has told of it
        while any(now == then for now, then in zip(_ticks, before)):
            time.sleep(TICK)
        return max(0, wall - (sum(_away) - self._away))


def _watch(place, number, parent):
    os.sched_setaffinity(0, {number})
    while os.getppid() == parent:
        begun = time.monotonic()
        time.sleep(TICK)
        slept = time.monotonic() - begun
        if slept > LATEST:
            _away[place] += slept
        _ticks[place] += 1


_numbers = sorted(os.sched_getaffinity(0))
_shared = memoryview(mmap.mmap(-1, 16 * len(_numbers))).cast("d")
_ticks, _away = _shared[: len(_numbers)], _shared[len(_numbers) :]
for _place, _number in enumerate(_numbers):
    _parent = os.getpid()
    if os.fork() == 0:
        try:
            os.closerange(0, 65536)
            _watch(_place, _number, _parent)
        finally:
            os._exit(0)
