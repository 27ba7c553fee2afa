"""What is gathered on a step: only what happened in it, from every process, whatever restarts meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tasks.adapters.launcher import Replica
from tasks.adapters.router import Counts
from tasks.controller.judge import Evidence, Meter
from tasks.domain.errors import Unavailable
from tasks.domain.rollout_judgement import Window
from tests.rollout_builders import A, B


class Ring:
    """What replicas remember; `quiet` ones do not answer."""

    def __init__(self) -> None:
        self.slates: dict[str, list[dict[str, Any]]] = {A: [], B: []}
        self.told: dict[str, list[dict[str, Any]]] = {A: [], B: []}
        self.quiet: set[str] = set()

    def add(self, release: str, request: str, **changes: Any) -> None:
        one = {"n": len(self.slates[release]) + 1, "request_id": request, "status": 200, "latency_ms": 4.0}
        self.slates[release].append(one | {"items": ["x", "y"], "scores": [2.0, 1.0]} | changes)

    def tell(self, release: str, request: str, *items: str, kind: str = "purchase") -> None:
        one = {"n": len(self.told[release]) + 1, "request_id": request, "item_ids": list(items)}
        self.told[release].append(one | {"event_types": [kind] * len(items)})

    async def served(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        if replica.release in self.quiet:
            raise Unavailable("silent")
        return self.slates[replica.release][after:]

    async def feedback(self, replica: Replica, after: int) -> list[dict[str, Any]]:
        return self.told[replica.release][after:]


class Scene:
    """B challenges A."""

    def __init__(self) -> None:
        self.ring, self.evidence = Ring(), Evidence(B, A)
        self.counts: dict[str, Counts] = {}
        self.replicas = {
            release: Replica(
                release=release, name=release[:4], port=port, pid=port, created=0, src="", view="", state="ready"
            )
            for release, port in ((A, 1), (B, 2))
        }

    def look(self) -> Window:
        asyncio.run(self.evidence.gather(self.ring, self.replicas, self.counts))
        return self.evidence.window()

    def restart(self, release: str) -> None:
        old = self.replicas[release]
        self.replicas[release] = old.model_copy(update={"pid": old.pid + 10, "restarts": old.restarts + 1})
        self.ring.slates[release] = []


def test_what_happened_before_the_step_does_not_count() -> None:
    scene = Scene()
    scene.ring.add(B, "early", scores=[None, 1.0])
    scene.counts = {B[:12]: Counts(requests=50, errors=50)}
    window = scene.look()
    assert (window.slates, window.unusable, window.challenger.requests) == (0, 0, 0)
    scene.ring.add(B, "now")
    scene.counts = {B[:12]: Counts(requests=51, errors=50)}
    window = scene.look()
    assert (window.slates, window.challenger.requests, window.challenger.errors) == (1, 1, 0)


def test_a_restarted_replica_counts_from_one_again_and_is_read_from_one_again() -> None:
    scene = Scene()
    scene.look()
    for number in range(5):
        scene.ring.add(B, f"request-{number}")
    assert scene.look().slates == 5
    scene.restart(B)
    scene.ring.add(B, "after")
    window = scene.look()
    assert (window.slates, window.restarts) == (6, 1)


def test_a_router_that_restarted_does_not_hide_errors() -> None:
    meter = Meter()
    for value in (100, 130, 7, 9):
        meter.read(value)
    assert meter.total == 30 + 7 + 2


@pytest.mark.parametrize(
    ("scores", "unusable", "constant"),
    [
        ([1.0, 0.5], 0, 0),
        ([None, 0.5], 1, 0),
        ([float("nan"), 1.0], 1, 0),
        (["1", 2.0], 1, 0),
        ([1.0, 1.0], 0, 1),
        ([1.0], 0, 0),
    ],
)
def test_scores_are_looked_at(scores: list[Any], unusable: int, constant: int) -> None:
    scene = Scene()
    scene.look()
    scene.ring.add(B, "one", scores=scores)
    window = scene.look()
    assert (window.unusable, window.constant) == (unusable, constant)


def test_answers_are_paired_by_request() -> None:
    scene = Scene()
    scene.look()
    scene.ring.add(A, "both", items=["x", "y", "z", "w"])
    scene.ring.add(B, "both", items=["x", "y", "p", "q"])
    scene.ring.add(A, "one only")
    window = scene.look()
    assert (window.paired, window.overlap_at_10) == (1, 0.5)


def test_feedback_finds_its_slate_whichever_replica_received_it() -> None:
    scene = Scene()
    scene.look()
    scene.ring.add(B, "theirs", items=["x", "y"])
    scene.ring.add(A, "ours", items=["x", "y"])
    scene.ring.tell(A, "theirs", "x")
    scene.ring.tell(A, "ours", "y")
    scene.ring.tell(A, "ours", "x", kind="impression")
    window = scene.look()
    assert window.online_slates == {"challenger": 1, "champion": 1}
    assert window.online_ndcg["challenger"] == 1.0 > window.online_ndcg["champion"] > 0


def test_a_silent_replica_adds_nothing_but_the_router_counts() -> None:
    scene = Scene()
    scene.counts = {B[:12]: Counts()}
    scene.look()
    scene.ring.quiet.add(B)
    scene.counts = {B[:12]: Counts(requests=4, errors=4)}
    window = scene.look()
    assert (window.slates, window.challenger.errors) == (0, 4)
