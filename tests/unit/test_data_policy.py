"""The decisions that are made of what rules find: bands, budgets, verdicts, and the policy file that holds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.data_policy import DayRule, Finding, RowRule, band, judge_rows, judge_training, spread, verdict_of
from tasks.domain.errors import InputRejected
from tasks.validate_data import POLICY, load_policy


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


def test_a_rule_that_is_off_finds_nothing_and_says_so():
    told = judge_rows("r", RowRule(action="off", budget=0, beyond="refuse"), 5, 10, "why")
    assert (told.outcome, told.sentence) == ("pass", "r: switched off by the policy")
    assert DayRule(action="off").action == "off"


def test_a_day_that_a_person_let_pass_is_called_released_and_a_refusal_stays_one():
    assert verdict_of([a_finding("mark")], 10, released=True) == "released"
    assert verdict_of([a_finding("refuse")], 10, released=True) == "refuse"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.floats(-1e6, 1e6))
def test_the_spread_does_not_depend_on_where_the_values_lie(values, by):
    assert spread([value + by for value in values], 3) == pytest.approx(spread(values, 3), abs=1e-3)


@pytest.mark.parametrize(
    ("drift", "balance", "outcomes"),
    [(0.2, 1.0, ["pass", "pass"]), (5.0, 1.0, ["mark", "pass"]), (0.2, 4.0, ["pass", "refuse"])],
)
def test_a_training_set_is_held_against_what_comes_after_it(drift, balance, outcomes):
    findings = judge_training({"train_holdout_drift": drift, "class_balance": balance}, load_policy().training)
    assert [finding.outcome for finding in findings] == outcomes
