"""Trials of the gate: who is champion, who candidate, on which users, and what the gate says. Pure: arrays in, outcomes out.

A trial draws three in four of the users and, for a planted regression, the share of users who get the damaged model, so
that the expected loss is a chosen multiple of the margin. All rankings are real; what is drawn is who gets which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.domain.errors import InputRejected
from tasks.domain.gate import GatePolicy, Outcome, Verdict, allowance, decide
from tasks.domain.gate_policy import LOWER_IS_BETTER
from tasks.domain.latency import ratios, sittings_of
from tasks.gate_evidence import gather

SOUND = "sound"  # what the damaged models would be, had nothing gone wrong
SEED = "seed-"  # the same recipe, another seed
DRAWN = 0.75  # share of the users that a trial draws
TOLD_APART = ("new", "repeat", "heavy_users", "light_users")  # slices of a trial
Columns = dict[str, np.ndarray]
Times = Mapping[str, np.ndarray]  # wall.champion, wall.candidate, cpu.champion, cpu.candidate -> [pairs] ms


@dataclass(frozen=True)
class Scores:
    """Every system on every slate: METRIC[TASK] -> [slates] float, NaN where a slate has no such metric."""

    day: np.ndarray
    user: np.ndarray
    heavy: np.ndarray
    of: Mapping[str, Columns]

    @property
    def seeds(self) -> list[str]:
        """The sound model and those of other seeds."""
        return sorted(name for name in self.of if name == SOUND or name.startswith(SEED))

    @property
    def damages(self) -> list[str]:
        return [name for name in self.of if name not in self.seeds]

    def kept(self, inside: np.ndarray) -> Scores:
        of = {name: {metric: values[inside] for metric, values in columns.items()} for name, columns in self.of.items()}
        return Scores(self.day[inside], self.user[inside], self.heavy[inside], of)


@dataclass(frozen=True)
class Trial:
    ours: str  # pass, inconclusive or fail; refused: by name, before any verdict
    point: bool  # promoted by the rule that a higher mean is better
    threshold: bool  # promoted by thresholds on the unsampled change
    by: tuple[str, ...] = ()  # which findings did not pass


def load(folder: Path) -> Scores:
    """What score_days left. The half of the users with more trips is heavy."""
    import polars as pl

    table = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], how="diagonal")
    systems: dict[str, Columns] = defaultdict(dict)
    for column in table.columns:
        if "." in column:
            name, metric = column.split(".", 1)
            systems[name][metric] = table[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    trips = table["trips"].to_numpy()
    return Scores(table["day"].to_numpy(), table["user"].to_numpy(), trips >= np.median(trips), systems)


def for_trials(policy: GatePolicy, times: Times) -> GatePolicy:
    """Without what a trial has no evidence for: sizes, simpler models, checks, slices that it does not tell apart."""
    weights = policy.weights
    measured = {row["name"] for row in timed(times, np.random.default_rng(0), policy.latency_ratio)}
    kept = {"slices": tuple(part for part in weights.slices if part in TOLD_APART), "must_beat": (), "checks": ()}
    return policy.model_copy(
        update={"weights": weights.model_copy(update=kept), "resource_ratio": {}}
        | {"latency_ratio": {name: limit for name, limit in policy.latency_ratio.items() if name in measured}}
    )


@dataclass(frozen=True)
class Kind:
    """A damaged model, and who may get it: everybody, some users whole, or some requests of everybody."""

    name: str
    damage: str
    only: str = ""  # heavy, light: the other half never gets it
    by_request: bool = False

    def may_hit(self, scores: Scores) -> np.ndarray:
        return {"": np.ones(len(scores.user), bool), "heavy": scores.heavy, "light": ~scores.heavy}[self.only]


def kinds_of(scores: Scores) -> list[Kind]:
    """Each damaged model for some users, and three that hide: in half of the users, or in single requests."""
    hidden = (
        Kind("half_the_catalogue_for_heavy_users", "half_the_catalogue_missing", only="heavy"),
        Kind("truncated_history_of_light_users", "truncated_history", only="light"),
        Kind("stale_state_in_single_requests", "stale_state", by_request=True),
    )
    return [*(Kind(name, name) for name in scores.damages), *hidden]


def loss(scores: Scores, kind: Kind, metric: str) -> float:
    """Mean loss against the sound model where everybody who may get the damaged one does; positive is worse."""
    if f"{metric}[all]" not in scores.of[kind.damage]:
        return 0.0
    difference = scores.of[SOUND][f"{metric}[all]"] - scores.of[kind.damage][f"{metric}[all]"]
    return float(np.nanmean(difference * kind.may_hit(scores))) * (-1 if metric in LOWER_IS_BETTER else 1)


def hurts(scores: Scores, kind: Kind, policy: GatePolicy) -> tuple[str, float]:
    """(the metric that the damage is measured in, its loss in margins): the leading one if it can lose two margins."""
    found = {name: loss(scores, kind, name) / one.margin for name, one in policy.weights.metrics.items()}
    leads = policy.weights.metric
    metric = leads if found[leads] >= 2 else max(found, key=found.__getitem__)
    return metric, found[metric]


def table_of(scores: Scores, champion: Columns, candidate: Columns, kept: np.ndarray) -> pa.Table:
    """slates.parquet as evaluate writes it."""
    columns: dict[str, Any] = {
        "kind": ["weights"] * int(kept.sum()),
        "day": scores.day[kept],
        "user": scores.user[kept],
        "heavy": scores.heavy[kept],
    }
    for name in champion:
        if name in candidate:
            columns[f"champion.{name}"] = pa.array(champion[name][kept], from_pandas=True)
            columns[f"candidate.{name}"] = pa.array(candidate[name][kept], from_pandas=True)
    return pa.table(columns)


def judged(slates: pa.Table, policy: GatePolicy, timings: list[dict[str, Any]]) -> Trial:
    days = slates["day"].to_pylist()
    facts = {
        "holdout_digest": "a" * 64,
        "champion_holdout_digest": "a" * 64,
        "first_day": str(min(days)),
        "slates": len(slates),
        "checks": [],
    }
    costs = {"candidates": {"weights": timings}}
    point, threshold = simpler_rules(slates, policy)
    try:
        verdict = decide(gather("weights", facts, slates, costs, None, policy, 1), policy)
    except InputRejected:
        return Trial("refused", point, threshold)
    return Trial(str(verdict.outcome), point, threshold, blocked_by(verdict))


def blocked_by(verdict: Verdict) -> tuple[str, ...]:
    return tuple(f"{f.name}[{f.slice}]" for f in verdict.findings if f.outcome is not Outcome.PASS)


def simpler_rules(slates: pa.Table, policy: GatePolicy) -> tuple[bool, bool]:
    """(higher mean of the leading metric; no unsampled change below the same margins on `all` and slices, as in TFMA)."""
    quality, heavy = policy.weights, slates["heavy"].to_numpy(zero_copy_only=False)
    changes: dict[tuple[str, str], float] = {}
    for metric in quality.metrics:
        for task in ("all", "new", "repeat"):
            name = f"{metric}[{task}]"
            if f"candidate.{name}" not in slates.column_names:
                continue
            ours, theirs = (
                slates[f"{side}.{name}"].to_numpy(zero_copy_only=False).astype(float)
                for side in ("candidate", "champion")
            )
            gain = (ours - theirs) * (-1 if metric in LOWER_IS_BETTER else 1)
            parts = {task: gain}
            if task == "all":
                parts |= {"heavy_users": gain[heavy], "light_users": gain[~heavy]}
            changes |= {(metric, part): float(np.nanmean(of)) for part, of in parts.items() if np.isfinite(of).any()}
    kept = all(change >= -allowance(quality, part, metric) for (metric, part), change in changes.items())
    return changes[quality.metric, "all"] > 0, kept


def some_of(scores: Scores, draws: np.random.Generator) -> np.ndarray:
    users = np.unique(scores.user)
    return np.isin(scores.user, draws.choice(users, int(DRAWN * len(users)), replace=False))


def mixed(scores: Scores, kind: Kind, share: float, draws: np.random.Generator) -> Columns:
    """The sound model for most users, the damaged one for a share of them, drawn anew each time."""
    users, at = np.unique(scores.user, return_inverse=True)
    chance = draws.random(len(at)) if kind.by_request else draws.random(len(users))[at]
    hit = (chance < share) & kind.may_hit(scores)
    bad, good = scores.of[kind.damage], scores.of[SOUND]
    return {name: np.where(hit, bad[name], good[name]) for name in good if name in bad}


def policy_for(policy: GatePolicy, candidate: Columns) -> GatePolicy:
    """Without the metrics that this candidate has no number for: counting gives no probabilities."""
    others = {name: one for name, one in policy.weights.others.items() if f"{name}[all]" in candidate}
    return policy.model_copy(update={"weights": policy.weights.model_copy(update={"others": others})})


def against_itself(scores: Scores, policy: GatePolicy, times: Times, trials: int) -> list[Trial]:
    """Two seeds of one recipe, on some of the households; timings of the two, pairs drawn anew."""
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 1])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        slates = table_of(scores, scores.of[champion], scores.of[candidate], some_of(scores, draws))
        found.append(judged(slates, policy, timed(times, draws, policy.latency_ratio)))
    return found


def planted(scores: Scores, kind: Kind, level: float, policy: GatePolicy, times: Times, trials: int) -> list[Trial]:
    """The damaged model for as many users as lose `level` margins in the mean."""
    _, whole = hurts(scores, kind, policy)
    rivals = [name for name in scores.seeds if name != SOUND]
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 2])
        candidate = mixed(scores, kind, min(1.0, level / whole), draws)
        champion = scores.of[rivals[number % len(rivals)]]
        slates = table_of(scores, champion, candidate, some_of(scores, draws))
        found.append(judged(slates, policy_for(policy, candidate), timed(times, draws, policy.latency_ratio)))
    return found


def timed(
    times: Times, draws: np.random.Generator, names: Collection[str], slower: float = 1.0, slowest: float = 1.0
) -> list[dict[str, Any]]:
    """Ratios as benchmark makes them, from real interleaved timings of two equal systems, whose sittings are drawn anew.

    slower: times every request of the candidate; slowest: times those among its slowest tenth.
    """
    if not times:
        return []
    sitting = sittings_of(len(times["wall.candidate"]))
    drawn = draws.integers(0, sitting[-1] + 1, sitting[-1] + 1)
    pick = np.concatenate([np.flatnonzero(sitting == one) for one in drawn])[: len(sitting)]
    wall, cpu = ([times[f"{what}.{side}"][pick] for side in ("champion", "candidate")] for what in ("wall", "cpu"))
    factor = slower * np.where(wall[1] >= np.quantile(wall[1], 0.9), slowest, 1.0)
    return [row.model_dump() for row in ratios(wall[0], wall[1] * factor, cpu[0], cpu[1] * factor, 1, names)]


def slower(
    scores: Scores, policy: GatePolicy, times: Times, level: float, trials: int, *, tail: bool = False
) -> list[Trial]:
    """As good and slower: every request by `level` times what p50 may lose, or the slowest tenth by that of p95."""
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 3])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        slates = table_of(scores, scores.of[champion], scores.of[candidate], some_of(scores, draws))
        factor = 1 + level * (policy.latency_ratio["p95" if tail else "p50"] - 1)
        found.append(
            judged(
                slates, policy, timed(times, draws, policy.latency_ratio, **{"slowest" if tail else "slower": factor})
            )
        )
    return found


def broken(scores: Scores, policy: GatePolicy, times: Times, trials: int) -> dict[str, list[Trial]]:
    """Evidence that is no evidence: slates that come twice, a NaN among the metrics."""
    found: dict[str, list[Trial]] = {"duplicated_slates": [], "nan_metric": []}
    for number in range(trials):
        draws = np.random.default_rng([number, 4])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        slates = table_of(scores, scores.of[champion], scores.of[candidate], some_of(scores, draws))
        twice = pa.concat_tables([slates, slates.slice(int(draws.integers(len(slates))), 1)])
        found["duplicated_slates"].append(judged(twice, policy, timed(times, draws, policy.latency_ratio)))
        name = "candidate.ndcg_at_10[all]"
        values = slates[name].to_numpy().copy()
        values[draws.integers(len(values))] = np.nan
        wrong = slates.set_column(slates.column_names.index(name), name, [pa.array(values)])
        found["nan_metric"].append(judged(wrong, policy, timed(times, draws, policy.latency_ratio)))
    return found
