"""What the ranking benchmark works on: the days of Complete Journey, landed and accepted, and datasets of all households.

Made once in a folder and kept there. Datasets are those of the DAG: the same build_dataset, the window is their holdout.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tasks.domain.behaviour import next_day
from tasks.domain.recipe import Recipe
from tasks.ranker.dataset import Dataset

KEY = bytes(32)  # pseudonyms of a benchmark protect nobody: the data are public
FIRST = "2017-01-01"


def landed(work: Path, through: str) -> dict[str, list[Path]]:
    """Local copies of the accepted days up to `through`: events, plans and the catalogue."""
    folder = work / "landed" / through
    listing = folder / "files.json"
    if not listing.exists():
        from tasks.adapters.accepted_days import fetch_accepted
        from tasks.adapters.partitions import landed_days
        from tasks.adapters.store import MemoryStore
        from tasks.ingest import ingest
        from tasks.sources import open_source
        from tasks.validate_data import load_policy, validate_data

        shutil.rmtree(folder, ignore_errors=True)
        (folder / "report").mkdir(parents=True)
        store = MemoryStore()
        ingest(open_source("completejourney"), store, through, KEY, "benchmark")
        validate_data(landed_days(store), store, load_policy(), folder / "report")
        found = fetch_accepted(store, through, folder / "days")
        told = {"events": found.events, "plans": found.plans, "catalogue": [found.catalogue]}
        listing.write_text(json.dumps({name: [str(path) for path in paths] for name, paths in told.items()}))
    return {name: [Path(path) for path in paths] for name, paths in json.loads(listing.read_text()).items()}


def dataset(work: Path, name: str, recipe: Recipe, start: str, days: int, *, rows: bool = True) -> Dataset:
    """The dataset whose holdout is the window of `days` days from `start`; training ends the day before.

    Args:
        rows: False makes only two days of training rows: enough where the window is ranked by weights of another one.
    """
    out = work / "datasets" / f"{name}-{start}-{days}"
    if not (out / "dataset.json").exists():
        from tasks.build_dataset import build_dataset

        through = next_day(start, days - 1)
        files = landed(work, through)
        view = everybody(work, files["events"])
        data = recipe.data.model_copy(update={"holdout_days": days, "holdout_slates": 1})
        if not rows:
            data = data.model_copy(update={"train_days": 1, "validation_days": 1})
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        made = recipe.model_copy(update={"data": data})
        summary = build_dataset(
            files["events"], files["plans"], files["catalogue"][0], through, made, work / "cache", out, view
        )
        (out / "summary.json").write_text(json.dumps(summary, indent=1))
    return Dataset.open(out)


def everybody(work: Path, events: list[Path]) -> Path:
    """A view that names every household, as the champion's does whose users are all of them."""
    import polars as pl

    view = work / "everybody"
    view.mkdir(parents=True, exist_ok=True)
    users = pl.scan_parquet(events).select("user_id").unique().sort("user_id").collect()["user_id"].to_list()
    (view / "users.json").write_text(json.dumps({"users": users}))
    return view
