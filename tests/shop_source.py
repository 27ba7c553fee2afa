"""The made-up shop as a team's own folder of files, with one customer whom tests follow through everything."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from tasks.ranker.arrays import iso_day
from tests.shop import FIRST, open_shop

DAYS = 35
LAST_DAY, NEXT_DAY = iso_day(FIRST + DAYS - 2), iso_day(FIRST + DAYS - 1)
ANNA, VISIT, PHONE = "RAWUSER-8d1f0c", "RAWVISIT-77ac31", "RAWPHONE-5550199"
SEEDS = (5, 6, 7, 8)
HERS = [f"household-5-{n}" for n in range(3, 10)]  # one customer who comes every day


def write_shop(folder: Path, *, anna: bool = True) -> Path:
    """Some shops' days in one folder. Anna sends some rows twice, names herself in a query, and may be absent."""
    shops = {seed: open_shop(folder / f"made-{seed}", last=FIRST + DAYS - 1, seed=seed) for seed in SEEDS}
    data = folder / "data"
    data.mkdir()
    for at, days in enumerate(zip(*(shop.accepted for shop in shops.values()), strict=True)):
        day = pl.concat([_renamed(pl.read_parquet(path), seed) for seed, path in zip(shops, days, strict=True)])
        _with_anna(day, anna).write_parquet(data / f"events-{iso_day(FIRST + at)}.parquet")
    for path in shops[5].plans:
        pl.read_parquet(path).write_parquet(data / f"plan-{path.parent.name[3:]}.parquet")
    items = pl.read_parquet(shops[5].catalogue)
    now = pl.lit(datetime(2017, 1, 1, tzinfo=UTC)).cast(pl.Datetime("us", "UTC"))
    items.with_columns(text=pl.col("title"), available=pl.lit(True), updated_at=now).write_parquet(
        data / "items.parquet"
    )
    users = [f"household-{seed}-{n}" for seed in shops for n in range(45)]
    users = [user for user in users if user not in HERS] + [ANNA] * anna
    people = pl.DataFrame({"user_id": users, "age": ["45-54"] * len(users), "mail": [f"{one}@home" for one in users]})
    people.write_parquet(data / "users.parquet")
    return data


def _renamed(day: pl.DataFrame, seed: int) -> pl.DataFrame:
    user = pl.col("user_id").str.strip_chars_start("0")
    number = pl.col("event_id").str.split("-").list.eval(pl.element().cast(pl.Int64))
    second = (
        number.list.first() * 3571 + number.list.last() * 7919 * seed
    ) % 43_200  # nobody repeats a day to the second
    return day.with_columns(
        event_id=pl.concat_str(pl.lit(f"{seed}/"), "event_id"),
        event_time=pl.col("event_time").dt.truncate("1d") + pl.duration(hours=8) + pl.duration(seconds=second),
        user_id=pl.concat_str(pl.lit(f"household-{seed}-"), pl.when(user == "").then(pl.lit("0")).otherwise(user)),
        session_id=pl.concat_str(pl.lit(f"visit-{seed}-"), "user_id"),
        surface=pl.when(second // 60 % 3 == 0).then(pl.lit("search")).otherwise(pl.lit("recommendation")),
        query=pl.when(second // 60 % 3 == 0).then(pl.lit("weekly shopping")),
        phone=pl.lit("none"),
    )


def _with_anna(day: pl.DataFrame, anna: bool) -> pl.DataFrame:
    hers = pl.col("user_id").is_in(HERS)
    if not anna:
        return day.filter(~hers)
    day = day.with_columns(
        user_id=pl.when(hers).then(pl.lit(ANNA)).otherwise("user_id"),
        session_id=pl.when(hers).then(pl.lit(VISIT)).otherwise("session_id"),
        event_id=pl.when(hers).then(pl.concat_str(pl.lit(f"{ANNA}/{VISIT}/"), "event_id")).otherwise("event_id"),
        query=pl.when(hers & pl.col("query").is_not_null()).then(pl.lit(f"what {ANNA} bought")).otherwise("query"),
        phone=pl.when(hers).then(pl.lit(PHONE)).otherwise("phone"),
    )
    return pl.concat([day, day.filter(pl.col("user_id") == ANNA).head(1)])  # sent twice: a row for the quarantine
