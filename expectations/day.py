"""One landed day and what was accepted before it: all that a rule may look at; and the two forms that a rule has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from expectations.reference import ITEM_COLUMNS, day_counts, distances, item_counts
from tasks.domain.behaviour import next_day
from tasks.domain.data_policy import DayCounts

Settings = Mapping[str, float]


@dataclass(slots=True)
class Past:
    """What was accepted before the day under judgement; grows as days pass, and forgets beyond `days`."""

    days: int
    rows: dict[str, int] = field(default_factory=dict)  # of every day that is remembered, for the weekday bands
    _counts: dict[str, DayCounts] = field(default_factory=dict)
    _items: dict[str, pl.DataFrame] = field(default_factory=dict)
    _ids: dict[str, pl.Series] = field(default_factory=dict)
    _users: dict[str, pl.Series] = field(default_factory=dict)

    def remember(self, day: str, rows: int, counts: DayCounts, items: pl.DataFrame, accepted: pl.DataFrame) -> None:
        """Of `accepted` event ids and users are kept, as 64-bit hashes: 10^6 ids against 28 days of as many confuse one
        row in half a million days."""
        self.rows[day] = rows
        self._counts[day], self._items[day] = counts, items
        self._ids[day] = accepted["event_id"].hash()
        self._users[day] = accepted["user_id"].unique().cast(pl.String).hash()

    def forget(self, day: str) -> None:
        """Drop what is too old to judge `day` by."""
        oldest = next_day(day, -self.days)
        for kept in (self._counts, self._items, self._ids, self._users):
            for known in [known for known in kept if known < oldest]:
                del kept[known]

    def counts(self, day: str) -> list[DayCounts]:
        """Of the reference days before `day`, oldest first; days without rows are left out."""
        return [self._counts[known] for known in sorted(self._counts) if known < day and self._counts[known].rows]

    def items(self, day: str) -> pl.DataFrame:
        """item_id, rows, lines, and price: the median over the reference days of an item's median unit price."""
        known = [frame for past, frame in self._items.items() if past < day]
        return (
            pl.concat([pl.DataFrame(schema=ITEM_COLUMNS), *known])
            .lazy()
            .group_by("item_id")
            .agg(pl.col("rows", "lines").sum(), pl.col("price").median())
            .collect()
        )

    def accepted_before(self, day: str, event_ids: pl.Series) -> pl.Series:
        """Which of today's ids were accepted on a reference day."""
        today = event_ids.hash().alias("id").to_frame()
        known = _hashes(self._ids, day)
        again = known.join(today, on="id", how="semi")  # today's ids make the hash table: it is the small side
        if again.is_empty():
            return pl.repeat(False, len(event_ids), eager=True)
        return today["id"].is_in(again["id"].unique().implode()) & event_ids.is_not_null()

    def stranger_share(self, day: str, events: pl.DataFrame) -> float:
        """Share of the rows whose user no reference day has seen."""
        users = events.group_by("user_id").len().drop_nulls("user_id")
        users = users.with_columns(id=pl.col("user_id").cast(pl.String).hash())
        strangers = users.join(_hashes(self._users, day).unique(), on="id", how="anti")
        return float(strangers["len"].sum() / max(len(events), 1))


def _hashes(by_day: Mapping[str, pl.Series], day: str) -> pl.DataFrame:
    known = [ids.alias("id").to_frame() for past, ids in by_day.items() if past < day]
    return pl.concat([pl.DataFrame(schema={"id": pl.UInt64}), *known])


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
    def items(self) -> pl.DataFrame:
        """Of every landed row: item_id, rows, lines, price."""
        return item_counts(self.events)

    @cached_property
    def sound_items(self) -> pl.DataFrame:
        return self.items if len(self.sound) == len(self.events) else item_counts(self.sound)

    @cached_property
    def items_before(self) -> pl.DataFrame:
        return self.past.items(self.day)

    @cached_property
    def reference(self) -> list[DayCounts]:
        return self.past.counts(self.day)

    @cached_property
    def counts(self) -> DayCounts:
        """Of the sound rows: quarantined ones teach nothing, so they must not move a distribution either."""
        counts = day_counts(self.sound, self.sound_items, self.catalogue)
        return counts.model_copy(
            update={
                "distances": distances(counts, self.reference),
                "stranger_share": self.past.stranger_share(self.day, self.sound),
            }
        )


@dataclass(frozen=True, slots=True)
class CatchRows:
    """A rule about single rows: `catch` gives a boolean series over the day's events."""

    name: str
    reason: str
    catch: Callable[[Day, Settings], pl.Series]


@dataclass(frozen=True, slots=True)
class CheckDay:
    """A rule about the day as a whole: `check` gives a sentence with numbers when the day breaks it."""

    name: str
    reason: str
    check: Callable[[Day, Settings], str | None]
