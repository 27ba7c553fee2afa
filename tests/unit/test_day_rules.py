"""The rules about a day as a whole: each on days that differ in the one thing it is about."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest

from expectations.day_rules import DAY_RULES, usual_rows
from tasks.domain.behaviour import next_day
from tasks.validate_data import load_policy
from tests.behaviour_builders import FIRST, a_day, an_event
from tests.rule_builders import DAY, a_past, the_day

POLICY_OF = load_policy()
RULES = {rule.name: rule for rule in DAY_RULES}


def said(name, day):
    return RULES[name].check(day, POLICY_OF.days[name].settings)


@pytest.mark.parametrize("rows", [1, 99])
def test_a_handful_of_rows_is_no_day(rows):
    assert f"{rows} rows" in said("too_few", the_day(a_day(DAY, rows)))
    assert said("too_few", the_day(a_day(DAY, 100))) is None


def weeks_before(rows):
    return {(datetime.fromisoformat(DAY).date() - timedelta(weeks=w)).isoformat(): n for w, n in enumerate(rows, 1)}


@pytest.mark.parametrize(
    ("rows", "stops"),
    [(150, False), (91, False), (89, True), (262, False), (263, True)],
)
def test_row_count_is_held_against_the_same_weekday(rows, stops):
    history = weeks_before([150, 150, 150, 150])
    assert bool(said("row_count", the_day(a_day(DAY, rows), past=a_past(rows_before=history)))) == stops


def test_row_count_falls_back_to_any_seven_days_before_there_are_enough_weeks():
    days = {f"2017-01-{day}": 150 for day in range(26, 32)}
    assert said("row_count", the_day(a_day(DAY, 89), past=a_past(rows_before=days))) is None
    assert said("row_count", the_day(a_day(DAY, 89), past=a_past(rows_before=days | {"2017-01-25": 150}))) is not None


def test_row_count_says_nothing_without_a_past_and_ignores_empty_and_later_days():
    assert said("row_count", the_day(a_day(DAY, 7))) is None
    later = {"2017-02-08": 10_000, "2017-02-15": 10_000, "2017-02-22": 10_000}
    assert usual_rows(DAY, later | weeks_before([0, 0, 0]), POLICY_OF.days["row_count"].settings) is None


@pytest.mark.parametrize(("last", "stops"), [("2017-01-31", False), ("2017-01-24", False), ("2017-01-23", True)])
def test_a_week_without_an_accepted_day_is_not_jumped_over(last, stops):
    before = {next_day(last, -n): 150 for n in range(7)}
    told = said("freshness", the_day(a_day(DAY), past=a_past(rows_before=before)))
    assert bool(told) == stops and (
        not stops or "none of the 8 days before it was accepted, the last one was 2017-01-23" in told
    )
    later = {next_day(DAY, n): 150 for n in range(1, 9)}
    assert said("freshness", the_day(a_day(DAY), past=a_past(rows_before=later))) is None, "later days are no past"


@pytest.mark.parametrize("column", ["value", "item_id", "user_id"])
def test_a_column_without_any_value_is_named(column):
    assert said("all_null", the_day(a_day(DAY, **{column: None}))) == f"no value at all in {column}"


def test_a_column_of_nan_is_as_empty_as_one_of_nulls():
    assert said("all_null", the_day(a_day(DAY, value=math.nan))) == "no value at all in value"
    assert said("all_null", the_day([*a_day(DAY, value=math.nan), an_event(999, DAY)])) is None


def test_the_first_day_of_a_log_can_be_judged():
    day = the_day(a_day(FIRST), day=FIRST)
    assert [rule.name for rule in DAY_RULES if rule.check(day, POLICY_OF.days[rule.name].settings)] == []


def shown_day(day, n=0, rows=1200, clicks=10, **columns):
    """A day of a page: impressions on ten positions, one click in `clicks`; the hours and users vary a little by `n`."""
    made = []
    for at in range(rows):
        kind = "click" if at % clicks == n % clicks else "impression"
        when = datetime.fromisoformat(f"{day}T00:00:00+00:00") + timedelta(minutes=(at * 7 + n) % 1440)
        made.append(an_event(at, day, event_type=kind, position=at // clicks % 10, event_time=when, **columns))
    return made


BEFORE = {next_day(DAY, -n): shown_day(next_day(DAY, -n), n) for n in range(1, 23)}
PAST = a_past(BEFORE)
SOUND = shown_day(DAY)


def test_every_rule_is_silent_on_a_day_like_the_days_before():
    assert [rule.name for rule in DAY_RULES if said(rule.name, the_day(SOUND, PAST))] == []


def changed(**columns):
    return [row | {name: value(n, row) for name, value in columns.items()} for n, row in enumerate(SOUND)]


CASES = [
    pytest.param(
        "missing", changed(value=lambda n, row: None if n % 3 else row["value"]), "value: 0.0% -> 66", id="missing"
    ),
    pytest.param(
        "visits", [r | {"session_id": f"basket-{n % 8}"} for n, r in enumerate(SOUND)], "same weekdays", id="few visits"
    ),
    pytest.param(
        "copied_day",
        [
            r | {"event_id": f"new-{n}", "event_time": r["event_time"] + timedelta(days=3)}
            for n, r in enumerate(BEFORE["2017-01-29"])
        ],
        "repeat the user",
        id="an old day under a new date",
    ),
    pytest.param("hours", [r for r in SOUND if r["event_time"].hour != 13], "13h: 0 instead of", id="a lost hour"),
    pytest.param("watermark", [r for r in SOUND if r["event_time"].hour < 15], "is of 14:5", id="the end is missing"),
    pytest.param(
        "concentration",
        changed(user_id=lambda n, row: "bot" if n % 4 == 0 else row["user_id"]),
        "top user",
        id="one actor",
    ),
    pytest.param(
        "boosted_item",
        changed(item_id=lambda n, row: "item-3" if n % 8 == 0 else row["item_id"]),
        "item-3",
        id="one item",
    ),
    pytest.param(
        "label_rate",
        changed(event_type=lambda n, row: "click" if n % 4 == 0 else row["event_type"]),
        "surface recommendation: click",
        id="clicks from nowhere",
    ),
    pytest.param(
        "logging_change",
        changed(position=lambda n, row: 0),
        "impressions by position",
        id="positions that are not logged",
    ),
    pytest.param("logging_change", [r for r in SOUND if r["event_type"] != "click"], "no click at all", id="no clicks"),
    pytest.param("drift", changed(quantity=lambda n, row: float(n % 7)), "quantity", id="another distribution"),
    pytest.param(
        "strangers", changed(user_id=lambda n, row: f"new-{n % 25}"), "100.0% of the rows", id="nobody is known"
    ),
]


@pytest.mark.parametrize(("rule", "rows", "sentence"), CASES)
def test_a_rule_says_what_is_wrong_with_numbers(rule, rows, sentence):
    assert sentence in said(rule, the_day(rows, PAST))
    assert said(rule, the_day(rows)) is None  # without a past there is nothing to compare with


def test_a_clock_three_hours_ahead_is_told_from_the_shape_of_the_day():
    def by_day(day, ahead=0):
        noon = datetime.fromisoformat(f"{day}T12:00:00+00:00") + timedelta(hours=ahead)
        return [an_event(n, day, event_time=noon + timedelta(minutes=(n % 25 - 12) * 20)) for n in range(600)]

    past = a_past({day: by_day(day) for day in BEFORE})
    assert said("clock_shift", the_day(by_day(DAY), past)) is None
    assert "the clock seems +3 h off" in said("clock_shift", the_day(by_day(DAY, 3), past))
