"""Builders of gate evidence: what passes against itself; a test names only what it is about."""

from __future__ import annotations

from tasks.domain.gate import Comparison, Equivalence, Evidence, GatePolicy, LatencyRatio, QualityPolicy

POLICY = GatePolicy(
    name="test",
    weights=QualityPolicy(margin=0.008, minimum_slates=500),
    state=QualityPolicy(margin=0.005, must_prove=False, minimum_slates=50),
    bootstrap=QualityPolicy(margin=0.001, minimum_slates=200),
    architecture=QualityPolicy(margin=0.008, minimum_slates=800),
    labels=QualityPolicy(margin=0.008, minimum_slates=800, needs_person=True),
    latency_ratio={"p95": 1.2},
    minimum_pairs=100,
)


def a_comparison(
    difference=0.0, *, half_width=0.004, name="ndcg_at_10", slice="all", slates=800, users=400, p=0.5, champion=0.400
):
    return Comparison(
        name=name,
        slice=slice,
        champion=champion,
        candidate=champion + difference,
        difference=difference,
        lower=difference - half_width,
        upper=difference + half_width,
        p_harm_beyond=p,
        smallest_detectable=half_width * 1.5,
        slates=slates,
        users=users,
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


def an_equivalence(difference=0.0, *, half_width=0.002, margin=0.005):
    return Equivalence(
        metric="ndcg_at_10[all]",
        variant="int8",
        parent=0.4,
        compressed=0.4 + difference,
        difference=difference,
        lower=difference - half_width,
        upper=difference + half_width,
        margin=margin,
        slates=300,
    )


def evidence(
    *comparisons,
    kind="weights",
    latencies=(a_latency(),),
    resources=(),
    checks=(),
    digest="a" * 64,
    champion_digest="a" * 64,
    train_end="2017-06-16",
    slates=800,
    slices=None,
    champion=None,
    compared_with=None,
    compression=None,
    changes=(),
    growth=1.0,
):
    rows = comparisons or (a_comparison(),)
    return Evidence(
        kind=kind,
        holdout_digest=digest,
        champion_holdout_digest=champion_digest,
        holdout_first_day="2017-06-25",
        champion_train_end=train_end,
        comparisons=rows,
        slices={row.slice: row.slates for row in rows if row.slice != "all"} if slices is None else slices,
        slates=slates,
        champion_release=champion,
        compared_with=compared_with or {},
        latencies=latencies,
        resources=resources,
        checks=checks,
        compression=compression,
        changes=changes,
        growth=growth,
    )
