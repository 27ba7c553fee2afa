"""What is kept in memory changes how long an answer takes, and never the answer."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.domain.behaviour import pseudonym
from tasks.domain.requests import RankRequest, convert_rank
from tasks.ranker.state import View as Snapshot
from tasks.serving.asked import FOREVER, Asked
from tasks.serving.engine import Engine
from tasks.serving.metrics import Metrics
from tasks.serving.prepared import PreparedUsers
from tasks.serving.recent import Purchase
from tasks.serving.release import verify
from tasks.serving.stage_budget import Budget, StageTimes
from tasks.serving.worker import Groupable, Overloaded, Worker
from tests.serving_builders import ITEMS, PSEUDONYM_KEY, a_morning, a_release

IDS = [f"item-{n:03d}" for n in range(ITEMS)]
USERS = [pseudonym(f"user-{n}", bytes.fromhex(PSEUDONYM_KEY)) for n in range(4)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_release(tmp_path_factory.mktemp("release"))


def an_engine(release: tuple[Path, Path]) -> Engine:
    return Engine.open(verify(release[0]), release[1])


def recommend(**more: Any) -> RankRequest:
    return convert_rank({"surface": "recommendation", **more})


def told(engine: Engine, *asked: tuple[RankRequest, str | None]) -> list[Any]:
    return engine.rank_together([Asked(request, user, FOREVER, user is not None) for request, user in asked])


def test_a_kept_recommendation_is_the_one_that_was_made(release: tuple[Path, Path]) -> None:
    engine = an_engine(release)
    engine.count_in(Metrics("d", "r1"))
    first, again = (engine.rank(recommend(k=30), USERS[1]) for _ in range(2))
    assert (first.items, first.scores, first.stage) == (again.items, again.scores, again.stage)
    assert (first.kept, again.kept) == (False, True)
    assert engine.rank(recommend(k=5), USERS[1]).items == first.items[:5]
    text = engine.metrics.text().decode()
    assert 'freshrank_cache_hit_ratio{cache="recommendation"} 0.66' in text
    assert 'freshrank_cache_lookups_total{cache="profile",outcome="hit"} 2.0' in text


def test_what_is_ready_needs_no_turn_of_the_engine(release: tuple[Path, Path]) -> None:
    engine = an_engine(release)
    asked = Asked(recommend(k=7), USERS[1], FOREVER, True)
    assert engine.at_once(asked) is None
    made = engine.rank(recommend(k=30), USERS[1])
    ready = engine.at_once(asked)
    assert ready is not None and (ready.items, ready.scores) == (made.items[:7], made.scores[:7]) and ready.kept
    assert engine.at_once(Asked(recommend(candidates=IDS[:3]), USERS[1], FOREVER, True)) is None
    assert engine.at_once(Asked(convert_rank({"surface": "search", "query": "tea"}), USERS[1], FOREVER, True)) is None
    engine.heard(USERS[1], {"e": Purchase("item-002", "2017-07-01T09:00:00+00:00", 1.0)})
    assert engine.at_once(asked) is None, "something was bought: it has to be counted first"


def test_what_a_deadline_cut_short_is_not_kept(release: tuple[Path, Path]) -> None:
    engine = an_engine(release)
    assert engine.rank(recommend(k=5), USERS[1], deadline=-1.0).cut_short
    assert engine.rank(recommend(k=5), USERS[1]).stage == "full"


def test_entries_belong_to_one_history_and_the_oldest_go(release: tuple[Path, Path]) -> None:
    items = a_morning().items
    view = Snapshot(release[1])
    users = PreparedUsers(items, size=2)
    first, other = view.get(USERS[0]), view.get(USERS[0])
    kept = users.of("a", first)
    assert users.of("a", first) is kept
    assert users.of("a", other) is not kept, "another history, even an equal one, is counted anew"
    users.of("b", first)
    users.of("c", first)
    assert len(users) == 2
    assert users.of(None, None) is users.of("nobody", None), "who has no history shares what everybody gets"


pairs = st.lists(
    st.tuples(
        st.lists(st.sampled_from([*IDS, "unknown"]), max_size=30, unique=True), st.sampled_from([*USERS, None, "?"])
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(asked=pairs)
def test_ranked_together_is_ranked_alone(release: tuple[Path, Path], asked: list[tuple[list[str], str | None]]) -> None:
    requests = [
        (recommend(**({"candidates": items} if items else {"k": 40}), explain=len(items) % 2 == 1), user)
        for items, user in asked
    ]
    for one, (request, user) in zip(told(an_engine(release), *requests), requests, strict=True):
        alone = an_engine(release).rank(request, user)
        assert (one.items, one.stage) == (alone.items, alone.stage)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-5)


def test_one_that_fails_fails_alone(release: tuple[Path, Path]) -> None:
    engine = an_engine(release)
    engine._items.static[3] = np.nan
    good, bad, also_good = told(
        engine,
        (recommend(candidates=["item-040", "item-041"]), None),
        (recommend(candidates=IDS[:5]), None),
        (recommend(candidates=["item-050"]), USERS[0]),
    )
    assert isinstance(bad, ArithmeticError)
    assert sorted(good.items) == ["item-040", "item-041"] and also_good.items == ["item-050"]


def test_reasons_name_what_differs_from_a_typical_item(release: tuple[Path, Path]) -> None:
    """The test's model is linear, so an effect is weight x (value - typical), and all effects together are known."""
    engine = an_engine(release)
    ranking = engine.rank(recommend(candidates=IDS[:12], explain=True), USERS[2])
    assert ranking.reasons is not None and len(ranking.reasons) == 12
    assert all(ranking.reasons[:10]) and not any(ranking.reasons[10:])
    names = {reason.feature for reasons in ranking.reasons for reason in reasons}
    assert "purchase_history" in names
    assert not names & {"trips", "basket", "price_habit"}, "what is the same for every item moves none"
    base = engine.rank(recommend(candidates=IDS[:12], explain=True), None)
    assert base.reasons is not None
    assert "purchase_history" not in {reason.feature for reasons in base.reasons for reason in reasons}


def test_a_stage_that_does_not_fit_in_is_not_begun_and_is_tried_again() -> None:
    now, times = [0.0], StageTimes()

    def a_budget() -> Budget:
        return Budget(("base", "full"), now[0] + 1.0, lambda: now[0], times)

    def run(base: float, full: float) -> str:
        budget = a_budget()
        if not budget():
            return "nothing"
        now[0] += base
        if not budget():
            return "base"
        now[0] += full
        budget.finish()
        return "full"

    assert run(0.1, 0.2) == "full"
    assert run(0.9, 0.2) == "base", "0.2 s do not fit into 0.1"
    assert [run(0.1, 5.0) for _ in range(2)] == ["full"] * 2, "it fits in until it has been slow for a while"
    found = [run(0.1, 0.2) for _ in range(60)]
    assert found[0] == "base" and found[-1] == "full", "left out now, and tried again later"
    assert math.isclose(times.usual("base"), 0.1, rel_tol=0.5)


class Together(Groupable):
    """A groupable job that says with how many it was done."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate

    def __call__(self) -> int:
        return 1

    def together(self, jobs: list[Together]) -> list[Any]:
        for job in jobs:
            if job.gate is not None:
                job.gate.wait(10)
        return [len(jobs)] * len(jobs)


def test_what_waits_is_done_together_and_nothing_waits_for_more() -> None:
    worker, gate, got = Worker(limit=64), threading.Event(), []
    worker.submit(Together(gate), lambda result, error: got.append(result))
    while worker._jobs.qsize():  # until it is being done: the rest comes too late for its batch
        pass
    for _ in range(20):
        worker.submit(Together(), lambda result, error: got.append(result))
    gate.set()
    assert worker.finish(10)
    assert got == [1] + [16] * 16 + [4] * 4


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    worker, gate = Worker(limit=64, patience_s=0.05), threading.Event()
    worker._usual_s = 0.02
    for _ in range(3):
        worker.submit(Together(gate), lambda result, error: None)
    with pytest.raises(Overloaded):
        worker.submit(Together(), lambda result, error: None)
    gate.set()
    assert worker.finish(10)
