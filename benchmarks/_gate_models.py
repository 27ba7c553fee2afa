"""What the gate's error rates are measured on: a real dataset, seeds of one recipe, and models trained on damaged rows.

Made once in a folder and kept there: landing takes two minutes of compute, each training about one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tasks.domain.recipe import Recipe, load_recipe
from tasks.gate_trials.rows import TRAINING_DAMAGE, damaged_dataset, trained

THROUGH = "2017-12-30"
HOUSEHOLDS = 1_000
HOLDOUT_DAYS = 14
SEEDS = tuple(range(1, 9))
TRAIN_DAYS = 42  # of a thousand households: as many slates as the demo's 84 days of 500
THREADS = 2


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

    files = landed(work)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    events, plans, catalogue = files["events"], files["plans"], files["catalogue"][0]
    build_dataset(events, plans, catalogue, THROUGH, recipe(), work / "cache", out, work / "view")
    return out


def landed(work: Path) -> dict[str, list[Path]]:
    listing = work / "files.json"
    if not listing.exists():
        import polars as pl

        from tasks.adapters.accepted_days import fetch_accepted
        from tasks.adapters.partitions import landed_days
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


def all_models(work: Path) -> dict[str, Path]:
    """Every seed on the sound rows, and one seed on each damaged set of rows."""
    data = dataset(work)
    models = {f"seed-{seed}": trained(work, data, recipe(), f"seed-{seed}", seed, THREADS) for seed in SEEDS}
    for name in TRAINING_DAMAGE:
        models[name] = trained(work, damaged_dataset(work, data, name), recipe(), name, SEEDS[1], THREADS)
    return models
