"""Taxonomy and co-purchases of a shop small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.ranker.arrays import iso_day
from tasks.ranker.co_purchases import EDGES, SHRINK, bought_together, counted_on
from tasks.ranker.features import FEATURES, feature_names, featurise
from tasks.ranker.knowledge import NULLABLE
from tasks.ranker.log import Plans
from tasks.ranker.state import ItemState
from tests.ranker_builders import DAY, a_builder, a_log, stocked

MONDAY = counted_on(DAY)
# bread (0) and butter (7) on six shared trips of users 1 and 2; user 0 has bought bread once, last Thursday
TOGETHER = [(MONDAY - 8 * n, user, item) for n in (1, 2, 3) for user in (1, 2) for item in (0, 7)]
LINES = [*TOGETHER, (MONDAY - 8, 1, 4), (MONDAY - 4, 0, 0)]


@pytest.fixture(scope="module")
def morning():
    return a_builder(a_log(stocked(LINES)), knowledge=True).morning(DAY)


def feature(morning, name, item, user=0):
    x = featurise(morning.items, morning.histories.get(user), morning.items.rows([f"item-{item:02d}"])).x[0]
    return float(x[feature_names(morning.items).index(name)])


def test_without_the_switch_a_state_has_the_usual_features_only():
    items = a_builder(a_log(stocked(LINES))).morning(DAY).items
    assert feature_names(items) == FEATURES
    assert len(items.department) == len(items.graph_row) == 0


def test_the_usual_features_are_the_same_with_the_switch(morning):
    plain = a_builder(a_log(stocked(LINES))).morning(DAY)
    rows = np.arange(plain.items.size, dtype=np.int32)
    for user in (0, 1, None):
        one, other = (featurise(m.items, m.histories.get(user), rows).x for m in (plain, morning))
        np.testing.assert_array_equal(one, other[:, : len(FEATURES)])


def edges_of(lines, item):
    graph = bought_together(a_log(lines), MONDAY)
    part = slice(graph.ptr[item], graph.ptr[item + 1])
    return dict(zip(graph.target[part].tolist(), graph.weight[part].tolist(), strict=True))


def test_an_edge_weighs_what_two_items_share_of_their_baskets():
    edges = edges_of(LINES, 0)
    assert edges == {7: pytest.approx(6 / (math.sqrt(7 * 6) + SHRINK))}, "one basket with item 4 is no evidence"
    assert edges_of(LINES, 7) == {0: pytest.approx(edges[7])}
    assert edges_of(LINES, 4) == {}


def test_what_is_bought_together_with_what_the_user_bought_is_near(morning):
    weight = edges_of(stocked(LINES), 0)[7]
    age = DAY - (MONDAY - 4)
    assert feature(morning, "bought_together", 7) == pytest.approx(
        math.log1p(10 * math.exp(-age / 45) * weight), rel=1e-4
    )
    assert feature(morning, "bought_together_last_trip", 7) == pytest.approx(math.log1p(10 * weight), rel=1e-4)
    assert feature(morning, "bought_together", 0) == 0, "not with itself"


def test_the_graph_is_of_the_monday_before_and_of_no_later_day():
    assert iso_day(MONDAY) == "2017-06-19"
    assert [counted_on(MONDAY + n) - MONDAY for n in range(-1, 8)] == [-7, 0, 0, 0, 0, 0, 0, 0, 7]
    later = [(MONDAY + n, user, item) for n in (0, 1) for user in (0, 1, 2) for item in (4, 5)]
    for field in ("ptr", "target", "weight"):
        before, after = (
            getattr(bought_together(a_log(stocked(lines)), MONDAY), field) for lines in (LINES, [*LINES, *later])
        )
        np.testing.assert_array_equal(before, after)


def test_an_item_keeps_its_strongest_edges_only():
    lines = [(MONDAY - n, user, item) for n in (1, 2) for user in range(3) for item in range(30)]
    graph = bought_together(a_log(lines, items=30), MONDAY)
    assert np.diff(graph.ptr).tolist() == [EDGES] * 30


def test_departments_are_the_first_level_of_the_path(morning):
    assert feature(morning, "department_share", 2) == pytest.approx(math.log1p(100))
    assert feature(morning, "department_share", 8) == 0
    assert feature(morning, "department_days_since", 8) == pytest.approx(math.log1p(400))
    assert feature(morning, "share_in_category", 7) == pytest.approx(math.log(1 + 1e-4), abs=1e-6), (
        "nothing else of its category"
    )


def test_what_is_unknown_is_not_a_number(morning):
    for name in NULLABLE:
        assert math.isnan(feature(morning, name, 7, user=None))
    others = set(feature_names(morning.items)) - set(NULLABLE)
    assert all(math.isfinite(feature(morning, name, 7, user=None)) for name in others)


def test_knowledge_is_saved_with_the_state(morning, tmp_path):
    morning.items.save(tmp_path)
    loaded = ItemState.load(tmp_path)
    rows = np.arange(loaded.size, dtype=np.int32)
    one, other = (featurise(items, morning.histories[0], rows).x for items in (morning.items, loaded))
    np.testing.assert_array_equal(one, other)


def plan_of(day, item, share=1.0):
    return {day: (np.array([item], np.int32), np.array([share], np.float32), np.array([share], np.float32))}


def test_sales_of_this_plan_begin_when_the_promotions_changed():
    by_day = {}
    for day in range(DAY - 10, DAY + 1):
        by_day |= plan_of(day, 3 if day >= DAY - 2 else 5)
    lines = [(DAY - 1, 1, 3), (DAY - 2, 2, 3), (DAY - 3, 1, 3)]
    morning = a_builder(a_log(stocked(lines)), Plans(by_day), knowledge=True).morning(DAY)
    assert feature(morning, "plan_age", 3) == 2
    assert feature(morning, "plan_sales", 3) == pytest.approx(math.log1p(2)), "the third sale was before this plan"
    assert feature(morning, "plan_price", 3) == pytest.approx(0, abs=1e-6)


def test_without_plans_the_last_week_counts(morning):
    assert feature(morning, "plan_age", 0) == 7


def test_variety_is_the_share_of_lines_that_were_other_items(morning):
    lines = [(DAY - n, 0, item) for n, item in ((9, 0), (8, 0), (7, 1), (6, 9))]
    shopper = a_builder(a_log(stocked(lines)), knowledge=True).morning(DAY)
    assert feature(shopper, "type_variety", 2) == pytest.approx(2 / 3), "two items in three lines of the type"
    assert feature(shopper, "type_variety", 10) == pytest.approx(1.0)
    assert feature(shopper, "type_variety", 4) == 0
