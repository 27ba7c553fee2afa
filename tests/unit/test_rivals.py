"""What stands beside a candidate: LightGBM learns the rule, counting counts, and who loses to them is told or refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tasks.domain.errors import InputRejected
from tasks.domain.evidence import Rival
from tasks.domain.gate import Outcome, choose, decide
from tasks.evaluation import rivals
from tasks.evaluation.rivals import Boosted, own_order, popular_order
from tasks.explain.text import finding_lines, headline
from tasks.gate_evidence import gather
from tasks.ranker.fitted import Inputs
from tests.unit.evidence import POLICY, evidence
from tests.unit.test_gate_evidence import CHAMPION, facts, some_slates

INPUTS = Inputs(features=("noise", "signal"))


def a_slate(draws, rows=12):
    """Bought is what has the highest signal; the first feature says nothing."""
    x = draws.random((rows, 2)).astype(np.float32)
    bought = int(np.argmax(x[:, 1]))
    return x, bought


def training_days(days=6, slates=30, rows=12):
    """{day: rows as build_dataset leaves them}, of which the oldest day teaches the opposite."""
    draws, made = np.random.default_rng(0), {}
    for day in range(days):
        x, grade = [], []
        for _ in range(slates):
            one, bought = a_slate(draws)
            x.append(-one if day == 0 else one)
            grade.append(3 * (np.arange(rows) == bought))
        made[f"2017-01-0{day + 1}"] = SimpleNamespace(
            x=np.concatenate(x).astype(np.float16),
            position=np.full(slates * rows, -1, np.int16),
            label=np.concatenate(grade) > 0,
            grade=np.concatenate(grade).astype(np.uint8),
            weight=np.ones(slates * rows, np.float32),
            ptr=np.arange(slates + 1) * rows,
        )
    return made


def a_dataset(made):
    return SimpleNamespace(
        fitted=SimpleNamespace(inputs=INPUTS),
        split=SimpleNamespace(train_days=tuple(made)),
        training_rows=lambda days: (made[day] for day in days),
    )


def judged(x, bought):
    slate = SimpleNamespace(positives=np.array([bought]), new=np.array([True]))
    ranked = SimpleNamespace(candidates=np.arange(len(x)), known=np.arange(len(x)), x=x)
    return SimpleNamespace(ranked=ranked, slate=slate, past=np.zeros(len(x), bool))


def test_lightgbm_learns_what_the_rows_teach_and_again_the_same():
    made, draws = training_days(), np.random.default_rng(9)
    boosted, again = Boosted(a_dataset(made)), Boosted(a_dataset(made))
    tries = [a_slate(draws) for _ in range(40)]
    rows = [boosted.rank(judged(*one)) for one in tries]
    assert np.mean([row["mrr[all]"] for row in rows]) > 0.8, "by chance .26"
    assert rows == [again.rank(judged(*one)) for one in tries]
    assert boosted.facts == {"rows": 6 * 30 * 12, "slates": 180, "trees": rivals.TREES}


def test_only_the_newest_days_are_learned_from_when_there_are_too_many_rows(monkeypatch):
    monkeypatch.setattr(rivals, "MOST_ROWS", 3 * 30 * 12 + 5)
    assert Boosted(a_dataset(training_days())).facts["slates"] == 90
    monkeypatch.setattr(rivals, "MOST_ROWS", 1)
    assert Boosted(a_dataset(training_days())).facts["slates"] == 30, "one day at least"
    with pytest.raises(InputRejected, match="no slate, so no simpler model"):
        Boosted(a_dataset({}))


def test_an_item_that_the_state_does_not_know_is_ranked_last():
    boosted, (x, bought) = Boosted(a_dataset(training_days())), a_slate(np.random.default_rng(3))
    one = judged(x, bought)
    one.ranked.known = np.arange(len(x) - 1)
    one.ranked.x = x[:-1]
    one.slate.positives = np.array([len(x) - 1])
    assert boosted.rank(one)["mrr[all]"] == pytest.approx(1 / len(x))


def test_counting_by_hand():
    items = SimpleNamespace(size=4, sales28=np.array([5.0, 9, 1, 7]))
    by_item = SimpleNamespace(keys=np.array([0, 2, 6]), counts=np.array([1, 3, 9]))
    one = SimpleNamespace(ranked=SimpleNamespace(profile=SimpleNamespace(items=items, by_item=by_item)))
    assert own_order(one).tolist() == [2, 0, 1, 3], "row 6 left the catalogue"
    assert popular_order(one).tolist() == [1, 3, 0, 2]


def a_rival(difference, name="lightgbm", half_width=0.002):
    return Rival(
        name=name,
        metric="ndcg_at_10",
        rival=0.4,
        candidate=0.4 + difference,
        difference=difference,
        lower=difference - half_width,
        upper=difference + half_width,
        slates=800,
    )


def under(*must_beat):
    weights = POLICY.weights.model_copy(update={"must_beat": must_beat})
    return POLICY.model_copy(update={"weights": weights})


@pytest.mark.parametrize(
    ("difference", "must_beat", "outcome", "warns"),
    [
        (-0.003, (), Outcome.PASS, True),
        (-0.003, ("lightgbm",), Outcome.FAIL, False),
        (-0.001, ("lightgbm",), Outcome.PASS, False),
        (0.003, ("lightgbm",), Outcome.PASS, False),
    ],
)
def test_losing_to_a_simpler_model_warns_or_blocks_as_the_policy_says(difference, must_beat, outcome, warns):
    given = evidence().model_copy(update={"rivals": (a_rival(difference),)})
    verdict = decide(given, under(*must_beat))
    (finding,) = (one for one in verdict.findings if one.name == "against_lightgbm")
    assert (verdict.outcome, finding.outcome, finding.warns) == (outcome, outcome, warns)
    assert (finding.next_step != "nothing to do") == (difference == -0.003)
    decision = choose((verdict,), POLICY)
    assert ("Warning on the weights: against_lightgbm[all]." in headline(decision)) == warns
    assert any(line.startswith("warn  against_lightgbm") for line in finding_lines([finding.model_dump()])) == warns


def test_a_simpler_model_that_must_be_beaten_and_was_not_asked_is_inconclusive():
    verdict = decide(evidence(), under("gp_topfreq"))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "against_gp_topfreq: not compared" in verdict.reason


def test_rivals_are_compared_on_the_slates_of_the_candidate():
    slates = some_slates()
    better = slates["candidate.ndcg_at_10[all]"].to_numpy() + 0.01
    slates = slates.append_column("rival.lightgbm.ndcg_at_10[all]", [better])
    slates = slates.append_column("rival.lightgbm.mrr[all]", [better])
    found = gather("weights", facts(slates), slates, {}, CHAMPION, POLICY, 1)
    (row,) = found.rivals
    assert (row.name, row.slates) == ("lightgbm", 600)
    assert row.difference == pytest.approx(-0.01) and row.lower == pytest.approx(row.upper) == pytest.approx(-0.01)
    assert row.rival - row.candidate == pytest.approx(0.01)
    better[3] = np.nan
    wrong = slates.set_column(
        slates.column_names.index("rival.lightgbm.ndcg_at_10[all]"), "rival.lightgbm.ndcg_at_10[all]", [better]
    )
    with pytest.raises(InputRejected, match="NaN or infinite on 1 of 600"):
        gather("weights", facts(wrong), wrong, {}, CHAMPION, POLICY, 1)
