"""The cascade over made-up scorers: who is on top, what stays below, and what happens when time is short."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ranker.rank import LOWEST, RESCORED, rank
from tests.ranker_builders import DAY, a_builder, a_log, stocked

ITEMS = 240
LINES = [(DAY - 20, 0, 0), (DAY - 4, 0, 1), (DAY - 3, 0, 9)]
MORNING = a_builder(a_log(stocked(LINES, ITEMS), ITEMS)).morning(DAY)
EVERYTHING = np.arange(ITEMS, dtype=np.int32)


class Fixed:
    """base is given; full turns the order of what it re-scores around, on its own scale."""

    def __init__(self, base, shift=0.0):
        self._base, self.shift, self.asked = np.asarray(base, np.float32), shift, 0

    def base(self, x, item_vec):
        return self._base[: len(x)]

    def full(self, x, item_vec, tokens, mask):
        self.asked = len(x)
        return np.linspace(0, 1, len(x), dtype=np.float32) + np.float32(self.shift)


def check_is_a_ranking(ranking, n):
    assert sorted(ranking.order.tolist()) == list(range(n))
    assert np.isfinite(ranking.scores).all()
    assert (np.diff(ranking.scores) <= 0).all(), "scores never rise along the list"


@pytest.mark.parametrize("shift", [-30.0, 0.0, 30.0])
def test_the_rescored_stay_above_the_rest_whatever_the_scales(shift):
    scorer = Fixed(np.linspace(5, -5, ITEMS), shift)
    ranking = rank(scorer, MORNING.items, MORNING.histories[0], EVERYTHING)
    check_is_a_ranking(ranking, ITEMS)
    assert ranking.stage == "full" and scorer.asked == RESCORED
    assert ranking.order[:RESCORED].tolist() == list(range(RESCORED))[::-1], "stage 2 turned the first 150 around"
    assert ranking.order[RESCORED:].tolist() == list(range(RESCORED, ITEMS)), "below, stage 1's order stands"


def test_unknown_items_come_last_in_the_order_given():
    candidates = np.array([-1, 3, -1, 5], np.int32)
    ranking = rank(Fixed([1.0, 2.0]), MORNING.items, MORNING.histories[0], candidates)
    check_is_a_ranking(ranking, 4)
    assert ranking.order.tolist()[2:] == [0, 2]
    assert (ranking.scores[2:] == LOWEST).all()


def test_only_unknown_items_are_still_an_answer():
    ranking = rank(Fixed([]), MORNING.items, None, np.array([-1, -1], np.int32))
    assert (ranking.order.tolist(), ranking.stage) == ([0, 1], "retrieved")


def test_without_a_history_stage_one_answers():
    scorer = Fixed(np.linspace(-1, 1, ITEMS))
    ranking = rank(scorer, MORNING.items, None, EVERYTHING)
    assert ranking.stage == "base" and scorer.asked == 0
    assert ranking.order[0] == ITEMS - 1


@pytest.mark.parametrize(
    ("answers", "stage"), [([False], "retrieved"), ([True, False], "base"), ([True, True], "full")]
)
def test_when_time_is_up_the_stage_before_answers(answers, stage):
    left = iter(answers)
    scorer = Fixed(np.linspace(5, -5, ITEMS))
    ranking = rank(scorer, MORNING.items, MORNING.histories[0], EVERYTHING, in_time=lambda: next(left))
    assert ranking.stage == stage
    check_is_a_ranking(ranking, ITEMS)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-1, ITEMS - 1), min_size=1, max_size=200), st.integers(0, 2**16), st.booleans())
def test_every_ranking_is_a_permutation_with_finite_scores(rows, seed, known):
    rng = np.random.default_rng(seed)
    scorer = Fixed(rng.normal(size=len(rows)) * 20, shift=float(rng.normal() * 20))
    user = MORNING.histories[0] if known else None
    check_is_a_ranking(rank(scorer, MORNING.items, user, np.array(rows, np.int32)), len(rows))
