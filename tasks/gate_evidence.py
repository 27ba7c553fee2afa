"""What evaluate, benchmark and compress wrote -> evidence for the gate: paired numbers with bounds, on every slice.

Refuses by name what cannot be compared: slates that come twice, a metric that is no number, half a pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.domain.champion import Champion
from tasks.domain.errors import InputRejected
from tasks.domain.gate import (
    TOTAL,
    CandidateKind,
    Change,
    Check,
    Comparison,
    Equivalence,
    Evidence,
    GatePolicy,
    LatencyRatio,
    QualityPolicy,
    Resource,
    Rival,
    allowance,
)
from tasks.domain.gate_policy import LOWER_IS_BETTER
from tasks.domain.statistics import Floats, paired_differences

if TYPE_CHECKING:
    import pyarrow as pa

SLICE = "slice."
WHICH_SLATE = ("day", "user", "slate")
METRIC = re.compile(r"candidate\.(?P<metric>\w+)\[(?P<task>\w+)\]")
RIVAL = re.compile(r"rival\.(?P<name>\w+)\.(?P<metric>\w+)\[all\]")
SHAPE_OF_A_MODEL = ("network", "features", "token", "max_tokens")
Members = dict[str, tuple[str, NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class Compared:
    """What the run compared: where the two models lie, and which release each step took for the champion."""

    candidate: Path | None = None  # as compress left it: model/ and front.json
    champion: Path | None = None  # src directory of the release that serves
    with_release: Mapping[str, str] | None = None  # step -> release


NOTHING = Compared()


def gather(
    kind: CandidateKind,
    facts: dict[str, Any],
    slates: pa.Table,
    costs: dict[str, Any],
    champion: Champion | None,
    policy: GatePolicy,
    seed: int,
    compared: Compared = NOTHING,
) -> Evidence:
    """Everything the gate may know about one candidate, from what the steps before it wrote.

    Raises:
        InputRejected: the slates that were scored are not those of the evaluation, or come twice, or a metric is not finite.
    """
    mine = slates.filter(np.array(slates["kind"].to_pylist()) == kind)
    if len(mine) != facts["slates"]:
        raise InputRejected(
            f"evaluation.json speaks of {facts['slates']} {kind} slates, slates.parquet holds {len(mine)}; evaluate again"
        )
    _require_each_once(kind, mine)
    changes = changes_between(compared.candidate, compared.champion, facts.get("labels")) if kind == "weights" else ()
    evidence = Evidence(
        kind=kind,
        holdout_digest=facts["holdout_digest"],
        champion_holdout_digest=facts["champion_holdout_digest"],
        holdout_first_day=facts["first_day"],
        champion_train_end=champion.train_end if champion else None,
        comparisons=(),
        slates=len(mine),
        champion_release=champion.release if champion else None,
        compared_with=dict(compared.with_release or {}),
        latencies=tuple(map(LatencyRatio.model_validate, costs.get("candidates", {}).get(kind, ()))),
        resources=tuple(map(Resource.model_validate, costs.get("resources", {}).get(kind, ()))),
        growth=costs.get("growth", 1.0),
        checks=tuple(map(Check.model_validate, facts["checks"])),
        compression=equivalence(compared.candidate) if kind != "state" else None,
        changes=changes,
    )
    if not len(mine):
        return evidence
    quality: QualityPolicy = getattr(policy, policy.section(evidence))
    members = _members(mine)
    comparisons = tuple(_comparisons(mine, members, quality, seed))
    told = {name: int(inside.sum()) for name, (_, inside) in members.items() if name != TOTAL}
    rivals = tuple(_rivals(mine, quality, seed))
    return evidence.model_copy(update={"comparisons": comparisons, "slices": told, "rivals": rivals})


def changes_between(
    candidate: Path | None, champion: Path | None, counted: Sequence[str] | None = None
) -> tuple[Change, ...]:
    """What makes the candidate another kind of model than the champion; nothing where either is not given.

    counted: labels that evaluate counted; None: all that the candidate learned.
    """
    if candidate is None or champion is None:
        return ()
    new, old = (
        json.loads((folder / "config.json").read_bytes())
        for folder in (candidate / "model", champion / "release" / "model")
    )
    changes = []
    if differing := [name for name in SHAPE_OF_A_MODEL if new.get(name) != old.get(name)]:
        before, now = ({name: config.get(name) for name in differing} for config in (old, new))
        changes.append(Change(what="architecture", champion=_short(before), candidate=_short(now)))
    if "labels" in old and new.get("labels") != old["labels"]:  # a model from before labels were written says nothing
        goals = [(config.get("labels") or {}).get("goal", []) for config in (old, new)]
        changes.append(
            Change(
                what="labels",
                champion=_short(old["labels"]),
                candidate=_short(new.get("labels")),
                shared=tuple(sorted(set(goals[0]) & set(goals[1]))),
                counted=tuple(sorted(counted or goals[1])),
            )
        )
    return tuple(changes)


def equivalence(candidate: Path | None) -> Equivalence | None:
    """The chosen variant against its fp32 parent, as compress measured them on validation."""
    if candidate is None or not (candidate / "front.json").exists():
        return None
    front = json.loads((candidate / "front.json").read_bytes())
    chosen = next(one for one in front["variants"] if one["name"] == front["chosen"])
    metric = front["metric"]
    return Equivalence(
        metric=metric,
        variant=chosen["name"],
        parent=chosen["parent"][metric],
        compressed=chosen["quality"][metric],
        difference=chosen["quality"][metric] - chosen["parent"][metric],
        lower=chosen["bound"],
        upper=chosen["upper"],
        margin=front["margin"],
        slates=front["slates"],
    )


def unserved(other: Evidence, candidate: Path | None) -> Evidence | None:
    """Of weights of which compress let no variant go forward, beside what is known of another candidate of the run."""
    if candidate is None or not (candidate / "front.json").exists():
        return None
    why = json.loads((candidate / "front.json").read_bytes()).get("reason")
    nothing: dict[str, Any] = {
        "comparisons": (),
        "slices": {},
        "rivals": (),
        "latencies": (),
        "resources": (),
        "checks": (),
        "changes": (),
    }
    return other.model_copy(update={**nothing, "kind": "weights", "unserved": why}) if why else None


def _require_each_once(kind: str, slates: pa.Table) -> None:
    keys = [name for name in WHICH_SLATE if name in slates.column_names]
    extra = len(slates) - len(slates.group_by(keys).aggregate([]))
    if extra:
        raise InputRejected(
            f"{extra} of {len(slates)} {kind} slates are duplicates of another (same {', '.join(keys)}): each would count "
            f"twice and make the bounds too narrow. Run the evaluate step again"
        )


def _members(slates: pa.Table) -> Members:
    """slice -> (task whose metrics count, which slates are in it). Tasks are slices of purchases, the others of slates."""
    every = np.ones(len(slates), bool)
    found: Members = {TOTAL: (TOTAL, every)}
    for name in slates.column_names:
        if match := METRIC.fullmatch(name):
            here = ~_floats(slates, name).mask | found.get(match["task"], ("", ~every))[1]
            found[match["task"]] = (match["task"], every if match["task"] == TOTAL else here)
    flags = {name.removeprefix(SLICE): name for name in slates.column_names if name.startswith(SLICE)}
    for name, column in flags.items():
        inside = slates[column].fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        found[name] = (TOTAL, inside)
    if "heavy" in slates.column_names:
        heavy = slates["heavy"].to_numpy(zero_copy_only=False).astype(bool)
        found.setdefault("heavy_users", (TOTAL, heavy))
        found.setdefault("light_users", (TOTAL, ~heavy))
    return found


def _comparisons(slates: pa.Table, members: Members, quality: QualityPolicy, seed: int) -> list[Comparison]:
    """Every metric of the policy on every slice, in one go: all columns see the same resamples of users."""
    keys, champions, candidates = [], [], []
    for metric in quality.metrics:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        for part, (task, inside) in members.items():
            pair = _pair(slates, f"{metric}[{task}]")
            if pair is None:
                continue
            champion, candidate = (np.where(inside, sign * values, np.nan) for values in pair)
            if np.count_nonzero(~np.isnan(champion)) >= 2:
                keys.append((metric, part, sign))
                champions.append(champion)
                candidates.append(candidate)
    if not keys:
        return []
    found = paired_differences(
        slates["user"].to_numpy(),
        np.column_stack(champions),
        np.column_stack(candidates),
        seed=seed,
        allowed_loss=[allowance(quality, part, metric) for metric, part, _ in keys],
    )
    return [
        Comparison(
            name=metric,
            slice=part,
            champion=sign * one.champion,
            candidate=sign * one.candidate,
            difference=one.difference,
            lower=one.lower,
            upper=one.upper,
            p_harm_beyond=one.p_harm,
            smallest_detectable=one.smallest_detectable,
            slates=one.slates,
            users=one.users,
        )
        for (metric, part, sign), one in zip(keys, found, strict=True)
    ]


def _rivals(slates: pa.Table, quality: QualityPolicy, seed: int) -> list[Rival]:
    """The candidate against everything that the evaluation put beside it, in the leading metric on all slates."""
    metric, ours = quality.metric, f"candidate.{quality.metric}[{TOTAL}]"
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    named = {
        match["name"]: _finite(slates, name)
        for name in slates.column_names
        if (match := RIVAL.fullmatch(name)) and match["metric"] == metric
    }
    columns = {name: values for name, values in named.items() if not values.mask.all()}  # of another kind of candidate
    if not columns or ours not in slates.column_names:
        return []
    theirs = sign * np.column_stack([values.filled(np.nan) for values in columns.values()])
    mine = np.where(np.isnan(theirs), np.nan, sign * _finite(slates, ours).filled(np.nan)[:, None])
    found = paired_differences(slates["user"].to_numpy(), theirs, mine, seed=seed, allowed_loss=[0.0] * theirs.shape[1])
    return [
        Rival(
            name=name,
            metric=metric,
            rival=sign * one.champion,
            candidate=sign * one.candidate,
            difference=one.difference,
            lower=one.lower,
            upper=one.upper,
            slates=one.slates,
        )
        for name, one in zip(columns, found, strict=True)
    ]


def _pair(slates: pa.Table, name: str) -> tuple[Floats, Floats] | None:
    """(champion, candidate) with NaN where a slate has no such metric: no new purchase, say. None: it was not measured."""
    columns = [f"{side}.{name}" for side in ("champion", "candidate")]
    if not set(columns) <= set(slates.column_names):
        return None
    found = [_finite(slates, column) for column in columns]
    champion, candidate = (values.filled(np.nan) for values in found)
    if lonely := int((found[0].mask != found[1].mask).sum()):
        raise InputRejected(
            f"{name} is there for the champion or for the candidate only on {lonely} of {len(slates)} slates, so they cannot "
            f"be paired; run evaluate again, or take the metric out of the policy"
        )
    return champion, candidate


def _finite(slates: pa.Table, name: str) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    values = _floats(slates, name)
    if wrong := int((~np.isfinite(values.data) & ~values.mask).sum()):
        raise InputRejected(
            f"{name} is NaN or infinite on {wrong} of {len(slates)} slates; look at the scores in predictions.html of "
            f"evaluate, and at the learning curves of the model"
        )
    return values


def _floats(slates: pa.Table, name: str) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    """Nulls are masked: they say that a slate has no such metric. A NaN is a number that went wrong, and stays."""
    column = slates[name].combine_chunks()
    return np.ma.MaskedArray(
        column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64),
        mask=column.is_null().to_numpy(zero_copy_only=False),
    )


def _short(value: Any) -> str:
    told = json.dumps(value, sort_keys=True)
    return told if len(told) <= 160 else f"{told[:157]}..."
