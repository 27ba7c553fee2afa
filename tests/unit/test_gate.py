"""The gate's decisions, on small evidence. Each rule has a twin that feeds it bad evidence and watches it refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import InputRejected
from tasks.domain.gate import Change, Check, MetricPolicy, Outcome, Resource, choose, decide
from tests.unit.evidence import POLICY, a_comparison, a_latency, an_equivalence, evidence


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
            evidence(a_comparison(), a_comparison(-0.3, slice="new", p=0.001, users=3)), Outcome.PASS, id="three users"
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
        pytest.param(evidence(compression=an_equivalence()), Outcome.PASS, id="compressed is its parent"),
        pytest.param(evidence(compression=an_equivalence(0.004)), Outcome.PASS, id="may be better"),
        pytest.param(evidence(compression=an_equivalence(0.009)), Outcome.INCONCLUSIVE, id="another model"),
        pytest.param(evidence(compression=an_equivalence(-0.004)), Outcome.INCONCLUSIVE, id="may be worse"),
        pytest.param(evidence(compression=an_equivalence(-0.009)), Outcome.FAIL, id="is not its parent"),
    ],
)
def test_outcome(given_evidence, expected):
    verdict = decide(given_evidence, POLICY)
    assert verdict.outcome is expected, verdict.reason
    assert verdict.reason


def with_mrr(must_prove):
    return POLICY.model_copy(
        update={
            "weights": POLICY.weights.model_copy(
                update={"others": {"mrr": MetricPolicy(margin=0.02, must_prove=must_prove)}}
            )
        }
    )


@pytest.mark.parametrize(
    ("mrr", "must_prove", "expected"),
    [
        (-0.01, True, Outcome.PASS),
        (-0.019, True, Outcome.INCONCLUSIVE),
        (-0.019, False, Outcome.PASS),
        (-0.03, False, Outcome.FAIL),
    ],
)
def test_every_metric_of_the_policy_has_its_own_margin(mrr, must_prove, expected):
    verdict = decide(evidence(a_comparison(), a_comparison(mrr, name="mrr")), with_mrr(must_prove))
    assert verdict.outcome is expected, verdict.reason
    assert [f.margin for f in verdict.findings if f.name == "mrr"] == [0.02]


def test_each_metric_is_a_family_of_its_own_and_on_slices_the_leading_one_blocks():
    rows = [a_comparison(), a_comparison(name="mrr")]
    rows += [a_comparison(-0.1, name=name, slice="new", p=0.03) for name in ("ndcg_at_10", "mrr")]
    verdict = decide(evidence(*rows), with_mrr(False))
    assert verdict.outcome is Outcome.FAIL and "[new]" in verdict.reason and "mrr" not in verdict.reason
    found = {(one.name, one.slice): one for one in verdict.findings}
    assert "p 0.030 after Holm over 1 tests" in found["ndcg_at_10", "new"].sentence
    warned = found["mrr", "new"]
    assert (warned.outcome, warned.warns) == (Outcome.PASS, True) and "ndcg_at_10 blocks" in warned.sentence


def test_holm_counts_all_slices_of_a_metric():
    rows = [a_comparison(), *(a_comparison(-0.1, slice=part, p=0.03) for part in ("new", "old"))]
    verdict = decide(evidence(*rows), POLICY)
    assert verdict.outcome is Outcome.PASS
    assert "p 0.060 after Holm over 2 tests" in verdict.findings[1].sentence


def test_a_gain_is_told_as_one():
    reason = decide(evidence(a_comparison(0.03)), POLICY).reason
    assert "no worse than allowed, and shown to be better" in reason


def test_a_margin_that_these_slates_cannot_show_is_called_so():
    verdict = decide(evidence(a_comparison(half_width=0.02)), POLICY)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "this margin cannot be proven" in verdict.reason


def a_resource(ratio, spread=0.0):
    return Resource(
        name="memory",
        champion_mib=100,
        candidate_mib=100 * ratio,
        ratio=ratio,
        lower=ratio - spread,
        upper=ratio + spread,
        runs=3,
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ((a_resource(1.0),), Outcome.PASS),
        ((a_resource(1.2, 0.1),), Outcome.INCONCLUSIVE),
        ((a_resource(1.5),), Outcome.FAIL),
        ((), Outcome.INCONCLUSIVE),
    ],
)
def test_memory_is_judged_as_latency_is(resources, expected):
    policy = POLICY.model_copy(update={"resource_ratio": {"memory": 1.25}})
    verdict = decide(evidence(resources=resources), policy)
    assert verdict.outcome is expected, verdict.reason


def test_a_check_that_the_policy_names_and_nobody_made_is_inconclusive():
    policy = POLICY.model_copy(update={"weights": POLICY.weights.model_copy(update={"checks": ("skew",)})})
    assert decide(evidence(), policy).outcome is Outcome.INCONCLUSIVE
    made = Check(name="skew", value=0.0, limit=1e-4, ok=True, sentence="scores of the bento are those of the evaluator")
    assert decide(evidence(checks=(made,)), policy).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("what", "section", "expected", "says"),
    [
        ("architecture", "architecture", Outcome.PASS, "width 32"),
        ("labels", "labels", Outcome.INCONCLUSIVE, "the comparison counts click, which the champion never learned"),
    ],
)
def test_another_kind_of_model_is_judged_by_its_own_section(what, section, expected, says):
    change = Change(
        what=what, champion="width 32", candidate="width 64", shared=("purchase",), counted=("purchase", "click")
    )
    verdict = decide(evidence(changes=(change,)), POLICY)
    assert (verdict.section, verdict.outcome) == (section, expected)
    assert says in next(f for f in verdict.findings if f.name == f"changed_{what}").sentence
    # its minimum of slates is that of its section, so 800 slates are judged and 799 are not
    few = decide(evidence(a_comparison(slates=799), changes=(change,)), POLICY)
    assert "800 are needed" in few.reason


def test_new_labels_are_never_chosen_by_numbers_alone():
    change = Change(what="labels", champion="purchase", candidate="click", shared=("purchase",), counted=("purchase",))
    decision = choose((decide(evidence(a_comparison(0.3), changes=(change,)), POLICY),), POLICY)
    assert decision.shipped == "none" and decision.needs_review


numbers = st.floats(-0.05, 0.05)


@given(loss=numbers, gain=st.floats(0, 0.05), width=st.floats(0.0001, 0.02))
def test_a_better_score_never_makes_the_verdict_worse(loss, gain, width):
    order = [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]
    worse = decide(evidence(a_comparison(loss, half_width=width)), POLICY).outcome
    better = decide(evidence(a_comparison(loss + gain, half_width=width)), POLICY).outcome
    assert order.index(better) >= order.index(worse)


@given(
    kind=st.sampled_from(["weights", "state", "bootstrap"]),
    difference=numbers,
    width=st.floats(0.0001, 0.1),
    slates=st.integers(1, 5_000),
    slices=st.lists(st.tuples(numbers, st.integers(1, 500), st.floats(1e-4, 1)), max_size=4),
    ratio=st.floats(0.5, 2),
    ok=st.booleans(),
    compressed=st.one_of(st.none(), numbers),
)
def test_no_verdict_without_a_reason_and_no_finding_without_its_numbers_and_a_next_step(
    kind, difference, width, slates, slices, ratio, ok, compressed
):
    rows = [a_comparison(d, slice=f"s{n}", slates=of, p=p) for n, (d, of, p) in enumerate(slices)]
    given_evidence = evidence(
        a_comparison(difference, half_width=width, slates=slates),
        *rows,
        kind=kind,
        latencies=(a_latency(ratio),),
        checks=(Check(name="size", value=1, limit=5, ok=ok, sentence="1 MB, limit 5"),),
        compression=None if compressed is None else an_equivalence(compressed),
    )
    verdict = decide(given_evidence, POLICY)
    assert verdict.reason and verdict.findings and verdict.section == kind
    worst = [f for f in verdict.findings if f.outcome is verdict.outcome]
    assert worst and any(f.sentence in verdict.reason for f in worst)
    for finding in verdict.findings:
        assert finding.sentence and finding.next_step and finding.sample and finding.unit
        assert finding.bound is not None and finding.margin is not None
        if finding.outcome is not Outcome.PASS:
            assert finding.next_step != "nothing to do"
    assert decide(given_evidence, POLICY).model_dump_json() == verdict.model_dump_json()


def test_a_sentence_says_on_which_side_its_bound_lies():
    """A pass for lack of harm is told by the upper end: read as a lower one it looks better than it is."""
    told = {
        one.name: one for one in decide(evidence(a_comparison(-0.003), latencies=(a_latency(1.1),)), POLICY).findings
    }
    latency = a_latency(1.1).name
    for one in (told["ndcg_at_10"], told[latency]):
        side = "at most" if one.bound == one.upper else "at least"
        assert f"{side} {one.bound:+.4f}" in one.sentence or f"{side} {one.bound:.3f}" in one.sentence
    assert "at least" in told["ndcg_at_10"].sentence and "at most" in told[latency].sentence


@pytest.mark.parametrize(
    ("growth", "ratio", "expected"),
    [
        pytest.param(1.0, 1.24, Outcome.FAIL, id="as large as the champion's"),
        pytest.param(1.1, 1.24, Outcome.PASS, id="a tenth more items"),
        pytest.param(1.1, 1.4, Outcome.FAIL, id="slower than more items explain"),
        pytest.param(9.0, 1.6, Outcome.FAIL, id="no growth explains everything"),
    ],
)
def test_a_latency_limit_grows_with_the_catalogue_and_says_so(growth, ratio, expected):
    row = a_latency(ratio, half_width=0.01)
    finding = next(
        f
        for f in decide(evidence(latencies=(row,), kind="state", growth=growth), POLICY).findings
        if f.name == row.name
    )
    assert finding.outcome is expected
    assert (f"{growth:.3f} times the champion's" in finding.sentence) == (growth > 1)
    if expected is Outcome.FAIL:
        assert "what the state holds that costs" in finding.next_step and "variant" not in finding.next_step


def test_no_evidence_is_inconclusive_and_says_so():
    verdict = decide(evidence(latencies=(), kind="weights"), POLICY)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "no evidence is not a pass" in verdict.reason


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param({"digest": "b" * 64}, "holdout bbbbbbbbbbbb but champion on aaaaaaaaaaaa", id="two holdouts"),
        pytest.param(
            {"champion": "c" * 64, "compared_with": {"evaluate": "d" * 64}},
            "evaluate compared the candidate with release dddddddddddd, and the champion of this run is cccccccccccc",
            id="stale champion",
        ),
        pytest.param({"slates": 0}, "the holdout of the weights candidate is empty", id="empty holdout"),
        pytest.param({"rows": [a_comparison(slice="new")]}, "no ndcg_at_10 on `all`", id="no total"),
        pytest.param({"rows": [a_comparison(), a_comparison()]}, "names a slice of one metric twice", id="twice"),
        pytest.param(
            {"latencies": (a_latency().model_copy(update={"name": "p12"}),)}, "no limit for p12", id="unknown latency"
        ),
    ],
)
def test_evidence_that_does_not_fit_together_is_refused_by_name(bad, message):
    rows = bad.pop("rows", [])
    with pytest.raises(InputRejected, match=message):
        decide(evidence(*rows, **bad), POLICY)


def test_a_slice_that_the_policy_names_and_the_evaluation_does_not_know_is_refused():
    policy = POLICY.model_copy(update={"weights": POLICY.weights.model_copy(update={"slices": ("new_users",)})})
    with pytest.raises(InputRejected, match="no the slice new_users|the slice new_users, which the policy names"):
        decide(evidence(slices={"new": 10}), policy)
    empty = decide(evidence(slices={"new_users": 0}), policy)
    assert empty.outcome is Outcome.PASS and any("no verdict on this slice" in f.sentence for f in empty.findings)


def verdict(kind, outcome):
    difference = {Outcome.PASS: 0.0, Outcome.INCONCLUSIVE: -0.007, Outcome.FAIL: -0.03}[outcome]
    slates = 40 if (kind, outcome) == ("state", Outcome.INCONCLUSIVE) else 800
    made = decide(evidence(a_comparison(difference, slates=slates), kind=kind), POLICY)
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
