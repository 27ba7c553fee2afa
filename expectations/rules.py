"""What goes wrong in behaviour logs and no schema check sees. Each rule says why, and which rows or days it catches.

Rules see one day and what was accepted before it; actions and budgets are in tasks/policies/data.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from tasks.domain.contract import EVENT
from tasks.domain.data_policy import band
from tasks.domain.manifest import partition_date

NUMBERS = tuple(column.name for column in EVENT.columns if column.type in ("float64", "float32"))
Settings = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Day:
    """One landed day and its past. `events` has a `row` column; `reference` holds accepted events of earlier days."""

    day: str
    events: pl.DataFrame
    items: pl.Series  # ids of the item table that the day names
    reference: pl.DataFrame  # event_id, item_id, price (unit price, null where there is none)
    rows_before: Mapping[str, int]  # earlier accepted day -> rows that had landed


@dataclass(frozen=True, slots=True)
class CatchRows:
    """A rule about single rows: `catch` gives a boolean expression or series over the day's events."""

    name: str
    reason: str
    catch: Callable[[Day, Settings], pl.Series]


@dataclass(frozen=True, slots=True)
class CheckDay:
    """A rule about the day as a whole: `check` gives a sentence with numbers when the day breaks it."""

    name: str
    reason: str
    check: Callable[[Day, Settings, tuple[str, ...]], str | None]


def unit_price() -> pl.Expr:
    paid = (
        pl.col("value").is_finite() & (pl.col("value") > 0) & pl.col("quantity").is_finite() & (pl.col("quantity") > 0)
    )
    return pl.when(paid).then(pl.col("value") / pl.col("quantity"))


def _duplicate(day: Day, settings: Settings) -> pl.Series:
    return day.events.select(~pl.col("event_id").is_first_distinct() & pl.col("event_id").is_not_null()).to_series()


def _replayed(day: Day, settings: Settings) -> pl.Series:
    return day.events["event_id"].is_in(day.reference["event_id"].implode()).fill_null(False)


def _unknown_item(day: Day, settings: Settings) -> pl.Series:
    return (~day.events["item_id"].is_in(day.items.implode())).fill_null(False)


def _not_finite(day: Day, settings: Settings) -> pl.Series:
    broken = [(~pl.col(name).is_finite()).fill_null(False) for name in NUMBERS]
    return day.events.select(pl.any_horizontal(broken)).to_series()


def _wrong_day(day: Day, settings: Settings) -> pl.Series:
    end = partition_date(day.day) + timedelta(days=1)
    return day.events.select((pl.col("event_time").dt.date() >= end).fill_null(False)).to_series()


def _late(day: Day, settings: Settings) -> pl.Series:
    return day.events.select((pl.col("event_time").dt.date() < partition_date(day.day)).fill_null(False)).to_series()


def _stale(day: Day, settings: Settings) -> pl.Series:
    oldest = partition_date(day.day) - timedelta(days=int(settings["days"]))
    return day.events.select((pl.col("event_time").dt.date() < oldest).fill_null(False)).to_series()


def _price_outlier(day: Day, settings: Settings) -> pl.Series:
    usual = (
        day.reference.drop_nulls("price")
        .group_by("item_id")
        .agg(pl.col("price").median().alias("usual"), pl.len().alias("lines"))
        .filter(pl.col("lines") >= settings["at_least_lines"])
    )
    ratio = (pl.col("price") / pl.col("usual")).log().abs()
    priced = day.events.select("row", "item_id", unit_price().alias("price"))
    joined = priced.join(usual, on="item_id", how="left", maintain_order="left")
    return joined.select((ratio > math.log(settings["factor"])).fill_null(False)).to_series()


def _user_flood(day: Day, settings: Settings) -> pl.Series:
    most = max(settings["share"] * len(day.events), settings["at_least_rows"])
    mine = pl.len().over("user_id")
    return day.events.select(((mine > most) & pl.col("user_id").is_not_null()).fill_null(False)).to_series()


def _too_few(day: Day, settings: Settings, inputs: tuple[str, ...]) -> str | None:
    rows = len(day.events)
    if 0 < rows < settings["rows"]:
        return f"{rows} rows, fewer than the {settings['rows']:.0f} that any real day has"
    return None


def _row_count(day: Day, settings: Settings, inputs: tuple[str, ...]) -> str | None:
    usual = usual_rows(day.day, day.rows_before, settings)
    if usual is None or usual[0] <= len(day.events) <= usual[1]:
        return None
    return f"{len(day.events)} rows, outside {usual[0]:.0f} to {usual[1]:.0f}, the band of earlier days like this one"


def usual_rows(day: str, rows_before: Mapping[str, int], settings: Settings) -> tuple[float, float] | None:
    """The band for this weekday, else for any of the last days, else none: too little past to judge by."""
    date, at_least = partition_date(day), settings["at_least"]
    past = [(date - timedelta(weeks=week)).isoformat() for week in range(1, int(settings["weeks"]) + 1)]
    history = [rows_before[one] for one in past if rows_before.get(one)]
    if len(history) < at_least:
        history = [rows for one, rows in sorted(rows_before.items()) if one < day and rows][-14:]
        at_least = settings["at_least_days"]
    if len(history) < at_least:
        return None
    return band(history, settings["mads"], settings["below"], settings["above"])


def _all_null(day: Day, settings: Settings, inputs: tuple[str, ...]) -> str | None:
    if day.events.is_empty():
        return None
    nan = [pl.col(name).fill_nan(None) if name in NUMBERS else pl.col(name) for name in inputs]
    empty = [name for name, count in day.events.select(nan).count().row(0, named=True).items() if count == 0]
    return f"no value at all in {', '.join(empty)}" if empty else None


ROW_RULES = (
    CatchRows("duplicate", "an event counts once, however often it was sent", _duplicate),
    CatchRows("replayed", "this event was already accepted on an earlier day", _replayed),
    CatchRows(
        "unknown_item", "the item table does not know this item, so it has neither text nor features", _unknown_item
    ),
    CatchRows(
        "not_finite",
        "NaN and infinity pass every range check and poison a mean; quantised models hide them",
        _not_finite,
    ),
    CatchRows("wrong_day", "an event of a later day would let training read the future", _wrong_day),
    CatchRows("late", "it happened on an earlier day and arrived today; that day stays as it was judged", _late),
    CatchRows("stale", "too old to be a late arrival: a clock is wrong or an old file was sent again", _stale),
    CatchRows(
        "price_outlier", "the unit price is far from this item's usual one: a unit or currency changed", _price_outlier
    ),
    CatchRows("user_flood", "one user makes too large a part of the day: a bot or a broken client", _user_flood),
)
DAY_RULES = (
    CheckDay("too_few", "a handful of rows is a broken delivery, not a day", _too_few),
    CheckDay("row_count", "half a day or a doubled file moves the count before it moves anything else", _row_count),
    CheckDay("all_null", "a not-null check on other columns passes on a column that is empty throughout", _all_null),
)
