"""What is told of the parts that were kept: means, paired differences, bars, the list task, times, the ablation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import _cj1_peers as peers
from benchmarks._cj1_ablation import REFERENCE, VARIANTS
from benchmarks._cj1_bench import ALL_TREES, BOTH, ONE, SASREC, TREE_PEERS, WIDE, Bench, kept, read
from benchmarks._cj1_protocol import TASKS, Longs, interval
from benchmarks._table import Row, below
from tasks.domain.recipe import Trees
from tasks.ranker.trees import calibrate, fit_trees, tree_scores

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


def ablation_table(bench: Bench, names: Sequence[str]) -> list[Row]:
    """Each of these variants, and what it gains or loses against the whole on the same slates.

    Of the days on which all of them ranked; a variant that ranked none is left out.
    """
    ranked = {name: {day for day in bench.numbers if kept(bench.of_ablation, name, day).exists()} for name in names}
    ranked = {name: days for name, days in ranked.items() if days}
    days = sorted(set.intersection(*ranked.values()))
    found = {name: read(bench.of_ablation, name, days) for name in ranked}
    whole = found[REFERENCE]
    print(f"{len(days)} days, {len(whole['household'])} slates")
    rows = [Row("days", len(days), ""), Row("slates", len(whole["household"]), "")]
    households = whole["household"].astype(np.int64)
    for name, of in found.items():
        against = VARIANTS[name].against or REFERENCE
        for task in TASKS:
            metric = f"{QUALITY}[{task}]"
            difference = of[metric] - found[against][metric]
            print(f"{name}, {task}: {np.nanmean(of[metric]):.4f}, {said(difference, households)}")
            low, high = interval(households, difference)
            peers_of = (
                {} if name == REFERENCE else {f"less {against}": float(np.nanmean(difference)), "from": low, "to": high}
            )
            rows.append(Row(f"{name}: NDCG@10 {task}", float(np.nanmean(of[metric])), "", peers=peers_of))
    return rows


def times(bench: Bench) -> list[Row]:
    """Seconds of a refresh of state and of weights, on as many cores as the run had."""
    if not bench.refresh.exists():
        return []
    state = json.loads(bench.refresh.read_text())
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


def mean_over_seeds(of: Sequence[dict[str, NDArray]]) -> dict[str, NDArray]:
    """Each slate's metrics, the mean over the seeds: what a seed drawn at random is expected to give."""
    return {metric: np.mean([one[metric] for one in of], axis=0) for metric in of[0]}


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
        kind = {f"ours: {ONE}": "one model"}.get(name, "ensemble" if name.startswith("ours: ") else None)
        bars = BARS.get((bench.window, kind or ""), (None,) * len(TASKS))
        rows += [
            Row(f"{name}: NDCG@10 {task}", means[task], "", bar, None if bar is None else means[task] >= bar)
            for task, bar in zip(TASKS, bars, strict=True)
        ]
    rows += differences(bench, found, households)
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


def differences(bench: Bench, found: Mapping[str, dict[str, NDArray]], households: Longs) -> list[Row]:
    """Ours less the strongest peers, slate by slate."""
    rows = []
    for mine in (f"ours: {ONE}", f"ours: {BOTH}", f"ours: {bench.together}"):
        for peer in (*TREE_PEERS, ALL_TREES, f"ours: {ONE}"):
            if mine == peer or mine not in found or peer not in found:
                continue
            for task in TASKS:
                metric = f"{QUALITY}[{task}]"
                difference = found[mine][metric] - found[peer][metric]
                low, _ = interval(households, difference)
                print(f"{mine} - {peer}, {task}: {said(difference, households)}")
                must = peer == WIDE and task != "new"
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
