"""Evaluation and benchmark -> evidence -> decision: what ships, and every reason. The deciding is in tasks/domain/gate.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from tasks.decisions import as_markdown, candidates_of
from tasks.domain.champion import Champion
from tasks.domain.errors import InputRejected
from tasks.domain.evidence import History
from tasks.domain.gate import CandidateKind, Decision, GatePolicy, choose, decide
from tasks.gate_evidence import NOTHING, Compared, gather, unserved


def gate(
    evaluation: Path,
    measured: Path | None,
    champion: Champion | None,
    policy: GatePolicy,
    out: Path,
    seed: int,
    asked: str = "both",
    compared: Compared = NOTHING,
) -> dict[str, Any]:
    """Judge every candidate of the run and choose. Writes evidence.json, policy.json, decision.json and decision.md.

    Args:
        evaluation: directory with evaluation.json and slates.parquet.
        measured: directory with benchmark.json; without it latency is inconclusive.
        champion: None for a first champion.
        asked: weights, state or both, as the run's form says.
    """
    import pyarrow.parquet as pq

    facts = json.loads((evaluation / "evaluation.json").read_text())["candidates"]
    slates = pq.read_table(evaluation / "slates.parquet")
    costs = json.loads((measured / "benchmark.json").read_text()) if measured else {}
    evidence = [
        gather(kind, facts[kind], slates, costs, champion, policy, seed, compared)
        for kind in get_args(CandidateKind)
        if kind in facts
    ]
    if not evidence:
        raise InputRejected(
            f"evaluation.json names {', '.join(facts) or 'no candidate'}, none of {', '.join(get_args(CandidateKind))}: there "
            f"is nothing to decide. Run the evaluate step again"
        )
    if (without := unserved(evidence[0], compared.candidate)) is not None:
        evidence.append(without)
    if costs.get("history"):  # it is the champion's, so it is told once
        past = History.model_validate(costs["history"])
        evidence[0] = evidence[0].model_copy(update={"history": past})
    decision = choose(tuple(decide(one, policy) for one in evidence), policy, asked)
    (out / "evidence.json").write_text(json.dumps([one.model_dump(mode="json") for one in evidence], indent=1))
    (out / "policy.json").write_text(policy.model_dump_json())  # as its digest in the step's key spells it
    (out / "decision.json").write_text(decision.model_dump_json(indent=1))
    lines = list(_lines(facts))
    told = {"partition": facts[evidence[0].kind]["last_day"], "shipped": decision.shipped, "reason": decision.reason}
    page = as_markdown(told | {"candidates": candidates_of(decision, None), "report": {"lines": lines}})
    (out / "decision.md").write_text(page)
    return _summary(decision) | {"lines": lines}


def _lines(facts: dict[str, Any]) -> list[str]:
    """What is reported and not judged: what the transformer earns, and how far counting gets."""
    return [
        f"{kind}, reported only: NDCG@10 {one['candidate']['ndcg_at_10[all]']:.4f}, with the transformers zeroed "
        f"{one['transformer_zeroed']['ndcg_at_10[all]']:.4f}, LightGBM {one['lightgbm']['ndcg_at_10[all]']:.4f}, GP-TopFreq "
        f"{one['gp_topfreq']['ndcg_at_10[all]']:.4f}"
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
