"""One landed day as rules see it, with its past; and the two forms that a rule has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.coded import Coded, among
from expectations.past import Past, Seen, sorted_hashes
from expectations.reference import day_counts, distances, item_counts, unit_price
from tasks.domain.data_policy import DayCounts

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Day:
    """One landed day. `events` has a `row` column; `sound` are its rows that no row rule quarantines."""

    day: str
    events: pl.DataFrame
    catalogue: pl.DataFrame  # item_id, category: of the item table that the day names
    past: Past
    sound: pl.DataFrame
    model_inputs: tuple[str, ...]

    @cached_property
    def event_ids(self) -> NDArray[np.uint64]:
        """Hashes of all landed event ids, sorted."""
        return sorted_hashes(self.events["event_id"])

    @cached_property
    def alike(self) -> pl.DataFrame:
        """Rows of a user, item and kind of event that occur more than once, and a few that only share their hash."""
        key = pl.lit(0, pl.UInt64)
        for name in ("user_id", "item_id", "event_type"):
            key = key * 0x9E3779B97F4A7C15 + self.code(name).cast(pl.UInt64)  # wraps; Knuth, TAOCP 6.4
        keys = self.events.select(key).to_series()
        ordered = keys.sort()  # half the time of is_duplicated, which hashes what hardly ever occurs twice
        twice = ordered.filter((ordered == ordered.shift()).fill_null(False)).unique()
        rows = keys.is_in(twice.implode()).arg_true()
        wanted = ["row", "event_id", "event_time", "value", "request_id", "user_id", "item_id", "event_type"]
        return self.events.select(wanted)[rows]

    def code(self, column: str) -> pl.Expr:
        """Integers that are equal where the values of the column are."""
        of = self.events.schema[column]
        return pl.col(column).to_physical() if isinstance(of, pl.Categorical) else pl.col(column).hash()

    @cached_property
    def copied_share(self) -> float | None:
        return self.past.copied_share(self.day, self.seen.acts)

    @cached_property
    def seen(self) -> Seen:
        """What is remembered of the sound rows."""
        return Seen.of(self.sound, sorted_hashes(self.sound["event_id"]) if self.has_quarantine else self.event_ids)

    @property
    def has_quarantine(self) -> bool:
        return len(self.sound) < len(self.events)

    @cached_property
    def user_rows(self) -> pl.DataFrame:
        """user_id (text), rows: of every landed row that has a user."""
        return rows_by_user(self.events)

    def of_users(self, users: pl.Series) -> pl.Series:
        """The mask of the events of these users."""
        if users.is_empty():
            return pl.repeat(False, len(self.events), dtype=pl.Boolean, eager=True)
        return among(self.events["user_id"], users)

    @cached_property
    def priced(self) -> pl.DataFrame:
        """row, store_id, code of the item, ratio: the logarithm of the unit price over the item's usual one, and lines: how
        many lines of the reference days made that."""
        item = Coded.column(self.events["item_id"])
        today = (
            item.values.alias("item_id").to_frame().vstack(pl.DataFrame({"item_id": [None]}, {"item_id": pl.String}))
        )
        usual = today.join(self.items_before, on="item_id", how="left", maintain_order="left")
        code = pl.Series("code", item.of)
        return (
            self.events.lazy()
            .select("row", "store_id", code=code, price=unit_price())
            .with_columns(usual=usual["price"].gather(code), lines=usual["lines"].gather(code))
            .drop_nulls(["price", "usual"])
            .select("row", "store_id", "code", "lines", ratio=(pl.col("price") / pl.col("usual")).log())
            .collect()
        )

    def with_sound(self, sound: pl.DataFrame) -> Day:
        """The same day, of which only these rows count; what is known of all rows stays known."""
        if len(sound) == len(self.sound):  # rows are only ever taken away
            return self
        day = replace(self, sound=sound)
        for name in ("event_ids", "user_rows", "items_before"):
            if name in self.__dict__:
                day.__dict__[name] = self.__dict__[name]
        return day

    @cached_property
    def items(self) -> pl.DataFrame:
        """Of the sound rows: item_id, rows, lines, price."""
        return item_counts(self.sound)

    @cached_property
    def items_before(self) -> pl.DataFrame:
        return self.past.items(self.day)

    @cached_property
    def reference(self) -> list[DayCounts]:
        return self.past.counts(self.day)

    @cached_property
    def counts(self) -> DayCounts:
        """Of the sound rows: quarantined ones teach nothing, so they must not move a distribution either."""
        by_user = rows_by_user(self.sound) if self.has_quarantine else self.user_rows
        counts = day_counts(self.sound, self.items, by_user["rows"].to_numpy(), self.catalogue)
        strangers = self.past.stranger_share(self.day, by_user, len(self.sound))
        return counts.model_copy(update={"distances": distances(counts, self.reference), "stranger_share": strangers})


def rows_by_user(events: pl.DataFrame) -> pl.DataFrame:
    users = Coded.column(events["user_id"])
    return pl.DataFrame({"user_id": users.values, "rows": users.rows}).filter(pl.col("rows") > 0)


@dataclass(frozen=True, slots=True)
class CatchRows:
    """A rule about single rows: `catch` gives a boolean series over the day's events."""

    name: str
    reason: str
    catch: Callable[[Day, Settings], pl.Series]
    by_the_past: bool = False  # whether it asks for the days before, which are known only when the day's turn comes


@dataclass(frozen=True, slots=True)
class CheckDay:
    """A rule about the day as a whole: `check` gives a sentence with numbers when the day breaks it."""

    name: str
    reason: str
    check: Callable[[Day, Settings], str | None]
