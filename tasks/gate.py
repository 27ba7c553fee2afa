"""Evaluation and benchmark -> evidence -> decision: what ships, and every reason. The deciding is in tasks/domain/gate.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from tasks.decisions import as_markdown, candidates_of
from tasks.domain.champion import Champion
from tasks.domain.errors import InputRejected
from tasks.domain.gate import (
    TOTAL,
    CandidateKind,
    Check,
    Comparison,
    Decision,
    Evidence,
    GatePolicy,
    LatencyRatio,
    QualityPolicy,
    allowance,
    choose,
    decide,
)
from tasks.domain.statistics import paired_difference

if TYPE_CHECKING:
    import pyarrow as pa

TASKS = (TOTAL, "new", "repeat")


def gate(
    evaluation: Path,
    measured: Path | None,
    champion: Champion | None,
    policy: GatePolicy,
    out: Path,
    seed: int,
    asked: str = "both",
) -> dict[str, Any]:
    """Judge every candidate of the run and choose. Writes evidence.json, decision.json and decision.md.

    Args:
        evaluation: directory with evaluation.json and slates.parquet.
        measured: directory with benchmark.json; without it latency is inconclusive.
        champion: None for a first champion.
        asked: weights, state or both, as the run's form says.
    """
    import pyarrow.parquet as pq

    facts = json.loads((evaluation / "evaluation.json").read_text())["candidates"]
    slates = pq.read_table(evaluation / "slates.parquet")
    latencies = json.loads((measured / "benchmark.json").read_text())["candidates"] if measured else {}
    evidence = [
        gather(kind, facts[kind], slates, latencies.get(kind, []), champion, policy, seed)
        for kind in get_args(CandidateKind)
        if kind in facts
    ]
    decision = choose(tuple(decide(one, policy) for one in evidence), policy, asked)
    (out / "evidence.json").write_text(json.dumps([one.model_dump(mode="json") for one in evidence], indent=1))
    (out / "decision.json").write_text(decision.model_dump_json(indent=1))
    lines = list(_lines(facts))
    told = {"partition": facts[evidence[0].kind]["last_day"], "shipped": decision.shipped, "reason": decision.reason}
    page = as_markdown(told | {"candidates": candidates_of(decision, None), "report": {"lines": lines}})
    (out / "decision.md").write_text(page)
    return _summary(decision) | {"lines": lines}


def gather(
    kind: CandidateKind,
    facts: dict[str, Any],
    slates: pa.Table,
    latencies: list[dict[str, Any]],
    champion: Champion | None,
    policy: GatePolicy,
    seed: int,
) -> Evidence:
    """Everything the gate may know about one candidate, from what the steps before it wrote.

    Raises:
        InputRejected: the slates that were scored are not those of the evaluation, or a metric is not finite.
    """
    mine = slates.filter(np.array(slates["kind"].to_pylist()) == kind)
    if len(mine) != facts["slates"]:
        raise InputRejected(
            f"evaluation.json speaks of {facts['slates']} {kind} slates, slates.parquet holds {len(mine)}; evaluate again"
        )
    quality: QualityPolicy = getattr(policy, kind)
    return Evidence(
        kind=kind,
        holdout_digest=facts["holdout_digest"],
        champion_holdout_digest=facts["champion_holdout_digest"],
        holdout_first_day=facts["first_day"],
        champion_train_end=champion.train_end if champion else None,
        comparisons=tuple(_comparisons(mine, quality, seed)),
        latencies=tuple(LatencyRatio.model_validate(row) for row in latencies),
        checks=tuple(Check.model_validate(row) for row in facts["checks"]),
    )


def _comparisons(slates: pa.Table, quality: QualityPolicy, seed: int) -> list[Comparison]:
    user, heavy = (slates[name].to_numpy() for name in ("user", "heavy"))
    every = np.ones(len(user), bool)
    members = [(task, task, every) for task in TASKS] + [("heavy_users", TOTAL, heavy), ("light_users", TOTAL, ~heavy)]
    rows = []
    for slice_name, task, member in members:
        columns = [f"{side}.{quality.metric}[{task}]" for side in ("candidate", "champion")]
        if not set(columns) <= set(slates.column_names):
            continue
        candidate, champion = (slates[name].to_numpy(zero_copy_only=False).astype(float) for name in columns)
        # a slate without a new (or repeat) purchase has no such metric under either system
        kept = member & ~(np.isnan(candidate) & np.isnan(champion))
        if kept.sum() < 2:
            continue
        rows.append(_comparison(slice_name, user[kept], champion[kept], candidate[kept], quality, seed))
    return rows


def _comparison(
    slice_name: str, user: np.ndarray, champion: np.ndarray, candidate: np.ndarray, quality: QualityPolicy, seed: int
) -> Comparison:
    try:
        found = paired_difference(user, champion, candidate, seed=seed, allowed_loss=allowance(quality, slice_name))
    except ValueError as err:
        raise InputRejected(f"{quality.metric}[{slice_name}] cannot be compared: {err}") from err
    return Comparison(
        name=quality.metric,
        slice=slice_name,
        champion=found.champion,
        candidate=found.candidate,
        difference=found.difference,
        lower=found.lower,
        upper=found.upper,
        p_harm_beyond=found.p_harm,
        smallest_detectable=found.smallest_detectable,
        slates=found.slates,
    )


def _lines(facts: dict[str, Any]) -> list[str]:
    """What is reported and not judged: what the transformer earns, and how far counting gets."""
    return [
        f"{kind}, reported only: NDCG@10 {one['candidate']['ndcg_at_10[all]']:.4f}, with the transformers zeroed "
        f"{one['transformer_zeroed']['ndcg_at_10[all]']:.4f}, GP-TopFreq {one['gp_topfreq']['ndcg_at_10[all]']:.4f}"
        for kind, one in facts.items()
        if "transformer_zeroed" in one
    ]


def _summary(decision: Decision) -> dict[str, Any]:
    return {
        "sentence": f"ships {decision.shipped}: {decision.reason}",
        "shipped": decision.shipped,
        "reason": decision.reason,
        "needs_review": decision.needs_review,
        "policy": decision.policy,
        **{f"verdict.{verdict.kind}": str(verdict.outcome) for verdict in decision.verdicts},
    }
