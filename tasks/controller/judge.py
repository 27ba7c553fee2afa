"""Gather live evidence on a rollout's step: what both releases answered, how fast, and what the router counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from tasks.adapters.launcher import Replica
from tasks.adapters.router import Counts
from tasks.domain.errors import Unavailable
from tasks.domain.live_evidence import Window

PAGE = 1_000
TOP = 10
NO_ROOM = 429  # a replica whose queue is full; the router's own 429 never gets here
KEPT_SLATES = 20_000  # to pair answers and to join feedback; a long bake forgets the oldest


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

    def read(self, value: int) -> int:
        if self._last is not None:
            self.total += value - self._last if value >= self._last else value
        self._last = value
        return self.total


@dataclass(slots=True)
class _Request:
    """A list that a user saw, and what became of it; either half may be known first."""

    release: str | None = None
    items: list[str] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)
    bought: bool = False
    ndcg: float | None = None
    converted: bool = False


class Evidence:
    """The window of one step. Begins empty: what happened before the step says nothing about it.

    Memory is bounded however long the step takes: sums and sketches, and the last `KEPT_SLATES` lists of each release.
    """

    def __init__(self, challenger: str, champion: str, restarts: int | None = None) -> None:
        """restarts: of the challenger when the step was first seen, where that was before evidence could be gathered."""
        self.releases = (challenger, champion)
        self._window = Window()
        self._samples = {challenger: self._window.challenger, champion: self._window.champion}
        self._meters = {release: (Meter(), Meter(), Meter()) for release in self.releases}
        self._slates: dict[str, dict[str, tuple[list[str], int | None]]] = {release: {} for release in self.releases}
        self._requests: dict[str, _Request] = {}
        self._cursors: dict[tuple[str, str], tuple[int, int]] = {}  # (replica, page) -> process, last number
        self._crashes = restarts
        self._pooled = False  # a release of before this was told apart serves here: then nobody's answers are

    async def gather(self, reader: Reader, replicas: dict[str, Replica], counts: dict[str, Counts]) -> None:
        """Add what happened since the last call. A silent replica adds nothing; the router counts that."""
        for release, sample in self._samples.items():
            seen = counts.get(release[:12])
            if seen:
                requests, errors, timeouts = self._meters[release]
                sample.requests = requests.read(seen.requests)
                sample.errors = errors.read(seen.errors)
                sample.timeouts = timeouts.read(seen.timeouts)
        challenger = replicas.get(self.releases[0])
        if challenger:
            # a process that ended is a crash now, not when its successor starts
            restarts = sum(one.restarts for one in challenger.all)
            crashes = restarts + sum(one.state == "down" for one in challenger.all)
            before = restarts if self._crashes is None else self._crashes
            self._window.restarts += max(0, crashes - before)
            self._crashes = max(crashes, before)
        for replica in [one for group in replicas.values() for one in group.all]:
            release = replica.release
            if replica.state != "ready":
                continue
            try:
                if release in self.releases:
                    for one in await self._new(reader, replica, "served"):
                        self._add(release, one)
                for one in await self._new(reader, replica, "feedback"):
                    self._tell(one)
            except Unavailable:
                continue

    def window(self) -> Window:
        return self._window

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
        sample = self._samples[release]
        if one["status"] == NO_ROOM:
            sample.no_room += 1
            if one.get("shadow"):  # nobody waited for it, and it says nothing of the model
                return
        sample.answered += 1
        sample.refused += 400 <= one["status"] < 500
        if one["status"] != 200:
            return
        items, scores = [str(item) for item in one["items"]], one["scores"]
        sample.slates += 1
        sample.short += len(items) < TOP
        sample.empty += not items
        self._pooled = self._pooled or "kept" not in one
        kept = one.get("kept") and not self._pooled
        sample.whole += not kept and not one.get("cut_short")
        (sample.kept_ms if kept else sample.latencies_ms).add(float(one["latency_ms"]))
        usable = all(isinstance(score, (int, float)) and math.isfinite(score) for score in scores)
        if usable and scores:
            sample.best_scores.add(max(scores))
            sample.spreads.add(max(scores) - min(scores))
        if release == self.releases[0]:
            self._window.unusable += not usable
            self._window.constant += usable and len(scores) > 1 and min(scores) == max(scores)
        user = one.get("user")  # a release of before this was told says nothing
        comparable = not one.get("explored")  # else a draw made the order, and the model did not
        if user is not None and comparable and release == self.releases[1]:
            self._window.asked_by.add(user)
        shadow, request = bool(one.get("shadow", False)), str(one["request_id"])
        if comparable:
            self._pair(release, request, items, user)
        if not shadow:
            self._seen(release, request, items)

    def _pair(self, release: str, request: str, items: list[str], user: int | None) -> None:
        slates = self._slates[release]
        slates[request] = items, user
        if len(slates) > KEPT_SLATES:
            del slates[next(iter(slates))]
        paired = self._slates[next(one for one in self.releases if one != release)].get(request)
        if paired is not None:
            other, told = paired
            self._window.paired += 1
            self._window.paired_of.update(one for one in (user, told) if one is not None)
            self._window.overlap += overlap(items, other)
            if (tau := rank_correlation(items, other)) is not None:
                self._window.correlated += 1
                self._window.correlation += tau

    def _seen(self, release: str, request: str, items: list[str]) -> None:
        seen = self._request(request)
        if seen.release is None:
            seen.release, seen.items = release, items
            self._samples[release].shown += 1
            self._settle(seen)

    def _tell(self, one: dict[str, Any]) -> None:
        """Feedback may arrive before its list was read, in parts, and at another release's replica."""
        kinds = one.get("event_types") or ["purchase"] * len(one["item_ids"])
        told = list(zip(map(str, one["item_ids"]), kinds, strict=True))
        if wanted := {item for item, kind in told if kind != "impression"}:
            seen = self._request(str(one["request_id"]))
            seen.wanted |= wanted
            seen.bought |= "purchase" in kinds
            self._settle(seen)

    def _request(self, request: str) -> _Request:
        found = self._requests.get(request)
        if found is None:
            found = self._requests[request] = _Request()
            if len(self._requests) > 2 * KEPT_SLATES:
                del self._requests[next(iter(self._requests))]
        return found

    def _settle(self, seen: _Request) -> None:
        """Count what is known of it by now."""
        if seen.release is None or not seen.wanted:
            return
        sample, value = self._samples[seen.release], ndcg(seen.items, seen.wanted)
        sample.told += seen.ndcg is None
        sample.ndcg += value - (seen.ndcg or 0.0)
        sample.converted += seen.bought and not seen.converted
        seen.ndcg, seen.converted = value, seen.bought


def overlap(one: list[str], other: list[str]) -> float:
    """Share of common items among the top 10 of both; of two empty lists, 1."""
    depth = min(TOP, max(len(one), len(other)))
    return len(set(one[:TOP]) & set(other[:TOP])) / depth if depth else 1.0


def rank_correlation(one: list[str], other: list[str]) -> float | None:
    """Kendall's tau of the items that both lists hold; None below three: one swap of two says too little."""
    place = {item: number for number, item in enumerate(other)}
    ranks = [place[item] for item in one if item in place]
    pairs = len(ranks) * (len(ranks) - 1) // 2
    if len(ranks) < 3:
        return None
    agree = sum(ranks[i] < later for i in range(len(ranks)) for later in ranks[i + 1 :])
    return 2 * agree / pairs - 1


def ndcg(items: list[str], wanted: set[str]) -> float:
    """NDCG@10 with one gain for every item that the user took."""
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(items[:TOP]) if item in wanted)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(TOP, len(wanted))))
