"""Accepted partitions -> one log of purchases, or whatever the goal is, as numpy arrays; build time only, never serving.

An event is one distinct (day, user, item): quantity and money of repeated lines on a day are summed, as in CJ1. Its day
is its partition's: what arrived late was not known before. Users are numbered by their first event, never by pseudonym,
so that nothing depends on the pseudonym key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.tables import POLARS, Columns, Lazy, Tables, partition_day


@dataclass(frozen=True, slots=True)
class Items:
    """Everything about an item that does not change with behaviour; codes number the distinct values."""

    ids: list[str]
    type: Ints
    category: Ints
    brand: Ints
    texts: list[str]
    paths: list[str] = field(default_factory=list)  # category path as `A > B > C`; "" where there is none

    def level(self, depth: int) -> list[str]:
        """The first `depth` levels of each item's category path."""
        return [" > ".join(path.split(" > ")[:depth]) for path in self.paths or [""] * len(self.ids)]


@dataclass(frozen=True, slots=True)
class EventLog:
    """Purchases sorted by (day, user, item). `item` indexes `items`, `user` `user_ids`; days count from 1970."""

    items: Items
    user_ids: list[str]
    day: Ints
    user: Ints
    item: Ints
    quantity: Floats
    value: Floats
    discount: Floats
    store: Ints  # -1 where unknown
    store_ids: list[str]

    def before(self, day: int) -> int:
        """Number of events of earlier days: everything that may be known on the morning of `day`."""
        return int(np.searchsorted(self.day, day))


# what an event says about its item
GRADES = {"impression": 0, "click": 1, "add_to_cart": 2, "purchase": 3}
BEST = 3
EVENTS: Columns = {
    "event_id": pl.String, "event_time": pl.Datetime("us", "UTC"), "user_id": pl.String, "item_id": pl.String,
    "event_type": pl.String, "quantity": pl.Float64, "value": pl.Float64, "discount": pl.Float64, "store_id": pl.String,
}  # fmt: skip
NUMBERS = ("quantity", "value", "discount")


def graded() -> nw.Expr:
    """The grade of an event. Of five stars, five are as good as a purchase, three as a click, two as nothing."""
    stars, is_rating = nw.col("value"), nw.col("event_type") == "rating"
    # two and a half are two, three and a half four: rounded to even, which engines do not agree on
    rated = [is_rating & stars.is_finite() & enough for enough in (stars > 2.5, stars >= 3.5, stars > 4.5)]
    plain = [(nw.col("event_type") == kind) for kind, grade in GRADES.items() for _ in range(grade)]
    return nw.sum_horizontal(one.fill_null(False).cast(nw.Int32) for one in (*rated, *plain))


def item_text(title: str | None, path: list[str], brand: str | None) -> str:
    """What the text encoder reads about an item; parts that are missing leave no trace."""
    parts = [title or "", " > ".join(path), brand or ""]
    return ". ".join(part.strip() for part in parts if part and part.strip())


def read_items(catalogue: Path) -> pl.DataFrame:
    """item_id, text, type, category, brand; the type is the finest level of the category path."""
    table = pl.read_parquet(catalogue, columns=["item_id", "title", "category_path", "brand"])
    if table["category_path"].dtype == pl.String:
        table = table.with_columns(pl.col("category_path").str.split(" > "))
    path = pl.col("category_path").list.join(" > ").fill_null("")
    return table.with_columns(
        text=pl.struct("title", "category_path", "brand").map_elements(
            lambda row: item_text(row["title"], row["category_path"] or [], row["brand"]), return_dtype=pl.String
        ),
        type=path,
        category=pl.col("category_path").list.head(2).list.join(" > ").fill_null(""),
        brand=pl.col("brand").fill_null(""),
    ).select("item_id", "text", "type", "category", "brand")


def read_log(
    accepted: list[Path], catalogue: Path, goal: Sequence[str] = ("purchase",), tables: Tables = POLARS
) -> EventLog:
    """Read the events of the kinds in `goal` of every partition. Items that the catalogue does not know are left out.

    Raises:
        InputRejected: there is no partition, or none of them holds such an event of a known item.
    """
    if not accepted:
        raise InputRejected("no accepted partition was given; run validate_data for the days before this partition")
    known = read_items(catalogue)
    priced = _priced(of_goal(tables.events(accepted, EVENTS), goal))
    lines = tables.collected(priced.join(tables.frame(known.select("item_id")), on="item_id", how="semi"))
    if lines.is_empty():
        raise InputRejected(
            f"{len(accepted)} partitions hold no {' or '.join(goal)} of an item that {catalogue.name} knows"
        )
    users = lines.sort("day", "event_time", "event_id").select("user_id").unique(keep="first", maintain_order=True)
    items = known.join(lines.select("item_id").unique(), on="item_id", how="semi").sort("item_id")
    stores = lines.select("store_id").drop_nulls().unique().sort("store_id")["store_id"].to_list()
    known_stores = pl.DataFrame(
        {"store_id": stores, "store": range(len(stores))}, schema={"store_id": pl.String, "store": pl.Int32}
    )
    events = (
        lines.sort("event_id")
        .join(users.with_row_index("user").select("user_id", "user"), on="user_id")
        .join(items.with_row_index("item").select("item_id", "item"), on="item_id")
        .join(known_stores, on="store_id", how="left")
        .group_by("day", "user", "item")
        .agg(
            pl.col("quantity").sum(),
            pl.col("value").sum(),
            pl.col("discount").sum(),
            pl.col("store").min().fill_null(-1),
        )
        .sort("day", "user", "item")
    )
    return EventLog(
        items=Items(
            ids=items["item_id"].to_list(),
            type=_codes(items["type"]),
            category=_codes(items["category"]),
            brand=_codes(items["brand"]),
            texts=items["text"].to_list(),
            paths=items["type"].to_list(),
        ),
        user_ids=users["user_id"].to_list(),
        day=events["day"].to_numpy().astype(np.int32),
        user=events["user"].to_numpy().astype(np.int32),
        item=events["item"].to_numpy().astype(np.int32),
        quantity=events["quantity"].to_numpy().astype(np.float32),
        value=events["value"].to_numpy().astype(np.float32),
        discount=events["discount"].to_numpy().astype(np.float32),
        store=events["store"].to_numpy().astype(np.int32),
        store_ids=stores,
    )


def of_goal(events: Lazy, goal: Sequence[str]) -> Lazy:
    """The events that someone came for; a bad rating is none."""
    events = events.filter(nw.col("event_type").is_in(list(goal)))
    return events.filter(graded() > 0) if "rating" in goal else events


def _priced(events: Lazy) -> Lazy:
    """The events with what they say of quantity and money; only a purchase's value is money."""
    # the data rules catch numbers that are none; where a policy lets them pass, they count as unknown
    events = events.with_columns(nw.when(nw.col(name).is_finite()).then(nw.col(name)).alias(name) for name in NUMBERS)
    return events.select(
        "event_id", "event_time", "user_id", "item_id", "day", "store_id",
        nw.col("quantity").fill_null(1.0).clip(0.0),
        nw.when(nw.col("event_type") == "purchase").then(nw.col("value")).fill_null(0.0).clip(0.0).alias("value"),
        nw.col("discount").fill_null(0.0).clip(0.0),
    )  # fmt: skip


def _codes(column: pl.Series) -> Ints:
    return column.rank("dense").to_numpy().astype(np.int32) - 1


@dataclass(frozen=True, slots=True)
class Plans:
    """Which items which share of stores will promote, by the day the promotion is for."""

    by_day: dict[int, tuple[Ints, Floats, Floats]]  # day -> item, display share, mailer share

    def on(self, day: int) -> tuple[Ints, Floats, Floats]:
        empty = np.zeros(0, np.float32)
        return self.by_day.get(day, (np.zeros(0, np.int32), empty, empty))

    def same(self, day: int, other: int) -> bool:
        """Whether both days promote the same items in the same shares of stores."""
        return all(np.array_equal(one, two) for one, two in zip(self.on(day), self.on(other), strict=True))


def read_plans(plans: list[Path], log: EventLog) -> Plans:
    """A plan lies in its partition's directory `dt=DAY` and speaks of the day after, known that morning."""
    index = pl.DataFrame({"item_id": log.items.ids, "item": np.arange(len(log.items.ids), dtype=np.int32)})
    by_day = {}
    for path in sorted(plans):
        table = pl.read_parquet(path, columns=["item_id", "display_share", "mailer_share"])
        table = table.with_columns(pl.col("item_id").cast(pl.String)).join(index, on="item_id").sort("item")
        shares = [table[name].to_numpy().astype(np.float32) for name in ("display_share", "mailer_share")]
        by_day[partition_day(path) + 1] = (table["item"].to_numpy().astype(np.int32), shares[0], shares[1])
    return Plans(by_day)
