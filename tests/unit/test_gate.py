"""The gate's decisions, on small evidence. Each rule has a twin that feeds it bad evidence and watches it refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import InputRejected
from tasks.domain.gate import (
    Check,
    Comparison,
    Evidence,
    GatePolicy,
    LatencyRatio,
    Outcome,
    QualityPolicy,
    choose,
    decide,
)

POLICY = GatePolicy(
    name="test",
    weights=QualityPolicy(margin=0.008, minimum_slates=500),
    state=QualityPolicy(margin=0.005, must_prove=False, minimum_slates=50),
    bootstrap=QualityPolicy(margin=0.001, minimum_slates=200),
    latency_ratio={"p95": 1.2},
    minimum_pairs=100,
)


def a_comparison(difference=0.0, *, half_width=0.004, slice="all", slates=800, p=0.5, champion=0.400):
    return Comparison(
        name="ndcg_at_10",
        slice=slice,
        champion=champion,
        candidate=champion + difference,
        difference=difference,
        lower=difference - half_width,
        upper=difference + half_width,
        p_harm_beyond=p,
        smallest_detectable=half_width * 1.5,
        slates=slates,
    )


def a_latency(ratio=1.0, *, half_width=0.05, pairs=300):
    return LatencyRatio(
        name="p95",
        champion_ms=5,
        candidate_ms=5 * ratio,
        ratio=ratio,
        lower=ratio - half_width,
        upper=ratio + half_width,
        pairs=pairs,
    )


def evidence(
    *comparisons,
    kind="weights",
    latencies=(a_latency(),),
    checks=(),
    digest="a" * 64,
    champion_digest="a" * 64,
    train_end="2017-06-16",
):
    return Evidence(
        kind=kind,
        holdout_digest=digest,
        champion_holdout_digest=champion_digest,
        holdout_first_day="2017-06-25",
        champion_train_end=train_end,
        comparisons=comparisons or (a_comparison(),),
        latencies=latencies,
        checks=checks,
    )


@pytest.mark.parametrize(
    ("given_evidence", "expected"),
    [
        pytest.param(evidence(), Outcome.PASS, id="equal and precise"),
        pytest.param(evidence(a_comparison(-0.003)), Outcome.PASS, id="loss and bound inside the margin"),
        pytest.param(evidence(a_comparison(-0.005)), Outcome.INCONCLUSIVE, id="bound outside the margin"),
        pytest.param(evidence(a_comparison(-0.013)), Outcome.FAIL, id="shown to be worse than the margin"),
        pytest.param(
            evidence(a_comparison(0.01, half_width=0.03)), Outcome.INCONCLUSIVE, id="looks better, proves nothing"
        ),
        pytest.param(evidence(a_comparison(slates=499)), Outcome.INCONCLUSIVE, id="one slate too few"),
        pytest.param(evidence(a_comparison(-0.03, slates=499)), Outcome.FAIL, id="few slates and clearly bad is bad"),
        pytest.param(evidence(latencies=()), Outcome.INCONCLUSIVE, id="latency not measured"),
        pytest.param(evidence(latencies=(a_latency(1.18),)), Outcome.INCONCLUSIVE, id="latency bound outside"),
        pytest.param(evidence(latencies=(a_latency(1.3),)), Outcome.FAIL, id="shown to be slower"),
        pytest.param(evidence(latencies=(a_latency(pairs=99),)), Outcome.INCONCLUSIVE, id="too few pairs"),
        pytest.param(evidence(train_end="2017-06-25"), Outcome.INCONCLUSIVE, id="champion has seen the holdout"),
        pytest.param(
            evidence(a_comparison(), a_comparison(-0.03, slice="new", p=0.001)), Outcome.FAIL, id="slice harmed"
        ),
        pytest.param(evidence(a_comparison(), a_comparison(-0.03, slice="new", p=0.2)), Outcome.PASS, id="slice noise"),
        pytest.param(
            evidence(a_comparison(), a_comparison(-0.3, slice="new", p=0.001, slates=10)), Outcome.PASS, id="tiny slice"
        ),
        pytest.param(
            evidence(a_comparison(), *(a_comparison(slice=f"s{i}", p=0.04) for i in range(3))),
            Outcome.PASS,
            id="Holm: three slices at 4 % are noise",
        ),
        pytest.param(
            evidence(checks=(Check(name="size", value=9, limit=5, ok=False, sentence="9 MB"),)),
            Outcome.FAIL,
            id="check",
        ),
        pytest.param(
            evidence(a_comparison(-0.004), kind="state"),
            Outcome.PASS,
            id="state: one day proves nothing, harms nothing",
        ),
        pytest.param(evidence(a_comparison(-0.012), kind="state"), Outcome.FAIL, id="state: significant harm"),
        pytest.param(
            evidence(kind="bootstrap", latencies=(), train_end=None),
            Outcome.INCONCLUSIVE,
            id="first champion must prove a gain",
        ),
    ],
)
def test_outcome(given_evidence, expected):
    verdict = decide(given_evidence, POLICY)
    assert verdict.outcome is expected, verdict.reason
    assert verdict.reason


def test_scores_from_two_holdouts_are_refused_by_name():
    with pytest.raises(InputRejected, match="holdout bbbbbbbbbbbb but champion on aaaaaaaaaaaa"):
        decide(evidence(digest="b" * 64), POLICY)


def test_evidence_without_a_total_or_with_a_slice_twice_is_refused():
    with pytest.raises(InputRejected, match="no ndcg_at_10 on `all`"):
        decide(evidence(a_comparison(slice="new")), POLICY)
    with pytest.raises(InputRejected, match="twice"):
        decide(evidence(a_comparison(), a_comparison()), POLICY)


def test_a_latency_without_a_limit_is_refused():
    odd = a_latency().model_copy(update={"name": "p12"})
    with pytest.raises(InputRejected, match="no limit for p12"):
        decide(evidence(latencies=(odd,)), POLICY)


@given(loss=st.floats(-0.05, 0.05), gain=st.floats(0, 0.05), width=st.floats(0.0001, 0.02))
def test_a_better_score_never_makes_the_verdict_worse(loss, gain, width):
    order = [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]
    worse = decide(evidence(a_comparison(loss, half_width=width)), POLICY).outcome
    better = decide(evidence(a_comparison(loss + gain, half_width=width)), POLICY).outcome
    assert order.index(better) >= order.index(worse)


def verdict(kind, outcome):
    difference = {Outcome.PASS: 0.0, Outcome.INCONCLUSIVE: -0.007, Outcome.FAIL: -0.03}[outcome]
    made = decide(
        evidence(
            a_comparison(difference, slates=40 if (kind, outcome) == ("state", Outcome.INCONCLUSIVE) else 800),
            kind=kind,
        ),
        POLICY,
    )
    assert made.outcome is outcome
    return made


@pytest.mark.parametrize(
    ("weights", "state", "shipped"),
    [
        (Outcome.PASS, Outcome.PASS, "weights"),
        (Outcome.INCONCLUSIVE, Outcome.PASS, "state"),
        (Outcome.FAIL, Outcome.PASS, "state"),
        (Outcome.PASS, Outcome.FAIL, "none"),
        (Outcome.PASS, Outcome.INCONCLUSIVE, "none"),
        (Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE, "none"),
        (Outcome.FAIL, Outcome.FAIL, "none"),
    ],
)
def test_what_ships(weights, state, shipped):
    decision = choose((verdict("weights", weights), verdict("state", state)), POLICY)
    assert decision.shipped == shipped
    assert decision.needs_review == (weights is Outcome.INCONCLUSIVE)


def test_no_candidate_ships_nothing():
    assert choose((), POLICY).shipped == "none"
