"""Rules about rows that Great Expectations does not have: what goes wrong in behaviour logs and no schema check sees.

Each says why, and which rows of a day it catches. Actions and budgets are in tasks/policies/data.yaml.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, time, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.coded import Coded, among
from expectations.day import CatchRows, Day, Settings
from expectations.reference import unit_price
from tasks.domain.contract import EVENT
from tasks.domain.manifest import partition_date

NUMBERS = tuple(column.name for column in EVENT.columns if column.type in ("float64", "float32"))
ACTIONS = ("click", "add_to_cart", "rating", "purchase")  # what a person does; an impression happens to them
ANSWERS = ("click", "add_to_cart")  # what cannot happen to an item that was not shown


def none_of(day: Day) -> pl.Series:
    return pl.repeat(False, len(day.events), dtype=pl.Boolean, eager=True)


def rows_of(day: Day, rows: pl.Series) -> pl.Series:
    """The mask of the events whose `row` is in `rows`."""
    return none_of(day) if rows.is_empty() else day.events["row"].is_in(rows.implode())


def _duplicate(day: Day, settings: Settings) -> pl.Series:
    if (day.event_ids[1:] != day.event_ids[:-1]).all():
        return none_of(day)
    ids = day.events["event_id"]
    return ~ids.is_first_distinct() & ids.is_not_null()


def _replayed(day: Day, settings: Settings) -> pl.Series:
    again = pl.Series(day.past.accepted_before(day.day, day.event_ids), dtype=pl.UInt64)
    if again.is_empty():
        return none_of(day)
    ids = day.events["event_id"]
    return ids.hash().is_in(again.implode()) & ids.is_not_null()


def _retry(day: Day, settings: Settings) -> pl.Series:
    """The same act of the same user within seconds, under a new event id; the first of them counts.

    Acts of another kind, another value or another request are another thing, and so are lines of one moment: a basket
    may hold the same product twice.
    """
    same = ["user_id", "item_id", "event_type"]
    again = (
        day.alike.with_columns(day.code(name).alias(name) for name in same)  # categories would be sorted by their text
        .sort(*same, "event_time", "row")
        .with_columns(gap=pl.col("event_time").diff().over(same).dt.total_microseconds() / 1e6)
        .filter(
            (pl.col("gap") > 0)
            & (pl.col("gap") <= settings["seconds"])
            & pl.col("value").eq_missing(pl.col("value").shift().over(same))
            & pl.col("request_id").eq_missing(pl.col("request_id").shift().over(same))
        )
    )
    return rows_of(day, again["row"])


def _same_moment(day: Day, settings: Settings) -> pl.Series:
    same = ["user_id", "item_id", "event_type", "event_time"]
    more = (
        day.alike.unique("event_id", keep="first", maintain_order=True)
        .group_by(same)
        .agg(pl.col("row").sort().slice(1))
    )
    return rows_of(day, more["row"].explode().drop_nulls())


def _unknown_item(day: Day, settings: Settings) -> pl.Series:
    today = Coded.column(day.events["item_id"]).values.alias("item_id").to_frame()
    strangers = today.join(day.catalogue, on="item_id", how="anti")["item_id"]
    return none_of(day) if strangers.is_empty() else among(day.events["item_id"], strangers)


def _not_finite(day: Day, settings: Settings) -> pl.Series:
    broken = [(~pl.col(name).is_finite()).fill_null(False) for name in NUMBERS]
    return day.events.select(pl.any_horizontal(broken)).to_series()


def _wrong_day(day: Day, settings: Settings) -> pl.Series:
    """Clocks of clients run a little ahead; an event of the next day's first minutes is still an event of tomorrow."""
    return (day.events["event_time"] >= midnight(day.day, 1)).fill_null(False)


def _late(day: Day, settings: Settings) -> pl.Series:
    return (day.events["event_time"] < midnight(day.day, 0)).fill_null(False)


def _stale(day: Day, settings: Settings) -> pl.Series:
    return (day.events["event_time"] < midnight(day.day, -int(settings["days"]))).fill_null(False)


def midnight(day: str, days_later: int) -> datetime:
    return datetime.combine(partition_date(day) + timedelta(days=days_later), time(), UTC)


def _price_outlier(day: Day, settings: Settings) -> pl.Series:
    known = pl.col("lines") >= settings["at_least_lines"]
    odd = day.priced.filter(known & (pl.col("ratio").abs() > math.log(settings["factor"])))
    return rows_of(day, odd["row"])


def _store_prices(day: Day, settings: Settings) -> pl.Series:
    """Every priced row of a store whose items moved together: one till that counts in another unit or currency."""
    limit, store = math.log(settings["factor"]), Coded.column(day.priced["store_id"])
    known = (day.priced["lines"] >= settings["at_least_lines"]).to_numpy()
    ratio = day.priced["ratio"].to_numpy()

    def counted(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(store.of[rows & known], minlength=len(store.values) + 1)[:-1]

    lines, beyond = counted(known), np.maximum(counted(ratio > limit), counted(ratio < -limit))
    # a median is beyond the limit where half of the lines are: no store needs sorting for that
    suspects = store.values.filter(pl.Series((lines >= settings["store_items"]) & (2 * beyond >= lines)))
    if suspects.is_empty():
        return none_of(day)
    moved = (pl.col("ratio").abs() > limit) & (pl.col("len") >= settings["store_items"])
    # and then by item: two hundred forged lines of one item must not cost the store its day
    theirs = known & among(day.priced["store_id"], suspects).to_numpy()
    items = day.priced.filter(pl.Series(theirs)).group_by("store_id", "code")
    by_store = items.agg(pl.col("ratio").median()).group_by("store_id").agg(pl.col("ratio").median(), pl.len())
    stores = by_store.filter(moved)["store_id"].cast(pl.String)
    priced = day.events.select(unit_price().is_not_null()).to_series()
    return among(day.events["store_id"], stores) & priced


def _user_flood(day: Day, settings: Settings) -> pl.Series:
    most = max(settings["share"] * len(day.events), settings["at_least_rows"])
    return day.of_users(day.user_rows.filter(pl.col("rows") > most)["user_id"])


def _superhuman(day: Day, settings: Settings) -> pl.Series:
    """Users who act again and again within less than `gap_s`; several lines of one moment are one act."""
    busy = day.of_users(day.user_rows.filter(pl.col("rows") > settings["times"])["user_id"])
    acts = (
        day.events.lazy()
        .filter(busy & among(day.events["event_type"], pl.Series(ACTIONS)))
        .select(day.code("user_id").alias("user"), "event_time", "user_id")
        .unique(["user", "event_time"])
        .filter(pl.len().over("user") > settings["times"])
        .sort("user", "event_time")  # by code: categories would be sorted by their text
        .with_columns(gap=pl.col("event_time").diff().over("user").dt.total_microseconds() / 1e6)
        .group_by("user")
        .agg(pl.first("user_id").cast(pl.String), fast=(pl.col("gap") < settings["gap_s"]).sum())
        .filter(pl.col("fast") >= settings["times"])
    )
    return day.of_users(acts.collect()["user_id"])


def _over_cap(day: Day, settings: Settings) -> pl.Series:
    if not (day.user_rows["rows"] > settings["rows"]).any():
        return none_of(day)
    number = pl.int_range(pl.len()).over("user_id", order_by=["event_time", "row"])
    beyond = (number >= settings["rows"]) & pl.col("user_id").is_not_null()
    return day.events.select(beyond.fill_null(False)).to_series()


def _click_before_impression(day: Day, settings: Settings) -> pl.Series:
    shown = _shown(day)
    if shown is None:
        return none_of(day)
    early = (
        _answers(day)
        .join(shown, on=["request_id", "item_id"])
        .filter((pl.col("shown_at") - pl.col("event_time")).dt.total_microseconds() > settings["seconds"] * 1e6)
    )
    return rows_of(day, early.select("row").collect().to_series())


def _orphan_click(day: Day, settings: Settings) -> pl.Series:
    """Judged only where impressions are logged at all; without a request id an answer belongs to none."""
    shown = _shown(day)
    if shown is None:
        return none_of(day)
    orphans = _answers(day).join(shown, on=["request_id", "item_id"], how="anti")
    return rows_of(day, orphans.select("row").collect().to_series())


def _shown(day: Day) -> pl.LazyFrame | None:
    if not among(day.events["event_type"], pl.Series(["impression"])).any():
        return None
    return (
        day.events.lazy()
        .filter((pl.col("event_type") == "impression") & pl.col("request_id").is_not_null())
        .group_by("request_id", "item_id")
        .agg(shown_at=pl.col("event_time").min())
    )


def _answers(day: Day) -> pl.LazyFrame:
    answer = among(day.events["event_type"], pl.Series(ANSWERS))
    return day.events.lazy().filter(answer).select("row", "request_id", "item_id", "event_time")


# fmt: off
ROW_RULES = (
    CatchRows("duplicate", "an event counts once, however often it was sent", _duplicate),
    CatchRows("replayed", "this event was already accepted on another day", _replayed, by_the_past=True),
    CatchRows("retry", "the same act seconds later under a new event id is a client that sends again", _retry),
    CatchRows("same_moment", "one user, one item, one moment, two event ids: a basket line split in two, or a doubled log",
              _same_moment),
    CatchRows("unknown_item", "the item table does not know this item, so it has neither text nor features", _unknown_item),
    CatchRows("not_finite", "NaN and infinity pass every range check and poison a mean; quantised models hide them",
              _not_finite),
    CatchRows("wrong_day", "an event of a later day would let training read the future", _wrong_day),
    CatchRows("late", "it happened on an earlier day and arrived today; that day stays as it was judged", _late),
    CatchRows("stale", "too old to be a late arrival: a clock is wrong or an old file was sent again", _stale),
    CatchRows("price_outlier", "the unit price is far from this item's usual one: a unit or currency changed",
              _price_outlier, by_the_past=True),
    CatchRows("store_prices", "all prices of one store moved together: its till counts in another unit or currency",
              _store_prices, by_the_past=True),
    CatchRows("user_flood", "one user makes too large a part of the day: a bot or a broken client", _user_flood),
    CatchRows("superhuman", "nobody acts this fast this often: a script", _superhuman),
    CatchRows("over_cap", "rows of one user beyond the cap of a day: no single user may teach the model more", _over_cap),
    CatchRows("click_before_impression", "an answer cannot come before the question: two clocks, or a forged click",
              _click_before_impression),
    CatchRows("orphan_click", "a click on something that was not shown: a lost log, or a forged click", _orphan_click),
)
# fmt: on
