"""How often the gate blocks a model that is as good, and promotes one that is not; beside two simpler rules.

    make bench NAME=gate_error_rates       # first run: an hour of two cores; later runs: minutes

Per-slate metrics are real: seeds of one recipe, and models with something planted in weights, inputs, state or training rows,
rank the same holdout of Complete Journey (benchmarks/_gate_models.py, _gate_damage.py). A trial draws three in four of the
thousand households, two seeds, and the share of users who get the damaged model, so that the expected loss is a chosen multiple of
the margin. Intervals are exact (Clopper and Pearson 1934) and take trials as independent; there are eight seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from benchmarks import _gate_models as source
from benchmarks._table import Row, at_least, below, publish
from tasks.benchmark import ratios
from tasks.domain.champion import Champion
from tasks.domain.errors import InputRejected
from tasks.domain.gate import GatePolicy, Outcome, Verdict, allowance, decide
from tasks.domain.gate_policy import LOWER_IS_BETTER
from tasks.gate_evidence import gather
from tasks.policies import load_policy

WORK = Path(".freshrank/bench/gate")
POLICY, DRAWN = "demo", 0.75  # share of the households that a trial draws
SOUND = "seed-2"  # what the damaged models would be, had nothing gone wrong
SCORED_DAYS = 5
AA_TRIALS, TRIALS, FEWER = 200, 25, 6
LEVELS = (0.5, 1.0, 2.0)  # times the margin
HEAVY_TRIPS = 80  # splits these households in halves: all of them have more trips than evaluate calls heavy
CHAMPION = Champion(
    release="c" * 64, view="v" * 64, train_end="2017-12-16", state_through="2017-12-30", weights_digest="w" * 64
)
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scores:
    """Every system on every slate: METRIC[TASK] -> [slates] float, NaN where a slate has no such metric."""

    day: np.ndarray
    user: np.ndarray
    heavy: np.ndarray
    of: Mapping[str, Columns]

    @property
    def seeds(self) -> list[str]:
        return sorted(name for name in self.of if name.startswith("seed-"))

    @property
    def damages(self) -> list[str]:
        return [name for name in self.of if not name.startswith("seed-")]


@dataclass(frozen=True)
class Trial:
    ours: str  # pass, inconclusive or fail; refused: by name, before any verdict
    point: bool  # promoted by the rule that a higher mean is better
    threshold: bool  # promoted by thresholds on the unsampled change
    by: tuple[str, ...] = ()  # which findings did not pass


def load(folder: Path) -> Scores:
    import polars as pl

    table = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], how="diagonal")
    systems: dict[str, Columns] = defaultdict(dict)
    for column in table.columns:
        if "." in column:
            name, metric = column.split(".", 1)
            systems[name][metric] = table[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    trips = table["trips"].to_numpy()
    return Scores(table["day"].to_numpy(), table["user"].to_numpy(), trips >= HEAVY_TRIPS, systems)


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
    facts = {
        "holdout_digest": "a" * 64,
        "champion_holdout_digest": "a" * 64,
        "first_day": "2017-12-17",
        "slates": len(slates),
        "checks": [],
    }
    costs = {"candidates": {"weights": timings}}
    point, threshold = simpler_rules(slates, policy)
    try:
        verdict = decide(gather("weights", facts, slates, costs, CHAMPION, policy, 1), policy)
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
            changes[metric, task] = float(np.nanmean(gain))
            if task == "all":
                changes[metric, "heavy_users"] = float(np.nanmean(gain[heavy]))
                changes[metric, "light_users"] = float(np.nanmean(gain[~heavy]))
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


def against_itself(scores: Scores, policy: GatePolicy, times: dict[str, np.ndarray], trials: int) -> list[Trial]:
    """Two seeds of one recipe, on some of the households; timings of the two, pairs drawn anew."""
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 1])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        slates = table_of(scores, scores.of[champion], scores.of[candidate], some_of(scores, draws))
        found.append(judged(slates, policy, timed(times, draws)))
    return found


def planted(
    scores: Scores, kind: Kind, level: float, policy: GatePolicy, times: dict[str, np.ndarray], trials: int
) -> list[Trial]:
    """The damaged model for as many users as lose `level` margins in the mean."""
    _, whole = hurts(scores, kind, policy)
    rivals = [name for name in scores.seeds if name != SOUND]
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 2])
        candidate = mixed(scores, kind, min(1.0, level / whole), draws)
        champion = scores.of[rivals[number % len(rivals)]]
        slates = table_of(scores, champion, candidate, some_of(scores, draws))
        found.append(judged(slates, policy_for(policy, candidate), timed(times, draws)))
    return found


def timed(
    times: dict[str, np.ndarray], draws: np.random.Generator, slower: float = 1.0, slowest: float = 1.0
) -> list[dict[str, Any]]:
    """Ratios as benchmark makes them, from real interleaved timings of two seeds, whose pairs are drawn anew.

    slower: times every request of the candidate; slowest: times those among its slowest tenth.
    """
    pick = draws.integers(0, len(times["wall.champion"]), len(times["wall.champion"]))
    wall, cpu = ([times[f"{what}.{side}"][pick] for side in ("champion", "candidate")] for what in ("wall", "cpu"))
    factor = slower * np.where(wall[1] >= np.quantile(wall[1], 0.9), slowest, 1.0)
    return [row.model_dump() for row in ratios(wall[0], wall[1] * factor, cpu[0], cpu[1] * factor, seed=1)]


def slower(
    scores: Scores, policy: GatePolicy, times: dict[str, np.ndarray], level: float, trials: int, *, tail: bool = False
) -> list[Trial]:
    """As good and slower: every request by `level` times what p50 may lose, or the slowest tenth by that of p95."""
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 3])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        slates = table_of(scores, scores.of[champion], scores.of[candidate], some_of(scores, draws))
        factor = 1 + level * (policy.latency_ratio["p95" if tail else "p50"] - 1)
        found.append(judged(slates, policy, timed(times, draws, **{"slowest" if tail else "slower": factor})))
    return found


def broken(scores: Scores, policy: GatePolicy, times: dict[str, np.ndarray], trials: int) -> dict[str, list[Trial]]:
    """Evidence that is no evidence: slates that come twice, a NaN among the metrics."""
    found: dict[str, list[Trial]] = {"duplicated_slates": [], "nan_metric": []}
    for number in range(trials):
        draws = np.random.default_rng([number, 4])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        slates = table_of(scores, scores.of[champion], scores.of[candidate], some_of(scores, draws))
        twice = pa.concat_tables([slates, slates.slice(int(draws.integers(len(slates))), 1)])
        found["duplicated_slates"].append(judged(twice, policy, timed(times, draws)))
        name = "candidate.ndcg_at_10[all]"
        values = slates[name].to_numpy().copy()
        values[draws.integers(len(values))] = np.nan
        wrong = slates.set_column(slates.column_names.index(name), name, [pa.array(values)])
        found["nan_metric"].append(judged(wrong, policy, timed(times, draws)))
    return found


def share(trials: list[Trial], *outcomes: str) -> tuple[float, float, float]:
    """(share, lowest, highest) in per cent, 95 % exact interval."""
    hits = sum(trial.ours in outcomes for trial in trials)
    return _interval(hits, len(trials))


def _interval(hits: int, n: int) -> tuple[float, float, float]:
    ends = binomtest(hits, n).proportion_ci(0.95, method="exact")
    return 100 * hits / n, 100 * ends.low, 100 * ends.high


def told(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.1f} ({found[1]:.1f}-{found[2]:.1f})"


def line(name: str, trials: list[Trial]) -> str:
    refused = [trial for trial in trials if trial.ours != "pass"]
    most: dict[str, int] = defaultdict(int)
    for trial in refused:
        for finding in trial.by[:1]:
            most[finding] += 1
    by = ", ".join(sorted(most, key=most.__getitem__, reverse=True)[:2]) or "by name" * bool(refused)
    cells = [told(share(trials, "fail", "refused")), told(share(trials, "inconclusive")), told(share(trials, "pass"))]
    for rule in ("point", "threshold"):
        cells.append(told(_interval(sum(getattr(trial, rule) for trial in trials), len(trials))))
    return f"| {name} | {len(trials)} | {' | '.join(cells)} | {by} |"


def main(work: Path, policy: GatePolicy) -> bool:
    scores, times = load(work / "scores"), dict(np.load(work / "times.npz"))
    aa = against_itself(scores, policy, times, AA_TRIALS)
    print(
        "| planted | trials | fail, % | inconclusive, % | promoted, % | point rule promotes, % | threshold promotes, % | by |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    print(line("nothing: another seed", aa))
    by_level: dict[float, list[Trial]] = defaultdict(list)
    weak = []
    for kind in kinds_of(scores):
        metric, whole = hurts(scores, kind, policy)
        if whole < 2:
            weak.append(f"{kind.name} ({whole:.2f} margins of {metric})")
            continue
        for level in LEVELS:
            trials = planted(scores, kind, level, policy, times, TRIALS if level == 2 else FEWER)
            by_level[level] += trials
            if level == 2:
                print(line(f"{kind.name}, {2 / whole:.0%}, {metric}", trials), flush=True)
    for tail, name in ((False, "slower_requests"), (True, "slower_tail")):
        trials = slower(scores, policy, times, 2.0, TRIALS, tail=tail)
        print(line(f"{name}, real timings scaled", trials))
        by_level[2.0] += trials
    by_name = broken(scores, policy, times, FEWER)
    for name, trials in by_name.items():
        print(line(name, trials))
    for level in LEVELS:
        print(line(f"all kinds at {level:g} x margin", by_level[level]))
    print(f"weaker than twice the margin even for all users, left out: {', '.join(weak) or 'none'}")
    return publish("gate_error_rates", rows_of(scores, policy, aa, by_level, by_name), ("numpy", "scipy", "torch"))


def rows_of(
    scores: Scores,
    policy: GatePolicy,
    aa: list[Trial],
    by_level: Mapping[float, list[Trial]],
    by_name: Mapping[str, list[Trial]],
) -> list[Row]:
    twice = by_level[2.0]
    refused = share(twice, "fail", "inconclusive", "refused")

    def rules(trials: list[Trial], promoted: bool) -> dict[str, float]:
        return {
            name: 100 * sum(getattr(trial, rule) is promoted for trial in trials) / len(trials)
            for name, rule in (("point-estimate rule", "point"), ("threshold on the unsampled change", "threshold"))
        }

    failed, unsure = share(aa, "fail", "refused"), share(aa, "inconclusive")
    rows = [
        at_least("planted at 2 x margin: refused", refused[0], "%", 95, rules(twice, False)),
        Row("... lowest, 95 % exact interval", refused[1], "%"),
        Row("... of which shown to be bad (fail), the rest inconclusive", share(twice, "fail", "refused")[0], "%"),
        below("another seed of the same recipe: blocked as fail", failed[0], "%", 5, rules(aa, False)),
        Row("... highest, 95 % exact interval", failed[2], "%"),
        Row("another seed: inconclusive", unsure[0], "%"),
        Row("... highest, 95 % exact interval", unsure[2], "%"),
        Row("planted at 1 x margin: promoted", share(by_level[1.0], "pass")[0], "%", peers=rules(by_level[1.0], True)),
        Row(
            "planted at 0.5 x margin: promoted", share(by_level[0.5], "pass")[0], "%", peers=rules(by_level[0.5], True)
        ),
        Row("broken evidence refused by name", _interval(*_named(by_name))[0], "%"),
        Row("kinds planted at 2 x margin", len(twice) / TRIALS, "kinds"),
        Row("slates of a trial, in the mean", DRAWN * len(scores.user), "slates"),
        Row("trials at 2 x margin", len(twice), "trials"),
        Row("trials of another seed", len(aa), "trials"),
    ]
    for metric, one in policy.weights.metrics.items():
        error = retrain_error(scores, metric)
        rows.append(Row(f"margin of {metric} / standard error of another seed", one.margin / error, "x"))
    return rows


def _named(by_name: Mapping[str, list[Trial]]) -> tuple[int, int]:
    trials = [trial for of in by_name.values() for trial in of]
    return sum(trial.ours == "refused" for trial in trials), len(trials)


def retrain_error(scores: Scores, metric: str, trials: int = 400) -> float:
    """Root mean square difference of two seeds on the households of a trial."""
    found = []
    for number in range(trials):
        draws = np.random.default_rng([number, 1])
        champion, candidate = draws.choice(scores.seeds, 2, replace=False)
        kept = some_of(scores, draws)
        name = f"{metric}[all]"
        found.append(np.nanmean(scores.of[candidate][name][kept] - scores.of[champion][name][kept]))
    return float(np.sqrt(np.mean(np.square(found))))


def prepare(work: Path) -> None:
    """Land, train, score and time whatever is not there yet."""
    import polars as pl

    from benchmarks import _gate_damage as damage
    from tasks.ranker.dataset import Dataset
    from tasks.ranker.runtime import TorchScorer

    models = source.all_models(work)
    data = Dataset.open(source.dataset(work))
    sound = {f"seed-{seed}": damage.scored_by(TorchScorer.load(models[f"seed-{seed}"])) for seed in source.SEEDS}
    systems = sound | damage.damaged(models, SOUND)
    (work / "scores").mkdir(exist_ok=True)
    filled = [day for day, n in zip(data.split.holdout_days, data.split.holdout_slates, strict=True) if n][:SCORED_DAYS]
    for name in filled:
        out = work / "scores" / f"{name}.parquet"
        if not out.exists():
            (day,) = damage.days_of(data, (name,))
            pl.DataFrame(damage.score_day(day, systems), infer_schema_length=None).write_parquet(out)
    if not (work / "times.npz").exists():
        (day,) = damage.days_of(data, (filled[0],))
        np.savez(work / "times.npz", **damage.timings(day, models["seed-1"], models[SOUND]))
        refusal = damage.nan_scores_are_refused(day.judged[0], TorchScorer.load(models[SOUND]))
        print(f"a model that answers NaN for one item: {refusal}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help=f"where datasets, models and scores are kept ({WORK})")
    asked = parser.parse_args()
    prepare(asked.work)
    sys.exit(0 if main(asked.work, load_policy(POLICY).gate) else 1)
