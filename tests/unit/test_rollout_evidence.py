"""What is gathered on a step: only what happened in it, from every process, whatever restarts meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tasks.adapters.launcher import Replica
from tasks.adapters.router import Counts
from tasks.controller.judge import Evidence, Meter, rank_correlation
from tasks.domain.errors import Unavailable
from tasks.domain.live_evidence import Window
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
        self.replicas[release] = old.model_copy(
            update={"pid": old.pid + 10, "restarts": old.restarts + 1, "state": "ready"}
        )
        self.ring.slates[release] = []


def test_what_happened_before_the_step_does_not_count() -> None:
    scene = Scene()
    scene.ring.add(B, "early", scores=[None, 1.0])
    scene.counts = {B[:12]: Counts(requests=50, errors=50)}
    window = scene.look()
    assert (window.challenger.slates, window.unusable, window.challenger.requests) == (0, 0, 0)
    scene.ring.add(B, "now")
    scene.counts = {B[:12]: Counts(requests=51, errors=50)}
    window = scene.look()
    assert (window.challenger.slates, window.challenger.requests, window.challenger.errors) == (1, 1, 0)


def test_a_restarted_replica_counts_from_one_again_and_is_read_from_one_again() -> None:
    scene = Scene()
    scene.look()
    for number in range(5):
        scene.ring.add(B, f"request-{number}")
    assert scene.look().challenger.slates == 5
    scene.restart(B)
    scene.ring.add(B, "after")
    window = scene.look()
    assert (window.challenger.slates, window.restarts) == (6, 1)


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
    assert (window.paired, window.overlap, window.correlated) == (1, 0.5, 0)


def test_users_of_the_champion_and_of_the_pairs_are_told_apart() -> None:
    """Either half of a pair may say whose it is: a release of before says nothing."""
    scene = Scene()
    scene.look()
    for number in range(6):
        scene.ring.add(A, f"request-{number}", **({} if number == 3 else {"user": number}))
    for number in (1, 2, 3):
        scene.ring.add(B, f"request-{number}", **({} if number == 2 else {"user": number}))
    window = scene.look()
    assert (window.asked_by, window.paired_of, window.paired) == ({0, 1, 2, 4, 5}, {1, 2, 3}, 3)


def test_lists_of_every_stage_cut_short_and_kept_are_counted_apart() -> None:
    scene = Scene()
    scene.look()
    for number, told in enumerate(({}, {"cut_short": True}, {"cut_short": True}, {"kept": True})):
        scene.ring.add(B, f"request-{number}", **({"kept": False} | told))
    ours = scene.look().challenger
    assert (ours.whole, ours.latencies_ms.count, ours.kept_ms.count) == (1, 3, 1)


def test_the_order_of_common_items_is_compared() -> None:
    assert rank_correlation(["x", "y", "z"], ["x", "q", "y", "z"]) == 1.0
    assert rank_correlation(["x", "y", "z"], ["z", "y", "x"]) == -1.0
    assert rank_correlation(["x", "y", "z", "w"], ["y", "x", "z", "w"]) == pytest.approx(2 / 3)
    assert rank_correlation(["x", "y"], ["y", "x"]) is None


def test_refusals_timeouts_and_short_lists_are_counted() -> None:
    scene = Scene()
    scene.counts = {B[:12]: Counts()}
    scene.look()
    scene.ring.add(B, "refused", status=422, items=[], scores=[])
    scene.ring.add(B, "empty", items=[], scores=[])
    scene.ring.add(B, "long", items=[str(n) for n in range(12)], scores=[1.0 - n / 100 for n in range(12)])
    scene.counts = {B[:12]: Counts(requests=4, errors=1, timeouts=1)}
    ours = scene.look().challenger
    assert (ours.answered, ours.refused, ours.slates, ours.short, ours.empty, ours.timeouts) == (3, 1, 2, 1, 1, 1)
    assert ours.best_scores.count == ours.spreads.count == 1


def test_a_copy_that_was_refused_for_lack_of_room_says_nothing_of_the_model() -> None:
    scene = Scene()
    scene.look()
    scene.ring.add(B, "copy", status=429, items=[], scores=[], shadow=True)
    scene.ring.add(B, "caller", status=429, items=[], scores=[], shadow=False)
    ours = scene.look().challenger
    assert (ours.answered, ours.refused, ours.no_room) == (1, 1, 2)


def test_kept_answers_are_timed_apart_where_both_releases_tell() -> None:
    scene = Scene()
    scene.look()
    for release in (A, B):
        scene.ring.add(release, "worked out", kept=False)
        scene.ring.add(release, "kept", kept=True)
    window = scene.look()
    assert [one.kept_ms.count for one in (window.challenger, window.champion)] == [1, 1]
    scene.ring.add(A, "of an earlier version")
    scene.ring.add(B, "kept again", kept=True)
    scene.look()
    scene.ring.add(B, "and again", kept=True)
    window = scene.look()
    assert window.challenger.kept_ms.count <= 2 and window.champion.latencies_ms.count == 2


def test_a_replica_that_is_down_has_crashed_once_and_not_again_when_it_is_back() -> None:
    scene = Scene()
    scene.look()
    scene.replicas[B] = scene.replicas[B].model_copy(update={"state": "down"})
    assert scene.look().restarts == 1
    scene.restart(B)
    assert scene.look().restarts == 1


def test_feedback_finds_its_slate_whichever_replica_received_it() -> None:
    scene = Scene()
    scene.look()
    scene.ring.add(B, "theirs", items=["x", "y"])
    scene.ring.add(A, "ours", items=["x", "y"])
    scene.ring.tell(A, "theirs", "x")
    scene.ring.tell(A, "ours", "y", kind="click")
    scene.ring.tell(A, "ours", "x", kind="impression")
    window = scene.look()
    challenger, champion = window.challenger, window.champion
    assert (challenger.told, challenger.converted, champion.told, champion.converted) == (1, 1, 1, 0)
    assert challenger.ndcg == 1.0 > champion.ndcg > 0


def test_feedback_may_come_first_in_parts_and_twice() -> None:
    scene = Scene()
    scene.look()
    scene.ring.tell(A, "one", "y", kind="click")
    scene.look()
    scene.ring.add(B, "one", items=["x", "y"])
    before = scene.look().challenger.ndcg
    for _ in range(2):
        scene.ring.tell(B, "one", "x")
    ours = scene.look().challenger
    assert (ours.shown, ours.told, ours.converted) == (1, 1, 1)
    assert ours.ndcg == 1.0 > before > 0


def test_a_copy_in_shadow_was_shown_to_nobody() -> None:
    scene = Scene()
    scene.look()
    scene.ring.add(B, "one", items=["x", "y"], shadow=True)
    scene.ring.add(A, "one", items=["y", "x"])
    scene.ring.tell(A, "one", "y")
    window = scene.look()
    assert (window.challenger.shown, window.challenger.told, window.paired) == (0, 0, 1)
    assert (window.champion.shown, window.champion.converted) == (1, 1)


def test_a_silent_replica_adds_nothing_but_the_router_counts() -> None:
    scene = Scene()
    scene.counts = {B[:12]: Counts()}
    scene.look()
    scene.ring.quiet.add(B)
    scene.counts = {B[:12]: Counts(requests=4, errors=4)}
    window = scene.look()
    assert (window.challenger.slates, window.challenger.errors) == (0, 4)


def test_an_explored_list_is_compared_with_nothing_and_its_clicks_count() -> None:
    """A draw made its order: overlap and correlation are of what the models say."""
    scene = Scene()
    scene.look()
    for request, explored in (("q1", False), ("q2", True)):
        scene.ring.add(
            A, request, items=["x", "y", "z"] if not explored else ["z", "y", "x"], explored=explored, user=1
        )
        scene.ring.add(B, request, items=["x", "y", "z"], shadow=True, user=1)
    scene.ring.tell(A, "q2", "z")
    window = scene.look()
    assert (window.paired, window.overlap, window.correlation) == (1, 1.0, 1.0)
    assert (window.champion.shown, window.champion.told, window.champion.ndcg) == (2, 1, 1.0)
