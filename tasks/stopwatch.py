"""Wall time less what the scheduler of a shared machine adds: the time that this thread stood in line for a core."""

from __future__ import annotations

import os
import time


class Stopwatch:
    """`now()` is in ms and goes on while the thread works, sleeps, reads or waits for a lock, and stands still while it is ready
    to run and another has its core (Linux: second number of schedstat). Where the kernel does not tell, it is wall time.

    Only of the thread that made it. Threads that it starts and waits for count whole: too many of them are a release's own fault.
    """

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def now(self) -> float:
        queued = int(os.pread(self._file, 96, 0).split()[1]) if self._file >= 0 else 0
        return (time.perf_counter_ns() - queued) / 1e6

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)
