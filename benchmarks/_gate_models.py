"""What the gate's error rates are measured on: a real dataset, seeds of one recipe, and models trained on damaged rows.

Made once in a folder and kept there: landing takes two minutes of compute, each training about one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.domain.recipe import Recipe, load_recipe
from tasks.ranker.rows import Rows
from tasks.ranker.runtime import PARENT

THROUGH = "2017-12-30"
HOUSEHOLDS = 1_000
HOLDOUT_DAYS = 14
SEEDS = tuple(range(1, 9))
TRAIN_DAYS = 42  # of a thousand households: as many slates as the demo's 84 days of 500
LEAKED = 7  # a feature column that, in the leaking training set, knows the label


def recipe() -> Recipe:
    """The demo's, on other days and households."""
    demo = load_recipe("demo")
    data = demo.data.model_copy(
        update={"users": HOUSEHOLDS, "train_days": TRAIN_DAYS, "holdout_days": HOLDOUT_DAYS, "holdout_slates": 1_500}
    )
    return demo.model_copy(update={"name": "gate", "data": data})


def dataset(work: Path) -> Path:
    """Complete Journey's last 14 days of 2017 as the holdout of the thousand most active households."""
    out = work / "dataset"
    if (out / "dataset.json").exists():
        return out
    from tasks.build_dataset import build_dataset

    files = _landed(work)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    events, plans, catalogue = files["events"], files["plans"], files["catalogue"][0]
    build_dataset(events, plans, catalogue, THROUGH, recipe(), work / "cache", out, work / "view")
    return out


def _landed(work: Path) -> dict[str, list[Path]]:
    listing = work / "files.json"
    if not listing.exists():
        import polars as pl

        from tasks.adapters.partitions import fetch_accepted, landed_days
        from tasks.adapters.store import MemoryStore
        from tasks.ingest import ingest
        from tasks.sources import open_source
        from tasks.validate_data import load_policy, validate_data

        store, report = MemoryStore(), work / "report"
        report.mkdir(parents=True, exist_ok=True)
        ingest(open_source("completejourney"), store, THROUGH, bytes(32), "benchmark")
        validate_data(landed_days(store), store, load_policy(), report)
        found = fetch_accepted(store, THROUGH, work / "days")
        trips = (
            pl.scan_parquet(found.events)
            .group_by("user_id")
            .agg(pl.col("event_time").dt.date().n_unique().alias("trips"))
            .sort(["trips", "user_id"], descending=[True, False])
            .head(HOUSEHOLDS)
            .collect()
        )
        (work / "view").mkdir(exist_ok=True)
        (work / "view" / "users.json").write_text(json.dumps({"users": sorted(trips["user_id"].to_list())}))
        told = {"events": found.events, "plans": found.plans, "catalogue": [found.catalogue]}
        listing.write_text(json.dumps({name: [str(path) for path in paths] for name, paths in told.items()}))
    return {name: [Path(path) for path in paths] for name, paths in json.loads(listing.read_text()).items()}


def trained(work: Path, data: Path, name: str, seed: int) -> Path:
    """The model of one seed, on `data`."""
    out = work / "models" / name
    if (out / PARENT).exists():
        return out
    from tasks.finetune import finetune

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    finetune(data, recipe(), out, out, seed=seed, threads=2)
    return out


def damaged_dataset(work: Path, data: Path, name: str) -> Path:
    """The dataset with every training day's rows changed by TRAINING_DAMAGE[name]; the holdout stays as it is."""
    out = work / name
    if (out / "complete").exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(data, out)
    days = sorted((out / "train").glob("*.safetensors"))
    for number, path in enumerate(days):
        draws = np.random.default_rng([number, 17])
        TRAINING_DAMAGE[name](Rows.load(path), draws, number / len(days)).save(path)
    (out / "complete").touch()
    return out


def _leaked_label(rows: Rows, draws: np.random.Generator, age: float) -> Rows:
    """A feature that knows the answer while training, and nothing of it when serving."""
    x = rows.x.copy()
    x[:, LEAKED] = (rows.label * 3 + draws.normal(0, 0.5, len(x))).astype(x.dtype)
    return replace(rows, x=x)


def _label_noise(rows: Rows, draws: np.random.Generator, age: float) -> Rows:
    """Four of five purchases are said of another row of the same slate."""
    return _relabelled(rows, draws, 0.8)


def _poisoned_partition(rows: Rows, draws: np.random.Generator, age: float) -> Rows:
    """In the last third of the days, what was bought is what was not: the labels of a bot farm."""
    return _relabelled(rows, draws, 1.0) if age >= 2 / 3 else rows


def _relabelled(rows: Rows, draws: np.random.Generator, share: float) -> Rows:
    label, grade = rows.label.copy(), rows.grade.copy()
    owner = np.repeat(np.arange(len(rows.ptr) - 1), np.diff(rows.ptr))
    for row in np.flatnonzero(rows.label).tolist():
        if draws.random() >= share:
            continue
        start, end = rows.ptr[owner[row]], rows.ptr[owner[row] + 1]
        other = int(draws.integers(start, end))
        label[row], grade[row], label[other], grade[other] = 0, 0, 1, rows.grade[row]
    return replace(rows, label=label, grade=grade)


TRAINING_DAMAGE: dict[str, Callable[[Rows, np.random.Generator, float], Rows]] = {
    "leaked_label": _leaked_label,
    "label_noise": _label_noise,
    "poisoned_partition": _poisoned_partition,
}


def all_models(work: Path) -> dict[str, Path]:
    """Every seed on the sound rows, and one seed on each damaged set of rows."""
    data = dataset(work)
    models = {f"seed-{seed}": trained(work, data, f"seed-{seed}", seed) for seed in SEEDS}
    for name in TRAINING_DAMAGE:
        damaged = damaged_dataset(work, data, name)
        models[name] = trained(work, damaged, name, SEEDS[1])
    return models
