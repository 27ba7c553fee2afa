"""How well the ranker ranks under CJ1, beside its peers: full ranking of the catalogue for the next trip, NDCG@10.

    make bench NAME=ranking_quality                                      # dev: 2017-07-01, 14 days
    python -m benchmarks.ranking_quality --window second                 # weights of dev, ranked two months later
    python -m benchmarks.ranking_quality --start 2017-10-01 --days 7     # any other window
    python -m benchmarks.ranking_quality --stop-after 600                # in pieces: run it again until it says done

Parts are kept in --work and made once. Training ends the day before dev for every model and every window; `second` is for
reporting, nothing may be chosen on it. Intervals are 95 %, households drawn with replacement, pairs on the same slates.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import _cj1_ours as ours
from benchmarks import _cj1_peers as peers
from benchmarks import _cj1_sasrec as sasrec
from benchmarks._cj1_ablation import REFERENCE, TRAIN_DAYS, VARIANTS
from benchmarks._cj1_bench import SASREC, Bench, keep, kept, slug
from benchmarks._cj1_data import dataset
from benchmarks._cj1_protocol import WINDOWS, Log, counts, day_number, iso, slate_metrics
from benchmarks._cj1_tables import ablation_table, list_task, table, times
from benchmarks._table import publish
from tasks.domain.recipe import load_recipe
from tasks.ranker.runtime import Scorer, TorchScorer

WORK = Path(".freshrank/bench/ranking")
RECIPE = "production"


def parts(bench: Bench, only: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """(what, how) of everything that is kept; each is cheap where it is there already."""
    if only in ("all", "peers"):
        yield "protocol", lambda: told_counts(bench)
        for day in bench.numbers:
            yield f"peers {iso(day)}", lambda day=day: peers_day(bench, day)
        for day in bench.numbers:
            yield f"SASRec {iso(day)}", lambda day=day: sasrec_day(bench, day)
    if only in ("all", "ours"):
        yield "training dataset", lambda: bench.training
        for seed in bench.seeds:
            yield f"train seed {seed}", lambda seed=seed: ours.trained(bench.work, bench.training, bench.recipe, seed)
        yield "tree peers", lambda: bench.tree_peers
        yield "dataset of the window", lambda: bench.judged
        for day in bench.numbers:  # all at once: a slate's features are made once
            yield f"rank {iso(day)}", lambda day=day: rank_day(bench, day, bench.own | bench.tree_peers)
        yield "state refresh", lambda: refreshed(bench)
        for day in bench.numbers:
            yield f"lists {iso(day)}", lambda day=day: list_day(bench, day)


def ablation_parts(bench: Bench, names: Sequence[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Training and ranking of these variants; see _cj1_ablation.py."""
    for name in names:
        if not VARIANTS[name].trained_as:
            yield f"train {name}", lambda name=name: variant_model(bench, name)
    for day in (*bench.numbers[::2], *bench.numbers[1::2]):  # half of them are a table too
        yield f"rank {iso(day)}", lambda day=day: ablation_day(bench, day, names)


def variant_model(bench: Bench, name: str) -> Path:
    variant = VARIANTS[name]
    own = f"{bench.recipe.name}-ablation-{slug(name)}"
    recipe = variant.recipe(own, bench.recipe)
    made = dataset(bench.work, own, recipe, *WINDOWS["dev"]) if variant.remade else bench.training
    data = ours.silenced(bench.work, made, own, variant.silent, text=variant.text, days=TRAIN_DAYS)
    return ours.trained(bench.work, data, recipe, bench.seeds[0] + variant.seeds_on)


def ablation_day(bench: Bench, day: int, names: Sequence[str]) -> None:
    wanted: dict[str, Scorer] = {}
    for name, variant in ((name, VARIANTS[name]) for name in names):
        if not kept(bench.of_ablation, name, day).exists():
            scorer: Scorer = TorchScorer.load(variant_model(bench, variant.trained_as or name))
            wanted[name] = variant.asked(scorer if variant.text else ours.WithoutText(scorer))
    if wanted:
        for name, of in ours.score_day(bench.log, bench.judged.whole, day, wanted).items():
            keep(bench.of_ablation, name, day, of)


def refreshed(bench: Bench) -> None:
    if not bench.refresh.exists():
        bench.refresh.write_text(json.dumps(ours.state_refresh(bench.training, bench.work / "refreshed")))


def told_counts(bench: Bench) -> dict[str, object]:
    path = bench.work / f"protocol-{bench.start}-{bench.days}.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(counts(bench.log, bench.numbers))))
    told: dict[str, object] = json.loads(path.read_text())
    return told


def rank_day(bench: Bench, day: int, scorers: Mapping[str, Scorer]) -> None:
    wanted = {name: scorer for name, scorer in scorers.items() if not kept(bench.folder, name, day).exists()}
    if wanted:
        for name, of in ours.score_day(bench.log, bench.judged.whole, day, wanted).items():
            keep(bench.folder, name, day, of)


def peers_day(bench: Bench, day: int) -> None:
    if all(kept(bench.of_peers, name, day).exists() for name in peers.NAMES):
        return
    households = np.array([slate.household for slate in bench.log.slates(day)])
    for name, scores in peers.scores(peers.Morning(bench.log, day, households)):
        keep(bench.of_peers, name, day, metrics_of(bench.log, day, scores))


def sasrec_day(bench: Bench, day: int) -> None:
    if not kept(bench.of_peers, SASREC, day).exists():
        trained = sasrec.train(bench.log, day_number(WINDOWS["dev"][0]), bench.work / "models" / "sasrec.safetensors")
        households = np.array([slate.household for slate in bench.log.slates(day)])
        keep(
            bench.of_peers, SASREC, day, metrics_of(bench.log, day, sasrec.scores(trained, bench.log, day, households))
        )


def metrics_of(log: Log, day: int, scores: NDArray[np.float32]) -> dict[str, NDArray]:
    """Per-slate metrics of [slates, catalogue] scores."""
    slates, ranked = log.slates(day), log.ranked(day, scores)
    rows = [
        slate_metrics(order, log.past(slate.household, day), slate) for slate, order in zip(slates, ranked, strict=True)
    ]
    told = {metric: np.array([row[metric] for row in rows]) for metric in rows[0]}
    return told | {"household": np.array([slate.household for slate in slates])}


def list_day(bench: Bench, day: int) -> None:
    path = kept(bench.folder, "lists", day)
    if not path.exists():
        seed = bench.seeds[0]
        keep(
            bench.folder,
            "lists",
            day,
            ours.score_lists(bench.log, bench.judged.whole, day, TorchScorer.load(bench.model(seed))),
        )


def main(arguments: list[str]) -> int:
    options = _options().parse_args(arguments)
    start, days = WINDOWS.get(options.window, (options.start, options.days))
    window = options.window if options.start is None else f"{options.start}-{options.days}"
    if options.start is not None:
        start, days = options.start, options.days
    bench = Bench(options.work, window, start, days, load_recipe(options.recipe), tuple(options.seeds))
    bench.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    asked = options.variants or VARIANTS
    names = tuple(dict.fromkeys((REFERENCE, *(VARIANTS[name].against or REFERENCE for name in asked), *asked)))
    made = ablation_parts(bench, names) if options.ablate else parts(bench, options.only)
    for what, make in made if options.only != "none" else ():
        if time.monotonic() - began > options.stop_after:
            print(f"stopped before {what}; run it again")
            return 3
        at, cpu = time.monotonic(), time.process_time()
        make()
        if time.monotonic() - at > 1:
            print(f"{what}: {time.monotonic() - at:.0f} s, CPU {time.process_time() - cpu:.0f} s", flush=True)
    print(f"{window}: {told_counts(bench)}")
    if options.only == "peers":
        return 0
    if options.ablate:  # also of what is there, by --only none
        rows = ablation_table(bench, names)
        return 0 if publish("ranking_ablation", rows, ("torch", "lightgbm"), merged=True) else 1
    rows = table(bench) + list_task(bench) + times(bench)
    name = "ranking_quality" if window == "dev" else f"ranking_quality_{window}"
    return 0 if publish(name, rows, ("torch", "lightgbm", "numpy", "scipy")) else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking_quality")
    parser.add_argument("--work", type=Path, default=WORK, help="where parts are kept")
    parser.add_argument("--window", choices=sorted(WINDOWS), default="dev")
    parser.add_argument("--start", help="first day of another window")
    parser.add_argument("--days", type=int, default=7, help="of it; at most 14")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=("all", "peers", "ours", "none"), default="all", help="make only these parts")
    parser.add_argument("--ablate", action="store_true", help="what each part earns; one seed, fewer training days")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        help="only these of the ablation; rows of the others stay as they are",
    )
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
