"""How alike training and what comes after it are: the same is 0, a planted change is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ranker.parts import GROWS, Part, Parts, Shift, Tally, drift, shift
from tasks.ranker.rows import Rows

NAMES = ("price", "sales_7d", "trips")
NAN = float("nan")


def some_rows(slates, positives, grade=3, features=3, seed=0, size=20):
    rng = np.random.default_rng(seed)
    grades = np.tile(np.r_[np.full(positives, grade), np.zeros(size - positives)], slates).astype(np.uint8)
    n = len(grades)
    return Rows(
        ptr=np.arange(0, n + 1, size, dtype=np.int32),
        x=rng.normal(size=(n, features)).astype(np.float16),
        text=np.zeros(n, np.int32),
        digests=np.zeros((1, 16), np.uint8),
        lengths=np.zeros(n, np.uint8),
        tokens=np.zeros((0, 12), np.float16),
        label=(grades > 0).astype(np.uint8),
        weight=np.where(grades > 0, 1, 10).astype(np.float32),
        grade=grades,
        position=np.full(n, -1, np.int16),
        propensity=np.full(n, np.nan, np.float32),
    )


def tallied(days):
    tally = Tally(len(days))
    for rows in days:
        tally.add(rows)
    return tally


def parts_of(train, later, **drifts):
    shifts = {name: Shift(psi=psi, js=psi / 10) for name, psi in drifts.items()}
    parts = {"train": tallied(train).part, "holdout": tallied(later).part}
    return Parts(parts=parts, against="holdout", drift=shifts, unknown_share={})


def test_two_samples_of_one_distribution_differ_by_next_to_nothing():
    one, other = (np.random.default_rng(seed).normal(size=(20_000, 3)).astype(np.float32) for seed in (1, 2))
    assert all(told.psi < 0.01 and told.js < 0.002 for told in drift(NAMES, one, other).values())
    assert all(told.psi == told.js == 0 for told in drift(NAMES, one, one).values())


def test_a_change_of_unit_in_the_holdout_is_named():
    one, other = (np.random.default_rng(seed).normal(size=(5_000, 3)).astype(np.float32) for seed in (1, 2))
    other[:, 0] += np.log(100)  # prices in pence
    told = drift(NAMES, one, other)
    assert told["price"].psi > 1 and told["price"].js > 0.5
    assert told["sales_7d"].psi < 0.02


def test_values_that_become_unknown_are_a_change():
    one = np.random.default_rng(1).normal(size=(5_000, 3)).astype(np.float32)
    other = one.copy()
    other[::2, 1] = NAN
    assert drift(NAMES, one, other)["sales_7d"].psi > 1


def test_a_feature_of_one_value_is_no_change_until_it_varies():
    one = np.zeros((100, 3), np.float32)
    other = one.copy()
    assert drift(NAMES, one, other)["price"].psi == 0
    other[:, 0] = 1
    assert drift(NAMES, one, other)["price"].psi > 1


shares = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda drawn: sum(drawn) > 0.1).map(np.array)


@given(shares, shares)
def test_distances_are_never_negative_and_js_at_most_one_bit(one, other):
    one, other = one / one.sum(), other / other.sum()
    told = shift(one, other)
    assert told.psi >= -1e-9 and -1e-9 <= told.js <= 1 + 1e-9
    assert shift(other, one).js == pytest.approx(told.js)


def test_the_worst_feature_is_not_one_that_grows_with_every_day():
    grown = dict.fromkeys(GROWS, 5.0)
    assert parts_of([some_rows(3, 2)], [some_rows(3, 2)], price=0.3, sales_7d=0.1, **grown).worst[0] == "price"


def test_class_balance_is_told_for_each_part_and_compared():
    train = [some_rows(30, 2), some_rows(10, 2, grade=1)]
    told = parts_of(train, [some_rows(10, 4)])
    assert told.parts["train"] == Part(
        days=2, slates=40, rows=800, positives=80, positive_share=80 / (80 + 7_200),
        positives_a_slate=2.0, grades={"0": 720, "1": 20, "3": 60},
    )  # fmt: skip
    assert told.balance_shift == pytest.approx((4 / 164) / (2 / 182))
    assert parts_of(train, train).balance_shift == 1
    assert parts_of(train, [some_rows(10, 0)]).balance_shift > 1_000, "nothing is bought any more"
