"""The latency comparison: it sees work that is really there, and only that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tasks import benchmark as step
from tasks.benchmark import CHAMPION, WARM_UP, measure, sit
from tasks.domain.errors import InputRejected
from tasks.domain.latency import LOOKS, SITTING, allowed_ratio
from tasks.footprint import Parts

USERS = [f"u{n}" for n in range(50)]
LIMITS = {"p50": 1.15, "p95": 1.25, "cpu": 1.15}


def test_every_system_answers_every_request_once_and_in_turns_that_are_drawn():
    calls: list[tuple[str, str]] = []
    loads: list[str] = []

    def load(name):
        loads.append(name)
        return lambda user: calls.append((name, user))

    names = (CHAMPION, "state", "weights")
    wall, cpu = sit({name: (lambda name=name: load(name)) for name in names}, USERS, np.random.default_rng(0))
    assert sorted(loads) == sorted(names), "each is loaded anew"
    turns = [calls[n : n + 3] for n in range(0, len(calls), 3)]
    assert len(turns) == WARM_UP + SITTING, "the warm-up is asked and not timed"
    for turn in turns:
        assert {name for name, _ in turn} == set(names)
        assert len({user for _, user in turn}) == 1
    assert len({tuple(name for name, _ in turn) for turn in turns}) == 6, "the order is drawn anew for each request"
    assert all(len(wall[name]) == len(cpu[name]) == SITTING for name in names)


@pytest.fixture
def clocked(monkeypatch):
    """Sittings as if measured: {system: ms of a request}; how often each was held."""

    def given(**slower):
        held: dict[str, int] = {}
        rng = np.random.default_rng(3)

        def sitting(load, users, draws):
            base = rng.gamma(20, 0.2, SITTING)
            held.update({name: held.get(name, 0) + 1 for name in load})
            wall = {name: base * slower[name] * rng.lognormal(0, 0.02, SITTING) for name in load}
            return wall, wall

        monkeypatch.setattr(step, "sit", sitting)
        load = dict.fromkeys(slower, lambda: None)
        wall, _, pace = measure(load, USERS, LIMITS, seed=1)
        assert len(pace) == held[CHAMPION] and min(pace) > 0
        assert {name: len(times) for name, times in wall.items()} == {n: k * SITTING for n, k in held.items()}
        return held

    return given


def test_what_is_clear_needs_no_more_pairs_and_what_is_not_goes_on_to_the_last_look(clocked):
    assert clocked(champion=1.0, state=1.0) == {"champion": LOOKS[0], "state": LOOKS[0]}
    assert clocked(champion=1.0, state=1.5) == {"champion": LOOKS[0], "state": LOOKS[0]}, "harm is shown at once"
    at_the_limit = clocked(champion=1.0, state=1.0, weights=1.15)
    assert at_the_limit["weights"] == at_the_limit["champion"] == LOOKS[-1]
    assert at_the_limit["state"] == LOOKS[0], "one that is clear leaves"


def test_a_limit_that_nobody_measures_is_refused():
    with pytest.raises(InputRejected, match=r"limits p12; measured are p50, p95, p99, cpu"):
        step.compare_systems({}, {"p12": 1.2}, seed=0)


@pytest.mark.parametrize(
    ("items", "known", "lines", "expected"),
    [
        pytest.param(110, 110, 50, 1.1, id="more items to rank"),
        pytest.param(90, 100, 50, 1.0, id="a smaller catalogue makes no limit tighter"),
        pytest.param(100, 100, 54, 1.08, id="longer histories"),
        pytest.param(99, 200, 50, 1.0, id="items that are known and not ranked cost nothing"),
    ],
)
def test_growth_is_of_what_a_request_reads(items, known, lines, expected, monkeypatch):
    states = {CHAMPION: (100, 100, 50), "state": (items, known, lines)}
    monkeypatch.setattr(
        "tasks.ranker.state.ItemState.load",
        lambda name: SimpleNamespace(size=states[name][0], ids=range(states[name][1])),
    )
    monkeypatch.setattr("tasks.ranker.state.View", lambda name: SimpleNamespace(lines=lambda users: states[name][2]))
    assert step.growth({name: Parts(Path(), name, name) for name in states}, USERS) == expected


def test_a_limit_does_not_grow_without_end():
    assert allowed_ratio(1.025, 1.032) == pytest.approx(1.0578) and allowed_ratio(1.2, 7.0) == pytest.approx(1.32)
