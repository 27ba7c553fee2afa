"""A budget for each ranking stage: one is begun only if what it usually takes still fits in before the deadline."""

from __future__ import annotations

from collections.abc import Callable

WEIGHT = 0.1  # of the newest measurement
TRIED_AGAIN = 0.95  # a stage that is left out is expected to take a little less next time, so that it is tried again


class StageTimes:
    """What each stage took lately, in seconds. Used by one thread."""

    def __init__(self) -> None:
        self._usual: dict[str, float] = {}

    def usual(self, stage: str) -> float:
        return self._usual.get(stage, 0.0)

    def took(self, stage: str, seconds: float) -> None:
        before = self._usual.get(stage, seconds)
        self._usual[stage] = before + WEIGHT * (seconds - before)

    def left_out(self, stage: str) -> None:
        self._usual[stage] = self.usual(stage) * TRIED_AGAIN


class Budget:
    """Asked before each stage of one request; measures the stages between the questions.

    Args:
        stages: in the order in which they are asked about.
        deadline: on `clock`; infinity never cuts.
    """

    def __init__(self, stages: tuple[str, ...], deadline: float, clock: Callable[[], float], times: StageTimes) -> None:
        self._stages, self._deadline, self._clock, self._times = stages, deadline, clock, times
        self._asked = 0
        self._running: tuple[str, float] | None = None
        self.cut_short = False

    def __call__(self) -> bool:
        now = self._clock()
        self._stop(now)
        stage = self._stages[min(self._asked, len(self._stages) - 1)]
        self._asked += 1
        if now + self._times.usual(stage) >= self._deadline:
            self._times.left_out(stage)
            self.cut_short = True
            return False
        self._running = (stage, now)
        return True

    def finish(self) -> None:
        """The last stage is over."""
        if self._running is not None:
            self._stop(self._clock())

    def _stop(self, now: float) -> None:
        if self._running is not None:
            self._times.took(self._running[0], now - self._running[1])
            self._running = None
