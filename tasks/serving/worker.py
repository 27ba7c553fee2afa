"""One thread that owns the engine, behind a bounded queue: more work than it can do is refused at the door, at once.

Greedy batches: what queued up while it was busy is done together, and it never waits for more. A request that would wait
longer than `patience_s` is refused while others can still be answered in time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from tasks.domain.errors import Unavailable

log = logging.getLogger("freshrank.serving")
Deliver = Callable[[Any, BaseException | None], None]
MOST_TOGETHER = 16
WEIGHT = 0.05  # of the newest measurement of what a job takes


class Overloaded(Unavailable):
    """The queue is full; the caller may try again in a second."""


class Groupable(ABC):
    """A job that can be done together with others of its kind."""

    __slots__ = ()

    @abstractmethod
    def __call__(self) -> Any: ...

    @abstractmethod
    def together(self, jobs: Sequence[Any]) -> list[Any]:
        """The results of `jobs`, this one among them, in their order; an exception stands for a job that failed."""


class Worker:
    """Runs jobs in the order they came, groupable ones of a batch first. `deliver` is called on the worker's thread."""

    def __init__(self, limit: int, name: str = "engine", patience_s: float = float("inf")) -> None:
        self._limit = limit
        self._patience_s = patience_s
        self._usual_s = 0.0  # time of one job, as part of its batch
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Deliver] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._idle = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        return self._pending

    def require_room(self) -> None:
        """Raises Overloaded where `submit` would."""
        if self._pending >= self._limit or (self._pending > 1 and self._pending * self._usual_s > self._patience_s):
            raise Overloaded(f"{self._pending} requests are waiting already; try again in a second")

    def submit(self, job: Callable[[], Any], deliver: Deliver) -> None:
        """Queue a job. Raises Overloaded without waiting when too many are queued or running."""
        with self._lock:
            self.require_room()
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
        ended = False
        while not ended:
            entries = [self._jobs.get()]
            while len(entries) < MOST_TOGETHER and entries[-1] is not None:
                try:
                    entries.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            ended = entries[-1] is None
            self._do([entry for entry in entries if entry is not None])

    def _do(self, entries: list[tuple[Callable[[], Any], Deliver]]) -> None:
        """Groupable jobs of one batch together, the others alone; each caller gets its own result or error."""
        grouped = [entry for entry in entries if isinstance(entry[0], Groupable)]
        alone = [entry for entry in entries if not isinstance(entry[0], Groupable)]
        for part in ([grouped] if grouped else []) + [[entry] for entry in alone]:
            began = time.perf_counter()
            results = _done([job for job, _ in part])
            took = (time.perf_counter() - began) / len(part)
            with self._idle:
                if part is grouped:
                    self._usual_s += WEIGHT * (took - self._usual_s)
                self._pending -= len(part)
                self._idle.notify_all()
            for (_, deliver), result in zip(part, results, strict=True):
                failed = isinstance(result, BaseException)
                try:
                    deliver(None if failed else result, result if failed else None)
                except Exception:  # a closed event loop: nobody waits any more
                    log.info("reply=undelivered")


def _done(jobs: list[Callable[[], Any]]) -> list[Any]:
    try:
        first = jobs[0]
        return first.together(jobs) if isinstance(first, Groupable) else [first()]
    except Exception as err:  # the callers get it; the thread must live on
        return [err] * len(jobs)
