"""What would change a verdict is found by asking the gate again; so its answers, given to the gate, must do what they say."""

from __future__ import annotations

import pytest

from tasks.domain.gate import Check, Outcome, choose, decide
from tasks.domain.what_if import MOST_SEARCHED, what_would_change, would_ship
from tests.unit.evidence import POLICY, a_comparison, a_latency, evidence
from tests.unit.test_gate import verdict


def change(given, what, finding="ndcg_at_10[all]"):
    return next(one for one in what_would_change(given, POLICY) if (one.what, one.finding) == (what, finding))


def test_a_bound_that_is_too_wide_says_how_many_more_slates_would_do():
    # the bound lies .004 below -.005, and the allowance is .008: the half width must shrink to .003, so (4/3)^2 slates
    found = change(evidence(a_comparison(-0.005)), "sample")
    assert found.amount == pytest.approx(800 * (4 / 3) ** 2 - 800, abs=1)
    assert found.sentence.startswith("623 more slates (1,423 in all)")


@pytest.mark.parametrize("loss", [-0.005, -0.013])
def test_the_better_candidate_and_the_wider_margin_that_it_names_pass_and_a_little_less_does_not(loss):
    given = evidence(a_comparison(loss))
    gain, margin = (change(given, what).amount for what in ("better", "limit"))
    assert decide(evidence(a_comparison(loss + gain)), POLICY).outcome is Outcome.PASS
    assert decide(evidence(a_comparison(loss + gain - 1e-6)), POLICY).outcome is not Outcome.PASS

    def under(allowed):
        weights = POLICY.weights.model_copy(update={"margin": allowed})
        return decide(given, POLICY.model_copy(update={"weights": weights})).outcome

    assert under(margin) is Outcome.PASS and under(margin - 1e-6) is not Outcome.PASS


def test_no_number_of_slates_saves_what_is_shown_to_be_worse():
    found = what_would_change(evidence(a_comparison(-0.013)), POLICY)
    assert {one.what for one in found} == {"better", "limit"}


def test_too_few_slates_are_counted():
    found = change(evidence(a_comparison(slates=499)), "sample")
    assert found.amount == 1


def test_a_slow_candidate_hears_how_many_milliseconds_too_slow():
    # half width .05 around 1.3: the upper bound 1.35 must come down to 1.2, so a ninth of 6.5 ms
    found = change(evidence(latencies=(a_latency(1.3),)), "better", "p95[all]")
    assert found.amount == pytest.approx(6.5 * (1 - 1.2 / 1.35), abs=1e-4)
    assert "p95 less by 0.72 ms (6.50 -> 5.78 ms)" in found.sentence


def test_few_pairs_a_missing_measurement_a_failed_check_and_a_seen_holdout_are_named():
    assert change(evidence(latencies=(a_latency(1.19),)), "limit", "p95[all]").amount == pytest.approx(1.24, abs=1e-4)
    assert "run the benchmark step" in change(evidence(latencies=()), "measure", "p95[all]").sentence
    failed = evidence(checks=(Check(name="size", value=9, limit=5, ok=False, sentence="9 MB"),))
    assert change(failed, "value", "size[all]").sentence == "size within its limit of 5; it is 9"
    seen = evidence(train_end="2017-06-25")
    assert "refresh a later day" in change(seen, "measure", "champion_saw_holdout[all]").sentence


def test_a_verdict_that_passed_says_what_it_has_to_spare():
    given = evidence()
    spare = change(given, "headroom").amount
    assert decide(evidence(a_comparison(-spare + 1e-6)), POLICY).outcome is Outcome.PASS
    assert decide(evidence(a_comparison(-spare - 1e-6)), POLICY).outcome is not Outcome.PASS


def test_what_would_ship_looks_at_the_other_verdict_too():
    sound = (verdict("weights", Outcome.INCONCLUSIVE), verdict("state", Outcome.PASS))
    assert would_ship("weights", sound, POLICY, "both") == "weights"
    broken = (verdict("weights", Outcome.INCONCLUSIVE), verdict("state", Outcome.FAIL))
    assert would_ship("weights", broken, POLICY, "both") == "none"
    assert choose(sound, POLICY).shipped == "state", "the question changes nothing"


def test_of_a_hundred_slices_only_the_nearest_to_their_limits_are_searched():
    rows = [a_comparison(), *(a_comparison(0.001 * n, slice=f"s{n:02d}") for n in range(40))]
    found = what_would_change(evidence(*rows), POLICY)
    assert len(found) <= MOST_SEARCHED
    assert {"ndcg_at_10[all]", "p95[all]", "ndcg_at_10[s00]"} <= {one.finding for one in found}
