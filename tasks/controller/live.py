"""The last minutes of traffic, for people: request rate, error rate, p50 and p99 of each release, from what the router
counts. Nothing is decided here; a sample that cannot be had is a gap."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.adapters.router import Counts, Latencies, Router
from tasks.domain.errors import Unavailable

PERIOD_S = 5.0
KEPT = 180  # a quarter of an hour


@dataclass(frozen=True, slots=True)
class _Reading:
    at: datetime
    counts: dict[str, Counts]
    waited: Latencies


class Live:
    """Reads the router's counters every `PERIOD_S` and keeps the differences. Lost with the controller: it is a picture."""

    def __init__(self, router: Router, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._router = router
        self._clock = clock
        self._last: _Reading | None = None
        self._points: deque[dict[str, Any]] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(PERIOD_S)

    async def sample(self) -> None:
        try:
            reading = _Reading(self._clock(), await self._router.observe(), await self._router.latencies())
        except Unavailable:
            self._last = None  # the next difference would be spread over the gap
            return
        if self._last is not None:
            self._points.append(_point(self._last, reading))
        self._last = reading

    def points(self) -> list[dict[str, Any]]:
        """Oldest first: {at, releases: {12 digits: {rate, error_rate, p50_ms, p99_ms}}}. Rates are per second; a quantile is
        the bound of its bucket, None without requests."""
        return list(self._points)


def _point(before: _Reading, after: _Reading) -> dict[str, Any]:
    seconds = max((after.at - before.at).total_seconds(), 1e-3)
    releases = {}
    for release, now in after.counts.items():
        then = before.counts.get(release, Counts())
        # a router that started again counts from zero
        restarted = now.requests < then.requests
        requests = now.requests if restarted else now.requests - then.requests
        errors = now.errors if restarted else max(0, now.errors - then.errors)
        waited = _grown(before.waited.get(release, {}), after.waited.get(release, {}))
        releases[release] = {
            "rate": round(requests / seconds, 3),
            "error_rate": round(min(1.0, errors / requests), 5) if requests else 0.0,
            "p50_ms": quantile(waited, 0.50),
            "p99_ms": quantile(waited, 0.99),
        }
    return {"at": after.at.isoformat(timespec="milliseconds"), "releases": releases}


def _grown(before: Mapping[float, int], after: Mapping[float, int]) -> dict[float, int]:
    if any(count < before.get(bound, 0) for bound, count in after.items()):
        return dict(after)
    return {bound: count - before.get(bound, 0) for bound, count in after.items()}


def quantile(cumulative: Mapping[float, int], q: float) -> float | None:
    """The smallest bound below which the share `q` of the requests lies; None when there were none."""
    total = max(cumulative.values(), default=0)
    return next((bound for bound in sorted(cumulative) if cumulative[bound] >= q * total), None) if total else None
