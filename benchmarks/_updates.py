"""Five weekly updates in a row on the demo's households: datasets, models of each way to update, and who ranked what how well.

Everything is kept in a folder, so that a run that was stopped goes on. Holdouts of the updates do not overlap and no model has
seen one: 15 July to 18 August 2017, outside the window that is only for reporting.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._demo_days import dataset, demo, users_of
from tasks.domain.recipe import Recipe, WarmStart
from tasks.ranker.arrays import epoch_day, iso_day
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import Judged, Row, judge, mean_of, metrics_of, prepare
from tasks.ranker.profile import Profile
from tasks.ranker.rank import rank_profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import TorchScorer
from tasks.ranker.state import NOBODY, ItemState, View

WORK = Path(".freshrank/bench/training")
FIRST, UPDATES, EVERY_DAYS = "2017-07-14", 5, 7
HOUSEHOLDS, TRAIN_DAYS, SEED = 500, 28, 1
WARM = {"warm": 0.12}  # share of what a fresh training reads; a new week is a twelfth of it. .2 costs 32 % of its CPU
SYSTEMS = ("frozen", "kept", "fresh", *WARM)
METRICS = ("ndcg_at_10[all]", "ndcg_at_10[new]", "ndcg_at_10[repeat]")


def partition(update: int) -> str:
    """0 is the first champion's."""
    return iso_day(epoch_day(FIRST) + EVERY_DAYS * update)


def recipe(way: str) -> Recipe:
    """fresh: the demo on 28 days. The others go on from the champion's weights as they are."""
    made = demo(train_days=TRAIN_DAYS, holdout_slates=1)  # seven days, so that holdouts do not overlap
    if way == "fresh":
        return made
    warm = {"start": "champion", "warm": WarmStart(share=WARM[way])}
    return made.model_copy(update={"training": made.training.model_copy(update=warm)})


def data_of(update: int) -> Path:
    users = users_of(WORK, HOUSEHOLDS, partition(0))
    return dataset(WORK, recipe("fresh"), partition(update), users)


def trained(way: str, update: int) -> Path:
    """The model of one way after so many updates; told.json has its CPU seconds, reading and judging included."""
    if update == 0:
        way = "fresh"
    out = WORK / "models" / f"{way}-{recipe(way).digest[:8]}-{partition(update)}"
    if (out / "told.json").exists():
        return out
    from tasks.finetune import finetune

    champion = None if way == "fresh" else trained(way, update - 1)
    data = data_of(update)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.process_time()
    told = finetune(data, recipe(way), out, out, seed=SEED + update, threads=1, champion=champion)
    told["cpu_s"] = time.process_time() - began
    if way != "fresh" and "started_from" not in told:
        raise SystemExit(f"update {update}: the champion was no start; the log says why")
    (out / "told.json").write_text(json.dumps(told))
    print(
        f"update {update} {way}: {told['cpu_s']:.1f} CPU s, validation {told['validation']['ndcg_at_10[all]']:.4f}",
        flush=True,
    )
    return out


def judged(update: int) -> list[dict[str, object]]:
    """Every slate of an update's holdout: its day, its user, and the metrics of each system."""
    named = "-".join(sorted({recipe(way).digest[:6] for way in ("fresh", *WARM)}))
    folder = WORK / f"judged-{named}-{update}"
    data = Dataset.open(data_of(update))
    parts = {day: folder / f"{day}.json" for day in data.split.holdout_days}
    missing = [day for day, path in parts.items() if not path.exists()]
    if missing:
        folder.mkdir(exist_ok=True)
        scorers = {way: TorchScorer.load(trained(way, update)) for way in ("fresh", *WARM)}
        first = TorchScorer.load(trained("fresh", 0))
        frozen = _frozen(first, data)
    for day in missing:
        rows = []
        for one in prepare(data.mornings((day,))):
            told: dict[str, Row] = {way: judge(scorer, one) for way, scorer in scorers.items()}
            told |= {"kept": judge(first, one), "frozen": frozen(one)}
            values = {name: {metric: row[metric] for metric in METRICS if metric in row} for name, row in told.items()}
            rows.append({"day": iso_day(one.slate.day), "user": int(one.slate.user)} | values)
        parts[day].write_text(json.dumps(rows))
        means = {name: round(mean_of(row[name] for row in rows)[METRICS[0]], 4) for name in SYSTEMS}  # type: ignore[misc]
        print(f"update {update}, {day}: {len(rows)} slates, {means}", flush=True)
    found: list[dict[str, object]] = [row for path in parts.values() for row in json.loads(path.read_text())]
    return found


def _frozen(scorer: TorchScorer, data: Dataset) -> Callable[[Judged], Row]:
    """The first champion with everything as it was on its first morning: item counters, histories and catalogue."""
    first = data_of(0)
    released, histories = ItemState.load(first / "items"), View(first / "view")
    names = data.whole.log.user_ids

    def row(one: Judged) -> Row:
        user = histories.get(names[one.slate.user]) or NOBODY
        profile = Profile(released, user, one.slate.day)
        candidates = candidates_of(profile)
        ranking = rank_profile(scorer, profile, candidates)
        items = one.ranked.profile.items
        ids = (released.ids[n] for n in candidates[ranking.order].tolist())
        ranked = np.array([items.row_of.get(item, -1) for item in ids], np.int32)
        past = np.isin(ranked, one.ranked.profile.by_item.keys)
        return metrics_of(np.isin(ranked, one.slate.positives), past, one.slate)

    return row
