"""EASE solved among users against EASE solved among items, and what is kept of every reading of similar users."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tasks.ranker import ease, neighbours
from tasks.ranker.co_purchases import counted_on
from tasks.ranker.ease import Ease
from tasks.ranker.knowledge import MORE
from tasks.ranker.neighbours import Neighbours
from tests.ranker_builders import DAY, a_log

ITEMS, USERS = 12, 6
MONDAY = counted_on(DAY)
DRAW = np.random.default_rng(2)
LINES = sorted({(MONDAY - int(d), int(u), int(i)) for d, u, i in DRAW.integers((1, 0, 0), (60, USERS, ITEMS), (90, 3))})
TODAY = (MONDAY, 0, 11)  # after Monday's solution, before the morning of DAY


def among_items(lines, now):
    """Steck's closed form: B = I - P / diag(P), P the inverse of the items' Gram matrix."""
    bought = np.zeros((USERS, ITEMS))
    for _, user, item in lines:
        bought[user, item] = 1
    inverse = np.linalg.inv(bought.T @ bought + ease.RIDGE * np.eye(ITEMS))
    weights = np.eye(ITEMS) - inverse / np.diag(inverse)
    return now @ weights


def solved(lines):
    day, user, item = (np.array([line[n] for line in lines], np.int32) for n in range(3))
    return Ease(user, item, day, USERS, ITEMS)


def test_solved_among_users_it_is_the_same_regression(monkeypatch):
    monkeypatch.setattr(ease, "RIDGE", 2.0)
    now = np.zeros((USERS, ITEMS))
    for _, user, item in [*LINES, TODAY]:
        now[user, item] = 1
    found = solved([*LINES, TODAY]).of(np.arange(USERS, dtype=np.int32), DAY)
    np.testing.assert_allclose(found, among_items(LINES, now), rtol=1e-4, atol=1e-5)


def test_the_solution_is_mondays_and_the_purchases_are_of_this_morning():
    everyone = np.arange(USERS, dtype=np.int32)
    known = {(user, item) for _, user, item in LINES}
    user, item = next(pair for pair in product(range(USERS), range(ITEMS)) if pair not in known)
    plain, later = solved(LINES), solved([*LINES, (DAY, user, item)])
    np.testing.assert_array_equal(plain.of(everyone, DAY), later.of(everyone, DAY))
    assert not np.array_equal(later.of(everyone, DAY), later.of(everyone, DAY + 2))


def test_every_reading_keeps_its_best(monkeypatch):
    monkeypatch.setattr(neighbours, "KEPT_OF_EACH", 1)
    log, users = a_log(LINES, ITEMS, USERS), np.arange(USERS, dtype=np.int32)
    everything = Neighbours(log, users, more=True)
    few = everything.of(users, DAY, np.arange(ITEMS, dtype=np.int32), ITEMS)
    monkeypatch.setattr(neighbours, "KEPT_OF_EACH", ITEMS)
    for (rows, scores), (all_rows, all_scores) in zip(
        few, everything.of(users, DAY, np.arange(ITEMS, dtype=np.int32), ITEMS), strict=True
    ):
        assert scores.shape == (len(rows), 1 + len(MORE)) and 1 <= len(rows) <= 1 + len(MORE)
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(scores, all_scores[np.isin(all_rows, rows)])
        assert set(all_rows[all_scores.argmax(0)]) <= set(rows.tolist())


def test_the_first_reading_does_not_depend_on_the_others():
    log, users = a_log(LINES, ITEMS, USERS), np.arange(USERS, dtype=np.int32)
    row_of = np.arange(ITEMS, dtype=np.int32)
    for (rows, scores), (more_rows, more) in zip(
        Neighbours(log, users).of(users, DAY, row_of, ITEMS),
        Neighbours(log, users, more=True).of(users, DAY, row_of, ITEMS),
        strict=True,
    ):
        dense = np.zeros(ITEMS)
        dense[more_rows] = more[:, 0]
        np.testing.assert_allclose(dense[rows], scores[:, 0], rtol=1e-6)


def test_lately_counts_users_alike_who_bought_in_the_last_two_weeks():
    lines = [(DAY - 30, 0, 0), (DAY - 30, 1, 0), (DAY - 30, 2, 1), (DAY - 3, 1, 5), (DAY - 3, 2, 6), (DAY - 20, 1, 7)]
    log, users = a_log(lines, ITEMS, 3), np.arange(3, dtype=np.int32)
    rows, scores = Neighbours(log, users, more=True).of(users, DAY, np.arange(ITEMS, dtype=np.int32), ITEMS)[0]
    lately = dict(zip(rows.tolist(), scores[:, 1 + MORE.index("similar_lately")].tolist(), strict=True))
    assert lately[5] == pytest.approx(1.0), "user 1 is the only one alike"
    assert lately.get(6, 0) == 0 and lately.get(7, 0) == 0, "user 2 is not alike; twenty days are not lately"
