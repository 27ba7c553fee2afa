"""Nothing about a morning may change when that day, or any later one, turns out differently."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.ranker import build, co_purchases
from tasks.ranker.build import StateBuilder
from tasks.ranker.features import featurise
from tasks.ranker.log import Plans
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tests.ranker_builders import DAY, a_builder, a_log, stocked, texts_of

ITEMS, USERS = 12, 4
lines = st.tuples(st.integers(-100, 10), st.integers(0, USERS - 1), st.integers(0, ITEMS - 1))
logs = st.lists(lines, min_size=1, max_size=60, unique=True)
shares = st.floats(0, 1, width=32)
plans = st.dictionaries(st.integers(1, 8), st.tuples(st.integers(0, ITEMS - 1), shares, shares), max_size=3)


@pytest.fixture(autouse=True)
def one_basket_makes_an_edge(monkeypatch):
    monkeypatch.setattr(co_purchases, "LEAST", 1)


def a_morning(past, later, planned, knowledge):
    drawn = [(DAY + day, user, item) for day, user, item in [*past, *later]]
    log = a_log(sorted(set(stocked(drawn, ITEMS))), ITEMS, USERS)
    by_day = {
        DAY + ahead: (np.array([item], np.int32), np.array([one], np.float32), np.array([other], np.float32))
        for ahead, (item, one, other) in planned.items()
    }
    return a_builder(log, Plans(by_day), knowledge=knowledge).morning(DAY)


def known_on(morning):
    """Everything that a model could see that morning, by item id."""
    items = morning.items
    seen = {"ids": items.ids[: items.size]}
    for user, history in morning.histories.items():
        candidates = candidates_of(Profile(items, history, DAY))
        features = featurise(items, history, candidates)
        seen[user] = [items.ids[row] for row in candidates]
        seen[user, "numbers"] = np.concatenate(
            [features.x, features.item_vec, features.tokens.reshape(len(candidates), -1), features.mask], axis=1
        )
    return seen


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=logs, first=logs, second=logs, planned=plans, knowledge=st.booleans())
def test_a_morning_does_not_depend_on_its_day_or_later_ones(past, first, second, planned, knowledge):
    past = [line for line in past if line[0] < 0]
    one = known_on(a_morning(past, [line for line in first if line[0] >= 0], planned, knowledge))
    other = known_on(a_morning(past, [line for line in second if line[0] >= 0], {}, knowledge))
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[key], err_msg=str(key))
        else:
            assert value == other[key]


def test_the_property_can_fail():
    """The same comparison over a builder that looks one day ahead must find the difference."""

    class Peeking(StateBuilder):
        def _part(self, first, after):
            return super()._part(first, after + 1)

    mornings = []
    for later in ([], [(DAY, 0, 5)]):
        log = a_log(stocked([(DAY - 3, 0, 0), *later]))
        mornings.append(Peeking(log, Plans({}), np.arange(USERS, dtype=np.int32), texts_of(log)).morning(DAY))
    one, other = (known_on(morning)[0, "numbers"] for morning in mornings)
    assert not np.array_equal(one, other)


def test_the_property_can_fail_for_co_purchases(monkeypatch):
    """A graph of the coming Monday, which knows this week, must be found out."""
    monkeypatch.setattr(build, "counted_on", lambda day: co_purchases.counted_on(day) + 7)
    lines = stocked([(DAY - 30, 0, 0)])
    mornings = [
        a_builder(a_log([*lines, *later]), knowledge=True).morning(DAY) for later in ([], [(DAY, 1, 0), (DAY, 1, 5)])
    ]
    one, other = (known_on(morning)[0, "numbers"] for morning in mornings)
    assert not np.array_equal(one, other, equal_nan=True)


def test_a_text_encoded_for_a_later_catalogue_changes_nothing():
    """An item that enters the catalogue later is in a user's history already; its text must not reach his profile yet."""
    lines = [*stocked([(DAY - 3, 0, 0)], items=11), (DAY - 2, 0, 11)]
    log = a_log(lines)
    texts = texts_of(log)
    unencoded = type(texts)(np.where(np.arange(12) == 11, -1, texts.row).astype(np.int32), texts.vectors)
    with_text, without = (
        StateBuilder(log, Plans({}), np.arange(USERS, dtype=np.int32), table).morning(DAY)
        for table in (texts, unencoded)
    )
    np.testing.assert_array_equal(known_on(with_text)[0, "numbers"], known_on(without)[0, "numbers"])
