"""One thread that owns the engine, behind a bounded queue: more work than it can do is refused at the door, at once.

It never sleeps to fill a batch and never holds more than `limit` requests, so memory and waiting time stay bounded.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from tasks.domain.errors import Unavailable

log = logging.getLogger("freshrank.serving")
Deliver = Callable[[Any, BaseException | None], None]


class Overloaded(Unavailable):
    """The queue is full; the caller may try again in a second."""


class Worker:
    """Runs jobs one at a time in the order they came. `deliver` is called on the worker's thread."""

    def __init__(self, limit: int, name: str = "engine") -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Deliver] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._idle = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        return self._pending

    def submit(self, job: Callable[[], Any], deliver: Deliver) -> None:
        """Queue a job. Raises Overloaded without waiting when `limit` jobs are queued or running."""
        with self._lock:
            if self._pending >= self._limit:
                raise Overloaded(f"{self._pending} requests are waiting already; try again in a second")
            self._pending += 1
        self._jobs.put((job, deliver))

    def run(self, job: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Run a job on the worker's thread and wait for it: for callers that have a thread of their own."""
        done = threading.Event()
        kept: list[Any] = [None, None]

        def deliver(result: Any, error: BaseException | None) -> None:
            kept[:] = result, error
            done.set()

        self.submit(job, deliver)
        if not done.wait(timeout_s):
            raise Unavailable(f"the engine did not answer within {timeout_s:.0f} s")
        if kept[1] is not None:
            raise kept[1]
        return kept[0]

    def finish(self, timeout_s: float) -> bool:
        """Wait until nothing is queued or running, then end the thread. False when time ran out."""
        deadline = time.monotonic() + timeout_s
        with self._idle:
            while self._pending and (left := deadline - time.monotonic()) > 0:
                self._idle.wait(left)
            clean = self._pending == 0
        self._jobs.put(None)
        return clean

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, deliver = entry
            result: Any = None
            error: BaseException | None = None
            try:
                result = job()
            except Exception as err:  # the caller gets it; the thread must live on
                error = err
            with self._idle:
                self._pending -= 1
                self._idle.notify_all()
            try:
                deliver(result, error)
            except Exception:  # a closed event loop: nobody waits any more
                log.info("reply=undelivered")
