"""The nightly trials, small: made-up systems in place of trained ones. A gate that errs must be caught erring."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.domain.errors import InputRejected
from tasks.domain.gate import Outcome
from tasks.gate_trials import trials
from tasks.gate_trials.error_rates import HEAD, as_json, rows_of, run_trials, verdict
from tasks.gate_trials.nightly import equal_timings, page, require_bars
from tasks.gate_trials.trials import SOUND, Kind, Scores, Trial, for_trials, hurts, kinds_of, mixed
from tests.unit.evidence import POLICY

USERS, SLATES = 100, 300
TIMES = {
    f"{what}.{side}": np.random.default_rng(n).lognormal(1, 0.1, 400)
    for n, (what, side) in enumerate((w, s) for w in ("wall", "cpu") for s in ("champion", "candidate"))
}
GATE = for_trials(
    POLICY.model_copy(
        update={
            "latency_ratio": {"p50": 1.15, "p95": 1.25, "cpu": 1.15},
            "weights": POLICY.weights.model_copy(update={"minimum_slates": 100}),
        }
    ),
    TIMES,
)
HIDDEN = ("half_the_catalogue_missing", "truncated_history", "stale_state")


def some_scores(seeds=3, harmless=()):
    """Sound systems differ by noise; a damaged one loses .2 wherever it is used, `harmless` ones a thousandth."""
    draws = np.random.default_rng(4)
    base = np.clip(draws.beta(0.8, 2.2, SLATES) + 0.25, 0, 1)
    of = {name: base + draws.normal(0, 0.015, SLATES) for name in (SOUND, *(f"seed-{n}" for n in range(1, seeds)))}
    of |= {name: of[SOUND] - (0.001 if name in harmless else 0.2) for name in (*HIDDEN, "constant_scores")}
    nth = np.arange(SLATES)
    user, day = nth % USERS, np.array([f"2017-06-{25 + n}" for n in nth // USERS])
    columns = {name: {"ndcg_at_10[all]": values, "ndcg_at_10[new]": values} for name, values in of.items()}
    return Scores(day, user, user % 2 == 0, columns)


@pytest.fixture(scope="module")
def found():
    return run_trials(some_scores(harmless=("constant_scores",)), GATE, TIMES, itself=4, each=1, fewer=1)


def test_a_sound_gate_lets_seeds_pass_and_damaged_models_not(found):
    told = verdict(found)
    assert [trial.ours for trial in found.itself] == ["pass"] * 4
    assert "pass" not in {trial.ours for trial in found.twice} and len(found.twice) == 6 + 2
    assert {trial.ours for trials in found.by_name.values() for trial in trials} == {"refused"}
    assert not told["broken"] and not told["shown"], "four trials show no 5 %"
    assert "not shown to hold" in told["sentence"] and told["false_promote"] == 0.0
    assert [one.split(" ")[0] for one in found.weak] == ["constant_scores"]
    require_bars(told)


@pytest.mark.parametrize(("always", "bar"), [(Outcome.PASS, "false promote"), (Outcome.FAIL, "false block")])
def test_a_gate_that_errs_breaks_its_bar_and_the_night_is_red(always, bar, monkeypatch):
    monkeypatch.setattr(trials, "gather", lambda *_: None)
    monkeypatch.setattr(trials, "decide", lambda *_: SimpleNamespace(outcome=always, findings=()))
    told = verdict(run_trials(some_scores(), GATE, {}, itself=8, each=2, fewer=1))
    assert told["broken"] and told["sentence"].startswith(f"the gate breaks its bar: {bar} 100.0 (")
    with pytest.raises(InputRejected, match=r"docs/runbooks/gate_error_rates.md"):
        require_bars(told)


def test_the_table_and_the_page_hold_every_kind(found):
    told = as_json(found) | {"policy": "demo", "recipe": "demo", "slates": SLATES}
    assert json.loads(json.dumps(told))["table"][0]["planted"] == "nothing: another seed"
    rows = rows_of(found)
    assert len(rows) == 1 + 8 + 1 + 2 and {len(row) for row in rows} == {len(HEAD)}
    shown = page(told, rows)
    assert all(row[0].split(",")[0] in shown for row in rows) and "constant_scores (" in shown


def test_a_damaged_model_is_given_to_so_many_users_that_the_loss_is_what_was_asked_for():
    scores = some_scores()
    kind = Kind("half_for_heavy", "half_the_catalogue_missing", only="heavy")
    metric, whole = hurts(scores, kind, GATE)
    assert metric == "ndcg_at_10" and whole == pytest.approx(0.2 * scores.heavy.mean() / 0.008)
    lost = [
        np.mean(
            scores.of[SOUND]["ndcg_at_10[all]"]
            - mixed(scores, kind, 2 / whole, np.random.default_rng(n))["ndcg_at_10[all]"]
        )
        for n in range(60)
    ]
    assert np.mean(lost) == pytest.approx(2 * 0.008, rel=0.1)
    assert len(kinds_of(scores)) == len(scores.damages) + 3


def test_what_a_trial_has_no_evidence_for_is_not_asked_of_it():
    weights = POLICY.weights.model_copy(update={"slices": ("new", "new_users"), "must_beat": ("lightgbm",)})
    policy = POLICY.model_copy(update={"weights": weights, "resource_ratio": {"size": 1.2}})
    kept = for_trials(policy, {})
    assert (kept.weights.slices, kept.weights.must_beat) == (("new",), ())
    assert (kept.resource_ratio, kept.latency_ratio) == ({}, {})


def test_timings_of_equal_systems_are_those_of_one_set_of_weights(tmp_path):
    told = {
        name: {"champion": [1.0, 2.0], "state": [1.5, 2.5], "weights": [9.0, 9.0]} for name in ("wall_ms", "cpu_ms")
    }
    (tmp_path / "benchmark.json").write_text(json.dumps(told))
    assert equal_timings(tmp_path)["wall.candidate"].tolist() == [1.5, 2.5]
    assert equal_timings(None) == {}


def test_intervals_are_exact():
    trial = Trial("pass", True, True)
    found = SimpleNamespace(itself=[trial] * 72, twice=[Trial("fail", False, False)] * 72, by_kind={"x": []})
    told = verdict(found)
    assert told["false_promote_high"] == pytest.approx(100 * (1 - 0.025 ** (1 / 72)), abs=0.01)
    assert told["shown"], "72 of 72 show 5 %"
