"""Gather live evidence on a rollout's step: what both releases answered, how fast, and what the router counted."""

from __future__ import annotations

import math
from typing import Any, Protocol

import httpx

from tasks.adapters.launcher import Replica
from tasks.adapters.router import Counts
from tasks.domain.errors import Unavailable
from tasks.domain.rollout_judgement import Sample, Window

PAGE = 1_000
TOP = 10
KEPT_SLATES = 20_000  # per step; a long bake forgets the oldest


class Reader(Protocol):
    """What a replica says about its own replies. Raises Unavailable."""

    async def served(self, replica: Replica, after: int) -> list[dict[str, Any]]: ...

    async def feedback(self, replica: Replica, after: int) -> list[dict[str, Any]]: ...


class HttpReader:
    """Over the replica's own port, not through the router: callers cannot reach these pages."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=3)

    async def served(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return await self._page(replica, "served", after)

    async def feedback(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return await self._page(replica, "feedback_seen", after)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _page(self, replica: Replica, name: str, after: int) -> list[dict[str, Any]]:
        try:
            reply = await self._http.get(f"{replica.url}/{name}", params={"after": after})
            reply.raise_for_status()
            found: list[dict[str, Any]] = reply.json()
            return found
        except (httpx.HTTPError, ValueError) as err:
            raise Unavailable(f"replica {replica.name} does not tell what it served: {type(err).__name__}") from err


class Meter:
    """A counter that only grows, over one that a restart sets back to zero."""

    def __init__(self) -> None:
        self.total = 0
        self._last: int | None = None

    def read(self, value: int) -> None:
        if self._last is not None:
            self.total += value - self._last if value >= self._last else value
        self._last = value


class Evidence:
    """The window of one step. Begins empty: what happened before the step says nothing about it."""

    def __init__(self, challenger: str, champion: str) -> None:
        self.releases = (challenger, champion)
        self._meters = {release: (Meter(), Meter()) for release in self.releases}
        self._slates: dict[str, dict[str, list[str]]] = {release: {} for release in self.releases}
        self._latencies: dict[str, list[float]] = {release: [] for release in self.releases}
        self._bought: dict[str, set[str]] = {}
        self._cursors: dict[tuple[str, str], tuple[int, int]] = {}  # (replica, page) -> process, last number
        self._restarts: dict[str, int] = {}
        self._crashes = 0
        self._unusable = 0
        self._constant = 0

    async def gather(self, reader: Reader, replicas: dict[str, Replica], counts: dict[str, Counts]) -> None:
        """Add what happened since the last call. A silent replica adds nothing; the router counts that."""
        for release in self.releases:
            seen = counts.get(release[:12])
            if seen:
                requests, errors = self._meters[release]
                requests.read(seen.requests)
                errors.read(seen.errors)
        challenger = replicas.get(self.releases[0])
        if challenger:
            self._crashes += max(0, challenger.restarts - self._restarts.get(challenger.release, challenger.restarts))
            self._restarts[challenger.release] = challenger.restarts
        for release, replica in replicas.items():
            if replica.state != "ready":
                continue
            try:
                if release in self.releases:
                    for one in await self._new(reader, replica, "served"):
                        self._add(release, one)
                for one in await self._new(reader, replica, "feedback"):
                    self._bought.setdefault(str(one["request_id"]), set()).update(_wanted(one))
            except Unavailable:
                continue

    def window(self) -> Window:
        challenger, champion = self.releases
        ours, theirs = self._slates[challenger], self._slates[champion]
        both = ours.keys() & theirs.keys()
        overlaps = [_overlap(ours[request], theirs[request]) for request in both]
        online = {
            who: [_ndcg(slates[r], self._bought[r]) for r in slates.keys() & self._bought.keys()]
            for who, slates in (("challenger", ours), ("champion", theirs))
        }
        return Window(
            challenger=self._sample(challenger),
            champion=self._sample(champion),
            paired=len(both),
            overlap_at_10=sum(overlaps) / len(overlaps) if overlaps else None,
            slates=len(self._latencies[challenger]),
            unusable=self._unusable,
            constant=self._constant,
            restarts=self._crashes,
            online_ndcg={who: sum(values) / len(values) for who, values in online.items() if values},
            online_slates={who: len(values) for who, values in online.items() if values},
        )

    async def _new(self, reader: Reader, replica: Replica, page: str) -> list[dict[str, Any]]:
        process, after = self._cursors.get((replica.name, page), (replica.pid, -1))
        if process != replica.pid:
            after = 0  # numbers start again with a new process
        read = reader.served if page == "served" else reader.feedback
        found: list[dict[str, Any]] = []
        first, after = after < 0, max(after, 0)
        while part := await read(replica, after):
            found += part
            after = int(part[-1]["n"])
            if len(part) < PAGE:
                break
        self._cursors[(replica.name, page)] = (replica.pid, after)
        return [] if first else found  # the first read only finds out where the window begins

    def _add(self, release: str, one: dict[str, Any]) -> None:
        if one["status"] != 200:
            return
        self._latencies[release].append(float(one["latency_ms"]))
        scores = one["scores"]
        if release == self.releases[0]:
            if any(not isinstance(score, (int, float)) or not math.isfinite(score) for score in scores):
                self._unusable += 1
            elif len(scores) > 1 and min(scores) == max(scores):
                self._constant += 1
        slates = self._slates[release]
        slates[str(one["request_id"])] = [str(item) for item in one["items"]]
        if len(slates) > KEPT_SLATES:
            del slates[next(iter(slates))]

    def _sample(self, release: str) -> Sample:
        requests, errors = self._meters[release]
        return Sample(requests=requests.total, errors=errors.total, latencies_ms=tuple(self._latencies[release]))


def _overlap(one: list[str], other: list[str]) -> float:
    depth = min(TOP, max(len(one), len(other)))
    return len(set(one[:TOP]) & set(other[:TOP])) / depth if depth else 1.0


def _wanted(one: dict[str, Any]) -> list[str]:
    kinds = one.get("event_types") or ["purchase"] * len(one["item_ids"])
    return [str(item) for item, kind in zip(one["item_ids"], kinds, strict=True) if kind != "impression"]


def _ndcg(items: list[str], wanted: set[str]) -> float:
    if not wanted:
        return 0.0
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(items[:TOP]) if item in wanted)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(TOP, len(wanted))))
