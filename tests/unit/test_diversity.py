"""Diversity by marginal relevance: near copies make room, nothing is lost, and pins and caps hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.domain.merchandising import Cap, Diversity, Merchandising, Pinned, Revision, read_rules, write_rules
from tasks.domain.requests import convert_rank
from tasks.serving.asked import Asked
from tasks.serving.diversity import POOL, diversified
from tasks.serving.engine import Engine
from tasks.serving.release import verify
from tests.serving_builders import a_release


def texts(*vectors: tuple[float, ...]) -> Any:
    """Items whose text vectors are these, made unit length."""
    unit = np.array(vectors, np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return SimpleNamespace(vectors=lambda rows: unit[rows])


def order(rule: Diversity, items: Any, scores: list[float], pinned: int = 0, unknown: int = 0) -> list[int]:
    rows = np.r_[np.arange(len(scores) - unknown), np.full(unknown, -1)].astype(np.int32)
    return diversified(rule, items, rows, np.array(scores, np.float32), pinned).tolist()


MILK, MILK_TOO, BREAD, SOAP = (1.0, 0.0), (1.0, 0.01), (0.0, 1.0), (-1.0, 0.0)


def test_a_near_copy_makes_room_for_another_thing_and_comes_behind_it() -> None:
    items = texts(MILK, MILK_TOO, BREAD)
    assert order(Diversity(weight=0.5, first=3), items, [3.0, 2.9, 2.0]) == [0, 2, 1]
    assert order(Diversity(weight=0.05, first=3), items, [3.0, 2.9, 2.0]) == [0, 1, 2], (
        "a small weight moves nothing here"
    )


def test_worth_is_what_the_formula_says() -> None:
    """Two candidates for the second place: .8 x .6 - .2 x 0 = .48 against .8 x .9 - .2 x 1 = .52, and .6 against the other way."""
    items, scores = texts(MILK, MILK, BREAD, SOAP), [1.0, 0.9, 0.6, 0.0]
    assert order(Diversity(weight=0.2, first=2), items, scores) == [0, 1, 2, 3]
    assert order(Diversity(weight=0.25, first=2), items, scores) == [0, 2, 1, 3]


def test_pinned_items_stay_and_count_as_shown() -> None:
    items = texts(MILK, MILK_TOO, BREAD)
    assert order(Diversity(weight=0.6, first=2), items, [1.0, 1.0, 0.9], pinned=1) == [0, 2, 1]


def test_who_is_ranked_below_the_pool_does_not_come_up() -> None:
    vectors = [MILK] * (2 * POOL) + [SOAP]
    told = order(Diversity(weight=0.9, first=2), texts(*vectors), [float(-n) for n in range(2 * POOL + 1)])
    assert told == list(range(2 * POOL + 1))
    inside = [*vectors[: 2 * POOL - 1], SOAP, MILK]
    assert (
        order(Diversity(weight=0.9, first=2), texts(*inside), [float(-n) for n in range(2 * POOL + 1)])[1]
        == 2 * POOL - 1
    )


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.floats(-30, 30, width=32), max_size=30).map(lambda told: sorted(told, reverse=True)),
    weight=st.floats(0.01, 0.99),
    first=st.integers(2, 12),
    pinned=st.integers(0, 3),
    unknown=st.integers(0, 3),
    seed=st.integers(0, 50),
)
def test_nothing_is_lost_and_unknown_items_stay_last(
    scores: list[float], weight: float, first: int, pinned: int, unknown: int, seed: int
) -> None:
    pinned, unknown = min(pinned, len(scores)), min(unknown, max(len(scores) - pinned, 0))
    drawn = np.random.default_rng(seed).normal(size=(max(len(scores), 1), 4))
    told = order(Diversity(weight=weight, first=first), texts(*map(tuple, drawn)), scores, pinned, unknown)
    assert sorted(told) == list(range(len(scores)))
    assert told[:pinned] == list(range(pinned))
    assert unknown == 0 or told[-unknown:] == list(range(len(scores) - unknown, len(scores)))
    behind = told[max(first, pinned) :]
    assert behind == sorted(behind), "behind the first places the model's order stays"


def test_the_engine_obeys_by_every_path_and_caps_hold_afterwards(tmp_path: Path) -> None:
    src, view = a_release(tmp_path)
    engine = Engine.open(verify(src), view)
    user = next(iter(engine._users.busiest(1)))  # type: ignore[union-attr]
    one = Asked(convert_rank({"surface": "recommendation", "k": 10}), user, 1e9, True)
    before = engine.rank(one.request, user)

    def obey(revision: int, **rules: Any) -> None:
        engine.obey(Revision(revision=revision, at="", actor="a", reason="r", rules=Merchandising(**rules)))

    diversity, pins = Diversity(weight=0.7, first=10), [Pinned(items=(before.items[-1],))]
    obey(1, diversity=diversity)
    after = engine.rank(one.request, user)
    assert after.items != before.items and after.items[0] == before.items[0]
    assert after.scores == sorted(after.scores, reverse=True)
    assert engine.at_once(one).items == after.items  # type: ignore[union-attr]
    assert likeness(engine, after.items) < likeness(engine, before.items)
    given = engine.rank(
        convert_rank({"surface": "recommendation", "candidates": [*before.items, "no-such-item"]}), user
    )
    assert sorted(given.items) == sorted([*before.items, "no-such-item"]) and given.items[-1] == "no-such-item"
    obey(2, diversity=diversity, pinned=pins, caps=[Cap(by="brand", most=1, first=5)])
    ruled = engine.rank(one.request, user).items
    assert ruled[0] == before.items[-1] and len({int(item[-3:]) % 7 for item in ruled[:5]}) == 5
    obey(3)
    assert engine.rank(one.request, user).items == before.items


def likeness(engine: Engine, items: list[str]) -> float:
    """Mean cosine of all pairs."""
    vectors = engine._items.vectors(engine._items.rows(items))
    return float((vectors @ vectors.T)[np.triu_indices(len(items), 1)].mean())


def test_it_is_written_read_and_refused_like_every_rule() -> None:
    rules = Merchandising(diversity=Diversity(weight=0.3, first=10))
    assert read_rules(write_rules(4, rules), "rules.yaml") == (4, rules)
    assert "the first 10 diverse by 0.3" in rules.sentence
    with pytest.raises(ValueError, match="less than or equal to 50"):
        Diversity(weight=0.3, first=51)
    assert "diversity" not in write_rules(4, Merchandising())
