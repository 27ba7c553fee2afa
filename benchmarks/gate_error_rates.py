"""How often the gate blocks a model that is as good, and promotes one that is not; beside two simpler rules.

    make bench NAME=gate_error_rates       # first run: an hour of two cores; later runs: minutes

The trials of tasks/gate_trials, which run every night on the last run, on more of everything: eight seeds of one recipe, a
thousand households, three levels of harm. Intervals are exact (Clopper and Pearson 1934) and take trials as independent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _gate_models as source
from benchmarks._table import Row, at_least, below, publish
from tasks.domain.gate import GatePolicy
from tasks.gate_trials.damage import damaged, scored_by
from tasks.gate_trials.error_rates import HEAD, MOST, REFUSED, Found, interval, rows_of, run_trials, share
from tasks.gate_trials.rows import TRAINING_DAMAGE
from tasks.gate_trials.scoring import days_of, nan_scores_are_refused, score_days
from tasks.gate_trials.trials import DRAWN, SEED, SOUND, Scores, Trial, for_trials, load, some_of
from tasks.policies import load_policy
from tasks.ranker.dataset import Dataset
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Slate, rank_slate
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import TorchScorer

WORK = Path(".freshrank/bench/gate")
POLICY, SOUND_SEED = "demo", 2
SCORED_DAYS = 5
AA_TRIALS, TRIALS, FEWER = 200, 25, 6
OTHER_LEVELS = (0.5, 1.0)  # times the margin


def main(work: Path, policy: GatePolicy) -> bool:
    scores, times = load(work / "scores"), dict(np.load(work / "timings.npz"))
    policy = for_trials(policy, times)
    found = run_trials(scores, policy, times, itself=AA_TRIALS, each=TRIALS, other_levels=OTHER_LEVELS, fewer=FEWER)
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for cells in rows_of(found):
        print(f"| {' | '.join(cells)} |")
    print(f"weaker than twice the margin even for all users, left out: {', '.join(found.weak) or 'none'}")
    return publish("gate_error_rates", bars(scores, policy, found), ("numpy", "scipy", "torch"))


def bars(scores: Scores, policy: GatePolicy, found: Found) -> list[Row]:
    twice, aa = found.twice, found.itself
    refused = share(twice, *REFUSED, "inconclusive")

    def rules(trials: list[Trial], promoted: bool) -> dict[str, float]:
        return {
            name: 100 * sum(getattr(trial, rule) is promoted for trial in trials) / len(trials)
            for name, rule in (("point-estimate rule", "point"), ("threshold on the unsampled change", "threshold"))
        }

    failed, unsure = share(aa, *REFUSED), share(aa, "inconclusive")
    rows = [
        at_least("planted at 2 x margin: refused", refused[0], "%", 100 - MOST, rules(twice, False)),
        Row("... lowest, 95 % exact interval", refused[1], "%"),
        Row("... of which shown to be bad (fail), the rest inconclusive", share(twice, *REFUSED)[0], "%"),
        below("another seed of the same recipe: blocked as fail", failed[0], "%", MOST, rules(aa, False)),
        Row("... highest, 95 % exact interval", failed[2], "%"),
        Row("another seed: inconclusive", unsure[0], "%"),
        Row("... highest, 95 % exact interval", unsure[2], "%"),
    ]
    for level, trials in sorted(found.by_level.items(), reverse=True):
        name = f"planted at {level:g} x margin: promoted"
        rows.append(Row(name, share(trials, "pass")[0], "%", peers=rules(trials, True)))
    by_name = [trial for trials in found.by_name.values() for trial in trials]
    rows += [
        Row(
            "broken evidence refused by name", interval(sum(t.ours == "refused" for t in by_name), len(by_name))[0], "%"
        ),
        Row("kinds planted at 2 x margin", len(found.by_kind), "kinds"),
        Row("slates of a trial, in the mean", DRAWN * len(scores.user), "slates"),
        Row("trials at 2 x margin", len(twice), "trials"),
        Row("trials of another seed", len(aa), "trials"),
    ]
    for metric, one in policy.weights.metrics.items():
        error = retrain_error(scores, metric)
        rows.append(Row(f"margin of {metric} / standard error of another seed", one.margin / error, "x"))
    return rows


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
    models = source.all_models(work)
    data = Dataset.open(source.dataset(work))
    names = {f"seed-{seed}": SOUND if seed == SOUND_SEED else f"{SEED}{seed}" for seed in source.SEEDS}
    sound = {name: scored_by(TorchScorer.load(models[folder])) for folder, name in names.items()}
    spoilt = {name: models[name] for name in TRAINING_DAMAGE}
    systems = sound | damaged(models[f"seed-{SOUND_SEED}"], spoilt)
    filled = [day for day, n in zip(data.split.holdout_days, data.split.holdout_slates, strict=True) if n][:SCORED_DAYS]
    score_days(data, systems, work / "scores", tuple(filled))
    if not (work / "timings.npz").exists():
        (day,) = days_of(data, (filled[0],))
        np.savez(work / "timings.npz", **timings(day, models["seed-1"], models[f"seed-{SOUND_SEED}"]))
        refusal = nan_scores_are_refused(day.judged[0], TorchScorer.load(models[f"seed-{SOUND_SEED}"]))
        print(f"a model that answers NaN for one item: {refusal}")


def timings(day: Any, champion: Path, candidate: Path) -> dict[str, Any]:
    """Wall and CPU milliseconds of real requests under two models, interleaved as the benchmark step does it."""
    from tasks.benchmark import sit
    from tasks.domain.latency import LOOKS

    models = {"champion": champion, "candidate": candidate}
    asked = [str(n) for n in range(len(day.judged))]

    def answering(path: Path) -> Callable[[str], None]:
        model = TorchScorer.load(path)

        def answer(number: str) -> None:
            one = day.judged[int(number)]
            profile = Profile(one.ranked.profile.items, one.ranked.profile.user, one.slate.day)
            rank_slate(model, Slate(profile, candidates_of(profile)))

        return answer

    load = {name: partial(answering, path) for name, path in models.items()}
    draws = np.random.default_rng(11)
    sittings = [sit(load, asked, draws) for _ in range(LOOKS[0])]
    return {
        f"{what}.{name}": np.concatenate([one[n][name] for one in sittings])
        for n, what in enumerate(("wall", "cpu"))
        for name in models
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help=f"where datasets, models and scores are kept ({WORK})")
    asked = parser.parse_args()
    prepare(asked.work)
    sys.exit(0 if main(asked.work, load_policy(POLICY).gate) else 1)
