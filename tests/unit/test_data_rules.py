"""The rules that no schema check replaces, each on a handful of rows, and the decisions made of them."""

from __future__ import annotations

import math
from datetime import timedelta

import polars as pl
import pytest

from expectations.row_rules import ROW_RULES
from tasks.validate_data import load_policy
from tests.behaviour_builders import a_day, an_event
from tests.rule_builders import DAY, NOON, a_past, the_day

POLICY_OF = load_policy()
ROWS = {rule.name: rule for rule in ROW_RULES}


def caught(name, day):
    hits = ROWS[name].catch(day, POLICY_OF.rows[name].settings)
    assert (len(hits), hits.dtype, hits.null_count()) == (len(day.events), pl.Boolean, 0)
    return [row for row, hit in enumerate(hits) if hit]


# five lines of item-1 at 3.0 on the day before; item-2 was never sold
USUAL = a_past({"2017-01-31": [an_event(1, "2017-01-31", event_id=f"old-{n}", value=3.0) for n in range(5)]})
CASES = [
    pytest.param("duplicate", {2: {"event_id": f"{DAY}-00000"}}, [2], id="the second row of one event id"),
    pytest.param("replayed", {1: {"event_id": "old-3"}}, [1], id="an event id of an earlier day"),
    pytest.param("unknown_item", {0: {"item_id": "ghost"}}, [0], id="an item the table does not know"),
    pytest.param("not_finite", {0: {"value": math.nan}, 2: {"discount": math.inf}}, [0, 2], id="NaN and infinity"),
    pytest.param(
        "wrong_day", {1: {"event_time": NOON + timedelta(hours=12)}}, [1], id="the first moment of the next day"
    ),
    pytest.param(
        "late",
        {1: {"event_time": NOON - timedelta(hours=12, microseconds=1)}},
        [1],
        id="the last moment of the day before",
    ),
    pytest.param(
        "stale",
        {1: {"event_time": NOON - timedelta(days=8)}, 2: {"event_time": NOON - timedelta(days=7)}},
        [1],
        id="eight days old, not seven",
    ),
    pytest.param("price_outlier", {1: {"value": 300.0}}, [1], id="a hundred times the usual price"),
    pytest.param("price_outlier", {1: {"value": 0.03}}, [1], id="a hundredth of the usual price"),
    pytest.param("price_outlier", {1: {"value": 300.0, "quantity": 100.0}}, [], id="many pieces at the usual price"),
    pytest.param("price_outlier", {1: {"value": 0.0}}, [], id="a line for nothing has no unit price"),
    pytest.param("price_outlier", {2: {"value": 900.0}}, [], id="an item without a usual price"),
]


@pytest.mark.parametrize(("rule", "changes", "expected"), CASES)
def test_a_rule_catches_the_row_it_is_about_and_no_other(rule, changes, expected):
    day = the_day((an_event(n, DAY, **changes.get(n, {})) for n in range(4)), USUAL)
    assert caught(rule, day) == expected


def test_every_row_rule_is_silent_on_sound_rows_and_nulls_and_no_rows():
    assert set(ROWS) | {"contract"} == set(POLICY_OF.rows)
    nulls = dict.fromkeys(("event_id", "event_time", "item_id", "user_id", "value", "quantity", "discount"))
    for rule in ROW_RULES:
        assert caught(rule.name, the_day(a_day(DAY))) == []
        assert caught(rule.name, the_day([an_event(0, DAY, **nulls)], USUAL)) == []
        assert caught(rule.name, the_day([])) == []


def test_a_flood_of_one_user_is_caught_whole_and_a_big_shopper_is_not():
    crowd = a_day(DAY, 900)
    big = [an_event(1000 + n, DAY, user_id="big") for n in range(99)]
    bot = [an_event(2000 + n, DAY, user_id="bot") for n in range(430)]
    day = the_day([*crowd, *big, *bot])
    assert caught("user_flood", day) == list(range(999, 1429))


def caught_of(name, *rows):
    return caught(name, the_day([an_event(n, DAY, **{"event_time": NOON, **row}) for n, row in enumerate(rows)]))


def test_a_day_in_which_everything_happens_at_once_is_no_retry_storm_but_one_that_repeats_within_seconds_is():
    act = {"user_id": "u", "item_id": "item-1", "value": 2.0}
    later = NOON + timedelta(seconds=4)
    assert caught_of("retry", act, act) == []
    assert caught_of("retry", act, act | {"event_time": later}, act | {"event_time": later + timedelta(seconds=4)}) == [
        1,
        2,
    ]
    assert caught_of("retry", act, act | {"event_time": later, "value": 3.0}) == []
    assert caught_of("retry", act, act | {"event_time": later, "user_id": "other"}) == []
    assert caught_of("retry", act, act | {"event_time": later, "event_type": "click"}) == []
    assert caught_of("retry", act, act | {"event_time": NOON + timedelta(seconds=11)}) == []


def test_two_rows_of_one_user_item_and_moment_are_marked_but_for_the_first():
    act = {"user_id": "u", "item_id": "item-1"}
    assert caught_of("same_moment", act, act | {"value": 9.0}, act | {"item_id": "item-2"}) == [1]


def test_a_user_who_acts_twice_a_second_all_day_is_a_script_and_a_big_basket_is_not():
    settings = POLICY_OF.rows["superhuman"].settings
    times = int(settings["times"]) + 2
    clicks = [an_event(n, DAY, user_id="bot", event_time=NOON + timedelta(seconds=0.2 * n)) for n in range(times)]
    basket = [an_event(100 + n, DAY, user_id="big", event_time=NOON) for n in range(times)]
    seen = [an_event(200 + n, DAY, user_id="reader", event_type="impression") for n in range(times)]
    seen = [row | {"event_time": NOON + timedelta(seconds=0.1 * n)} for n, row in enumerate(seen)]
    assert caught("superhuman", the_day([*clicks, *basket, *seen])) == list(range(times))


def test_the_rows_of_a_user_beyond_the_cap_are_the_last_ones_by_time():
    cap = int(POLICY_OF.rows["over_cap"].settings["rows"])
    rows = [an_event(n, DAY, user_id="u", event_time=NOON - timedelta(seconds=n)) for n in range(cap + 2)]
    assert caught("over_cap", the_day([*rows, *a_day(DAY)])) == [0, 1]


SHOWN = {"event_type": "impression", "request_id": "r1", "item_id": "item-1", "user_id": "u"}


def test_a_click_needs_an_impression_of_the_same_request_and_item_before_it():
    click = SHOWN | {"event_type": "click", "event_time": NOON + timedelta(seconds=5)}
    early = SHOWN | {"event_type": "click", "event_time": NOON - timedelta(seconds=5)}
    elsewhere, unasked = click | {"request_id": "r2"}, click | {"request_id": None}
    rows = (SHOWN, click, early, elsewhere, unasked)
    assert caught_of("click_before_impression", *rows) == [2]
    assert caught_of("orphan_click", *rows) == [3, 4]
    assert caught_of("orphan_click", click, elsewhere) == []  # nothing is said where impressions are not logged


def test_a_till_in_another_currency_is_caught_whole_and_its_neighbours_are_not():
    before = a_past({"2017-01-31": [an_event(n, "2017-01-31", value=3.0) for n in range(200)]})
    rows = [
        an_event(n, DAY, value=6.0 if n % 2 else 3.0, store_id=f"shop-{n % 2}", item_id=f"item-{n // 2 % 20}")
        for n in range(80)
    ]
    assert caught("store_prices", the_day(rows, before)) == list(range(1, 80, 2))
    assert caught("store_prices", the_day(rows[:28], before)) == []  # fourteen items say too little of a store
