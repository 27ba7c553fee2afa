"""A made-up shop as accepted partitions on disk: households with habits, so that there is something to learn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from tasks.ranker.arrays import epoch_day, iso_day

ITEMS, USERS = 150, 45
KINDS = ("milk", "bread", "apples", "coffee", "soap")
FIRST, LAST = epoch_day("2017-03-20"), epoch_day("2017-06-16")


@dataclass(frozen=True)
class Shop:
    accepted: list[Path]
    plans: list[Path]
    catalogue: Path


def open_shop(folder: Path, last: int = LAST, seed: int = 5) -> Shop:
    """Every household goes every few days and buys its ten staples in rhythm, and now and then what is promoted."""
    rng = np.random.default_rng(seed)
    staples = np.array([rng.choice(ITEMS, 10, replace=False) for _ in range(USERS)])
    rhythm, due = rng.integers(3, 15, (USERS, 10)), rng.integers(0, 12, (USERS, 10)) + FIRST
    accepted, plans = [], []
    promoted = rng.choice(ITEMS, 6, replace=False)
    for day in range(FIRST, last + 1):
        rows = []
        for user in np.flatnonzero(rng.random(USERS) < 0.5):
            now = staples[user][due[user] <= day]
            due[user][due[user] <= day] = day + rhythm[user][due[user] <= day]
            seen = rng.choice(promoted, 2) if rng.random() < 0.3 else []
            rows += [(user, item) for item in {*now.tolist(), *(int(item) for item in seen)}]
        accepted.append(_events(folder, day, rows, promoted))
        promoted = rng.choice(ITEMS, 6, replace=False) if day % 7 == 0 else promoted
        plans.append(_plan(folder, day, promoted))
    return Shop(accepted, plans, _items(folder))


def _events(folder: Path, day: int, rows: list[tuple[int, int]], promoted: np.ndarray) -> Path:
    path = folder / "accepted" / f"dt={iso_day(day)}" / "accepted-1.parquet"
    path.parent.mkdir(parents=True)
    noon = datetime(1970, 1, 1, 12, tzinfo=UTC) + timedelta(days=day)
    pl.DataFrame(
        {
            "event_id": [f"{day}-{n:04d}" for n in range(len(rows))],
            "event_time": [noon + timedelta(seconds=n) for n in range(len(rows))],
            "user_id": [f"{user:064x}" for user, _ in rows],
            "item_id": [f"item-{item:03d}" for _, item in rows],
            "event_type": ["purchase"] * len(rows),
            "value": [1.0 + item % 7 for _, item in rows],
            "quantity": [1.0] * len(rows),
            "discount": [float(item in promoted) for _, item in rows],
            "store_id": [f"s{user % 3}" for user, _ in rows],
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC"), "value": pl.Float64, "user_id": pl.String},
    ).write_parquet(path)
    return path


def _plan(folder: Path, day: int, promoted: np.ndarray) -> Path:
    path = folder / "plans" / f"dt={iso_day(day)}" / "plan-0000.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame(
        {
            "item_id": [f"item-{item:03d}" for item in sorted(promoted.tolist())],
            "display_share": np.full(len(promoted), 0.5, np.float32),
            "mailer_share": np.full(len(promoted), 1.0, np.float32),
        }
    ).write_parquet(path)
    return path


def _items(folder: Path) -> Path:
    path = folder / "catalogue.parquet"
    numbers = range(ITEMS)
    pl.DataFrame(
        {
            "item_id": [f"item-{n:03d}" for n in numbers],
            "title": [f"{KINDS[n % 5]} no {n % 10}" for n in numbers],
            "category_path": [f"FOOD > {KINDS[n % 5].upper()} > {KINDS[n % 5].upper()} {n % 10}" for n in numbers],
            "brand": ["National" if n % 3 else "Private" for n in numbers],
        }
    ).write_parquet(path)
    return path


def with_lists(path: Path, folder: Path) -> Path:
    """The day with a list for everyone who bought: eight items in a random order; looks fade with the place."""
    target = folder / path.parent.name / path.name
    target.parent.mkdir(parents=True)
    events = pl.read_parquet(path)
    rng = np.random.default_rng(len(events))
    lists = []
    for n, (user, bought) in enumerate(events.group_by("user_id", maintain_order=True).agg("item_id").iter_rows()):
        items = [*bought[:3], *(f"item-{item:03d}" for item in rng.choice(150, 8, replace=False))]
        items = list(dict.fromkeys(items))[:8]
        rng.shuffle(items)
        for place, item in enumerate(items):
            shown = {"user_id": user, "item_id": item, "request_id": f"q{n}", "position": place}
            lists.append(shown | {"event_type": "impression"})
            if item in bought and rng.random() < 1 / (1 + place):
                lists.append(shown | {"event_type": "click"})
    if lists:
        time = events["event_time"][0]
        more = pl.DataFrame(lists).with_columns(
            event_id=pl.format("{}-list-{}", pl.lit(path.parent.name), pl.int_range(pl.len())),
            event_time=pl.lit(time, dtype=events.schema["event_time"]),
            request_id=pl.format("{}-{}", pl.lit(path.parent.name), "request_id"),
            position=pl.col("position").cast(pl.Int32),
        )
        events = pl.concat([events, more], how="diagonal_relaxed")
    events.write_parquet(target)
    return target
