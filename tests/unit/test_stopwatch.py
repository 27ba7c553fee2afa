"""The stopwatch counts what the thread itself does or waits for, and not what other processes do with its core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.stopwatch import Stopwatch

SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


def worked(watch: Stopwatch, ms: float) -> tuple[float, float]:
    """(ms by the stopwatch, wall ms) of so much CPU time."""
    began, wall, until = watch.now(), time.perf_counter(), time.thread_time() + ms / 1000
    while time.thread_time() < until:
        pass
    return watch.now() - began, (time.perf_counter() - wall) * 1000


def test_sleep_and_work_count():
    watch = Stopwatch()
    began = watch.now()
    time.sleep(0.03)
    assert watch.now() - began >= 30
    took, _ = worked(watch, 30)
    assert took >= 29.5


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not tell")
def test_a_core_that_others_have_does_not_count():
    """Three busy processes on this thread's core: most of the wall time is theirs."""
    cores = os.sched_getaffinity(0)
    one = {min(cores)}
    os.sched_setaffinity(0, one)  # inherited by what is started here
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(3)]
    try:
        time.sleep(0.3)
        took, wall = worked(Stopwatch(), 60)
    finally:
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, cores)
    assert 55 <= took < 0.75 * wall


def test_without_the_kernels_word_it_is_wall_time(monkeypatch):
    def refused(*told):
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", refused)
    before, now, after = time.perf_counter_ns(), Stopwatch().now(), time.perf_counter_ns()
    assert before <= now * 1e6 <= after
