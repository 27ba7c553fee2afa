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
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import _cj1_ours as ours
from benchmarks import _cj1_peers as peers
from benchmarks import _cj1_sasrec as sasrec
from benchmarks._cj1_ablation import REFERENCE, TRAIN_DAYS, VARIANTS
from benchmarks._cj1_data import dataset
from benchmarks._cj1_protocol import (
    TASKS,
    WINDOWS,
    Log,
    Longs,
    counts,
    day_number,
    interval,
    iso,
    slate_metrics,
)
from benchmarks._table import Row, below, publish
from tasks.domain.behaviour import next_day
from tasks.domain.recipe import Recipe, Trees, load_recipe
from tasks.ranker.dataset import Dataset
from tasks.ranker.model import load_model
from tasks.ranker.runtime import TREES, Scorer, TorchScorer, inputs_of, read_config
from tasks.ranker.trees import Member, calibrate, fit_trees, tree_scores

WORK = Path(".freshrank/bench/ranking")
RECIPE = "production"
QUALITY = "ndcg_at_10"
# what the issue says must be reached: one model, ensemble, second window; all, new, repeat
BARS = {
    ("dev", "one model"): (0.2353, 0.0486, 0.3500),
    ("dev", "ensemble"): (0.2372, 0.0497, 0.3526),
    ("second", "one model"): (0.2389, 0.0291, 0.3296),
    ("second", "ensemble"): (0.2389, 0.0291, 0.3296),
}
STATE_S, WEIGHTS_S = 60, 600
LOGLOSS, ECE, LIST_BINS, FITTED_DAYS = 0.243, 0.006, 15, 7
# the features of the strongest peer (notes: 43, then ten more), as far as the product has them under its own names
OF_43 = (
    "count", "days_since", "trips_since", "gap", "due", "decayed_15d", "decayed_45d", "decayed_120d", "decayed_trips",
    "in_last_5_trips", "trip_rate", "neighbours", "similar_widely", "ease", "sales_2d", "sales_7d", "sales_28d", "sales_90d",
    "sales_trend", "buyers_90d", "rebuys_per_buyer", "age", "price", "price_in_type", "discounted_7d", "discounted_28d",
    "type_share", "type_days_since", "category_share", "category_days_since", "brand_share", "share_in_type", "trips",
    "trip_gap", "basket", "price_habit", "display", "mailer", "store_sales_28d", "weekday_lift", "type_sales_28d",
    "type_gap", "type_due",
)  # fmt: skip
WIDER = (
    "store_sales_7d", "plan_sales", "plan_discounted", "plan_price", "plan_age", "plan_lift", "category_share_x_sales_7d",
    "discount_habit", "distinct_share", "type_share_x_share_in_type",
)  # fmt: skip
PLAN = Trees(rounds=200)
TREE_PEERS = {"LambdaMART, 43 features, 21 days": (OF_43, 21), "LambdaMART wide": (OF_43 + WIDER, 42)}
SASREC = "SASRec-like"
ONE, BOTH = "one network", "network + trees"
ALL_TREES = "LambdaMART, every feature of ours"  # the trees of the ensemble alone


@dataclass(frozen=True)
class Bench:
    """One window, and where its parts are kept."""

    work: Path
    window: str
    start: str
    days: int
    recipe: Recipe
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        return self.work / "scored" / f"{self.window}-{self.recipe.name}"

    @property
    def of_peers(self) -> Path:
        return self.work / "scored" / f"{self.window}-peers"

    @property
    def of_ablation(self) -> Path:
        return self.work / "scored" / f"{self.window}-{self.recipe.name}-ablation"

    @cached_property
    def log(self) -> Log:
        from tasks.sources import open_source

        return Log.read(open_source("completejourney"), next_day(self.start, self.days - 1))

    @property
    def numbers(self) -> range:
        first = day_number(self.start)
        return range(first, first + self.days)

    @cached_property
    def training(self) -> Dataset:
        """Of dev, whatever the window: what is compared is trained to the same day."""
        return dataset(self.work, self.recipe.name, self.recipe, *WINDOWS["dev"])

    @cached_property
    def judged(self) -> Dataset:
        if (self.start, self.days) == WINDOWS["dev"]:
            return self.training
        return dataset(self.work, self.recipe.name, self.recipe, self.start, self.days, rows=False)

    @property
    def together(self) -> str:
        """What `members` gives, trained apart."""
        return f"mean of {len(self.seeds)} networks + trees"

    def model(self, seed: int) -> Path:
        return self.work / "models" / f"{self.recipe.name}-seed{seed}"

    @cached_property
    def own(self) -> dict[str, Scorer]:
        """Our systems, and the trees of the ensemble alone."""
        found: dict[str, Scorer] = {}
        for seed in self.seeds:
            path = self.model(seed)
            found[f"{ONE}, seed {seed}"] = TorchScorer(load_model(path), inputs_of(read_config(path)))
            if self.recipe.trees:
                found[f"{BOTH}, seed {seed}"] = TorchScorer.load(path)
        path = self.model(self.seeds[0])
        first, inputs = found[f"{ONE}, seed {self.seeds[0]}"], inputs_of(read_config(path))
        if self.recipe.trees:
            networks = [found[f"{ONE}, seed {seed}"] for seed in self.seeds]
            found[ALL_TREES] = ours.TreePeer(path / TREES, inputs.features, inputs.features, first)
            found[self.together] = ours.Mean(networks, Member.load(path))
        return found

    @cached_property
    def tree_peers(self) -> dict[str, Scorer]:
        """LambdaMART on fewer features; it orders the best of our first stage. Growing the trees takes minutes."""
        path, found = self.model(self.seeds[0]), dict[str, Scorer]()
        first, inputs = self.own[f"{ONE}, seed {self.seeds[0]}"], inputs_of(read_config(path))
        for name, (columns, days) in TREE_PEERS.items():
            if set(columns) <= set(inputs.features):
                slugged = f"{self.recipe.name}-{slug(name)}"
                grown = ours.tree_peer(self.work, self.training, slugged, columns, days, PLAN, 0)
                found[name] = ours.TreePeer(grown, columns, inputs.features, first)
        return found


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


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
        yield "dataset of the window", lambda: bench.judged
        for day in bench.numbers:
            yield f"rank {iso(day)}", lambda day=day: rank_day(bench, day, bench.own)
        yield "state refresh", lambda: refreshed(bench)
        for day in bench.numbers:
            yield f"lists {iso(day)}", lambda day=day: list_day(bench, day)
        yield "tree peers", lambda: bench.tree_peers
        for day in bench.numbers:
            yield f"rank tree peers {iso(day)}", lambda day=day: rank_day(bench, day, bench.tree_peers)


def ablation_parts(bench: Bench) -> Iterator[tuple[str, Callable[[], object]]]:
    """Training and ranking of every variant; see _cj1_ablation.py."""
    for name, variant in VARIANTS.items():
        if not variant.trained_as:
            yield f"train {name}", lambda name=name: variant_model(bench, name)
    for day in bench.numbers:
        yield f"rank {iso(day)}", lambda day=day: ablation_day(bench, day)


def variant_model(bench: Bench, name: str) -> Path:
    variant = VARIANTS[name]
    own = f"{bench.recipe.name}-ablation-{slug(name)}"
    data = ours.silenced(bench.work, bench.training, own, variant.silent, text=variant.text, days=TRAIN_DAYS)
    return ours.trained(bench.work, data, variant.recipe(own, bench.recipe), bench.seeds[0])


def ablation_day(bench: Bench, day: int) -> None:
    wanted: dict[str, Scorer] = {}
    for name, variant in VARIANTS.items():
        if not kept(bench.of_ablation, name, day).exists():
            scorer: Scorer = TorchScorer.load(variant_model(bench, variant.trained_as or name))
            wanted[name] = variant.asked(scorer if variant.text else ours.WithoutText(scorer))
    if wanted:
        for name, of in ours.score_day(bench.log, bench.judged.whole, day, wanted).items():
            keep(bench.of_ablation, name, day, of)


def ablation_table(bench: Bench) -> list[Row]:
    """Each variant, and what it gains or loses against the whole on the same slates."""
    found = {name: read(bench.of_ablation, name, bench.numbers) for name in VARIANTS}
    whole, rows = found[REFERENCE], []
    households = whole["household"].astype(np.int64)
    for name, of in found.items():
        for task in TASKS:
            metric = f"{QUALITY}[{task}]"
            difference = of[metric] - whole[metric]
            print(f"{name}, {task}: {np.nanmean(of[metric]):.4f}, {said(difference, households)}")
            low, high = interval(households, difference)
            peers_of = (
                {} if name == REFERENCE else {"less the whole": float(np.nanmean(difference)), "from": low, "to": high}
            )
            rows.append(Row(f"{name}: NDCG@10 {task}", float(np.nanmean(of[metric])), "", peers=peers_of))
    return rows


def refreshed(bench: Bench) -> dict[str, float]:
    path = bench.work / f"refresh-{bench.recipe.name}.json"
    if not path.exists():
        path.write_text(json.dumps(ours.state_refresh(bench.training, bench.work / "refreshed")))
    told: dict[str, float] = json.loads(path.read_text())
    return told


def times(bench: Bench) -> list[Row]:
    """Seconds of a refresh of state and of weights, on as many cores as the run had."""
    if not (bench.work / f"refresh-{bench.recipe.name}.json").exists():
        return []
    state = refreshed(bench)
    weights = [json.loads((bench.model(seed) / "summary.json").read_text()) for seed in bench.seeds]
    rows = [
        below(
            f"state refresh, {state['households']:.0f} households, {state['cores']:.0f} cores",
            state["wall_s"],
            "s",
            STATE_S,
        ),
        Row("the same, CPU", state["cpu_s"], "s"),
    ]
    slowest = max(weights, key=lambda of: of["wall_s"])
    cores = slowest["cores"]
    return [
        *rows,
        below(f"weight refresh: training, {cores} cores", slowest["wall_s"], "s", WEIGHTS_S),
        Row("the same, CPU", slowest["cpu_s"], "s"),
    ]


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


def kept(folder: Path, name: str, day: int) -> Path:
    return folder / slug(name) / f"{iso(day)}.npz"


def keep(folder: Path, name: str, day: int, arrays: Mapping[str, NDArray]) -> None:
    path = kept(folder, name, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    np.savez_compressed(draft, **dict(arrays))
    draft.replace(path)


def read(folder: Path, name: str, days: range) -> dict[str, NDArray]:
    """Every slate of the window that was ranked, in the order of day and household."""
    found = []
    for day in days:
        if kept(folder, name, day).exists():
            with np.load(kept(folder, name, day)) as of:
                order = np.argsort(of["household"], kind="stable")
                found.append({metric: of[metric][order] for metric in of.files})
    return {metric: np.concatenate([one[metric] for one in found]) for metric in found[0]} if found else {}


def mean_over_seeds(of: Sequence[dict[str, NDArray]]) -> dict[str, NDArray]:
    """Each slate's metrics, the mean over the seeds: what a seed drawn at random is expected to give."""
    return {metric: np.mean([one[metric] for one in of], axis=0) for metric in of[0]}


def systems(bench: Bench) -> dict[str, dict[str, NDArray]]:
    """Per-slate metrics of every system, ours over all seeds."""
    found: dict[str, dict[str, NDArray]] = {}
    for name in (*peers.NAMES, SASREC):
        found[name] = read(bench.of_peers, name, bench.numbers)
    for name in (*TREE_PEERS, ALL_TREES):
        found[name] = read(bench.folder, name, bench.numbers)
    for name in (ONE, BOTH):
        seeds = [read(bench.folder, f"{name}, seed {seed}", bench.numbers) for seed in bench.seeds]
        if all(seeds):
            found[f"ours: {name}"] = mean_over_seeds(seeds)
    if len(bench.seeds) > 1:
        found[f"ours: {bench.together}"] = read(bench.folder, bench.together, bench.numbers)
    return {name: of for name, of in found.items() if of}


def said(values: NDArray, household: Longs) -> str:
    low, high = interval(household, values)
    return f"{np.nanmean(values):+.4f} [{low:+.4f}, {high:+.4f}]"


def table(bench: Bench) -> list[Row]:
    found, rows = systems(bench), []
    households = next(iter(found.values()))["household"].astype(np.int64)
    for name, of in found.items():
        if len(of["household"]) != len(households):
            print(f"{name}: {len(of['household'])} of {len(households)} slates so far")
            continue
        means = {task: float(np.nanmean(of[f"{QUALITY}[{task}]"])) for task in TASKS}
        told = " / ".join(
            f"{means[task]:.4f} [{', '.join(f'{b:.4f}' for b in interval(households, of[f'{QUALITY}[{task}]']))}]"
            for task in TASKS
        )
        more = " ".join(f"{m}={np.nanmean(of[f'{m}[all]']):.4f}" for m in ("recall_at_10", "hit_rate_at_10", "mrr"))
        print(f"{name}: {told}; {more}")
        kind = {f"ours: {ONE}": "one model", f"ours: {BOTH}": "ensemble"}.get(name)
        bars = BARS.get((bench.window, kind or ""), (None,) * len(TASKS))
        rows += [
            Row(f"{name}: NDCG@10 {task}", means[task], "", bar, None if bar is None else means[task] >= bar)
            for task, bar in zip(TASKS, bars, strict=True)
        ]
    rows += differences(found, households)
    rows.append(Row("seeds of ours", len(bench.seeds), ""))
    for name in (f"ours: {ONE}", f"ours: {BOTH}"):
        if name in found:
            of = found[name]
            rows += [
                Row(f"candidates hold, {task} positives", float(of[f"caught_{task}"].sum() / of[task].sum()), "share")
                for task in ("new", "repeat")
            ]
            break
    return rows


def differences(found: Mapping[str, dict[str, NDArray]], households: Longs) -> list[Row]:
    """Ours less the strongest peers, slate by slate."""
    rows = []
    for mine in (f"ours: {ONE}", f"ours: {BOTH}"):
        for peer in (*TREE_PEERS, ALL_TREES, f"ours: {ONE}"):
            if mine == peer or mine not in found or peer not in found:
                continue
            for task in TASKS:
                metric = f"{QUALITY}[{task}]"
                difference = found[mine][metric] - found[peer][metric]
                low, _ = interval(households, difference)
                print(f"{mine} - {peer}, {task}: {said(difference, households)}")
                must = peer == "LambdaMART wide" and task != "new"
                rows.append(
                    Row(
                        f"{mine} - {peer}, {task}: lower end", low, "", 0.0 if must else None, low > 0 if must else None
                    )
                )
    return rows


def list_task(bench: Bench) -> list[Row]:
    """Probabilities in lists: fitted on the lists of the first seven days, tested on the others.

    Lists hold forty past products and others by popularity, so no score of a natural slate is calibrated on them: trees
    on our features and our score are fitted, as the peer's are on its own.
    """
    days = [kept(bench.folder, "lists", day) for day in bench.numbers]
    if not all(path.exists() for path in days) or len(days) <= FITTED_DAYS:
        return []
    loaded = [dict(np.load(path)) for path in days]

    def joined(of: list[dict[str, NDArray]]) -> tuple[NDArray, NDArray, list[int]]:
        x = np.concatenate(
            [
                np.concatenate([one["x"], one["scores"][:, :, None]], axis=2).reshape(-1, one["x"].shape[2] + 1)
                for one in of
            ]
        )
        label = np.concatenate([one["label"].ravel() for one in of])
        return x.astype(np.float32), label, [one["label"].shape[1] for one in of for _ in one["label"]]

    x, label, sizes = joined(loaded[:FITTED_DAYS])
    cut = int(len(x) * 0.8) // 100 * 100
    plan = Trees(rounds=200, learning_rate=0.05, leaves=31, objective="binary", least_rows=200)
    booster = fit_trees(x[:cut], label[:cut], sizes[: cut // 100], plan, 0)
    temperature, bias = calibrate(tree_scores(booster, x[cut:]), label[cut:])
    tested, truth, _ = joined(loaded[FITTED_DAYS:])
    p = 1 / (1 + np.exp(-(temperature * tree_scores(booster, tested).astype(np.float64) + bias)))
    p = np.clip(p, 1e-7, 1 - 1e-7)
    logloss = float(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())
    bins = np.minimum((p * LIST_BINS).astype(int), LIST_BINS - 1)
    ece = sum(abs(p[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    return [
        Row("list task: logloss", logloss, "", LOGLOSS, logloss <= LOGLOSS, {"LightGBM binary (notes)": 0.2449}),
        Row("list task: ECE", float(ece), "", ECE, bool(ece <= ECE), {"LightGBM binary (notes)": 0.004}),
    ]


def main(arguments: list[str]) -> int:
    options = _options().parse_args(arguments)
    start, days = WINDOWS.get(options.window, (options.start, options.days))
    window = options.window if options.start is None else f"{options.start}-{options.days}"
    if options.start is not None:
        start, days = options.start, options.days
    bench = Bench(options.work, window, start, days, load_recipe(options.recipe), tuple(options.seeds))
    bench.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for what, make in ablation_parts(bench) if options.ablate else parts(bench, options.only):
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
    if options.ablate:
        return 0 if publish("ranking_ablation", ablation_table(bench), ("torch", "lightgbm")) else 1
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
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
