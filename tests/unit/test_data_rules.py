"""The rules that no schema check replaces, each on a handful of rows, and the decisions made of them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.rules import DAY_RULES, ROW_RULES, Day, usual_rows
from expectations.verdicts import REFERENCE
from tasks.domain.data_policy import Finding, RowRule, band, judge_rows, verdict_of
from tasks.domain.errors import InputRejected
from tasks.validate_data import POLICY, load_policy
from tests.behaviour_builders import FIRST, ITEMS, a_day, an_event, events_frame

DAY = "2017-02-01"
NOON = datetime(2017, 2, 1, 12, tzinfo=UTC)
POLICY_OF = load_policy()


def the_day(rows, reference=(), rows_before=None):
    return Day(
        day=DAY,
        events=events_frame(list(rows)).with_row_index("row"),
        items=pl.Series([f"item-{n}" for n in range(ITEMS)]),
        reference=pl.DataFrame(list(reference), schema=REFERENCE, orient="row"),
        rows_before=rows_before or {},
    )


def caught(name, day):
    rule = next(rule for rule in ROW_RULES if rule.name == name)
    hits = rule.catch(day, POLICY_OF.rows[name].settings)
    assert (len(hits), hits.dtype, hits.null_count()) == (len(day.events), pl.Boolean, 0)
    return [row for row, hit in enumerate(hits) if hit]


def said(name, day):
    rule = next(rule for rule in DAY_RULES if rule.name == name)
    return rule.check(day, POLICY_OF.days[name].settings, POLICY_OF.model_inputs)


USUAL = [(f"old-{n}", "item-1", 3.0) for n in range(5)]
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
    assert len(ROW_RULES) == 9
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
    assert bool(said("row_count", the_day(a_day(DAY, rows), rows_before=history))) == stops


def test_row_count_falls_back_to_any_seven_days_before_there_are_enough_weeks():
    days = {f"2017-01-{day}": 150 for day in range(26, 32)}
    assert said("row_count", the_day(a_day(DAY, 89), rows_before=days)) is None
    assert said("row_count", the_day(a_day(DAY, 89), rows_before=days | {"2017-01-25": 150})) is not None


def test_row_count_says_nothing_without_a_past_and_ignores_empty_and_later_days():
    assert said("row_count", the_day(a_day(DAY, 7))) is None
    later = {"2017-02-08": 10_000, "2017-02-15": 10_000, "2017-02-22": 10_000}
    assert usual_rows(DAY, later | weeks_before([0, 0, 0]), POLICY_OF.days["row_count"].settings) is None


@pytest.mark.parametrize("column", ["value", "item_id", "user_id"])
def test_a_column_without_any_value_is_named(column):
    assert said("all_null", the_day(a_day(DAY, **{column: None}))) == f"no value at all in {column}"


def test_a_column_of_nan_is_as_empty_as_one_of_nulls():
    assert said("all_null", the_day(a_day(DAY, value=math.nan))) == "no value at all in value"
    assert said("all_null", the_day([*a_day(DAY, value=math.nan), an_event(999, DAY)])) is None


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12), st.floats(0, 10))
def test_the_band_holds_the_median_and_does_not_depend_on_order(history, mads):
    low, high = band(history, mads, 0.4, 0.75)
    middle = sorted(history)[len(history) // 2]
    assert 0 <= low <= high
    assert band(history[::-1], mads, 0.4, 0.75) == (low, high)
    assert low <= middle or len(history) % 2 == 0


@given(caught_rows=st.integers(0, 1000), more=st.integers(0, 1000))
def test_more_caught_rows_never_make_a_milder_outcome(caught_rows, more):
    order = ["pass", "quarantine", "refuse"]
    rule = RowRule(action="quarantine", budget=0.1, beyond="refuse")
    few, many = (judge_rows("r", rule, min(n, 1000), 1000, "why").outcome for n in (caught_rows, caught_rows + more))
    assert order.index(few) <= order.index(many)


def a_finding(outcome):
    return Finding(rule="r", outcome=outcome, rows=0, sentence="s")


@pytest.mark.parametrize(
    ("outcomes", "rows", "verdict"),
    [
        (["pass", "pass"], 10, "pass"),
        (["mark", "quarantine"], 10, "pass"),
        (["hold", "pass"], 10, "hold"),
        (["hold", "refuse"], 10, "refuse"),
        (["pass"], 0, "empty"),
        (["refuse"], 0, "refuse"),
        ([], 10, "hold"),
    ],
)
def test_the_worst_finding_decides_and_nothing_judged_is_no_pass(outcomes, rows, verdict):
    assert verdict_of([a_finding(outcome) for outcome in outcomes], rows) == verdict


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  duplicate: ", "  dupe: ", "rows: missing duplicate, unknown dupe"),
        ("value]", "price]", "model_inputs: missing nothing, unknown price"),
        ("action: mark", "action: delete", "cannot be used"),
        ("budget: 0.05", "budget: 5", "cannot be used"),
    ],
)
def test_a_policy_that_does_not_fit_the_rules_is_refused(tmp_path, old, new, sentence):
    text = POLICY.read_text()
    assert old in text
    path = tmp_path / "data.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputRejected, match=sentence):
        load_policy(path)


def test_the_first_day_of_a_log_can_be_judged():
    day = Day(
        FIRST, events_frame(a_day()).with_row_index("row"), pl.Series(["item-0"]), pl.DataFrame(schema=REFERENCE), {}
    )
    assert all(
        rule.check(day, POLICY_OF.days[rule.name].settings, POLICY_OF.model_inputs) is None for rule in DAY_RULES
    )
