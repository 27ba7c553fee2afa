"""One landed day and what was accepted before it: all that a rule may look at; and the two forms that a rule has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.reference import ITEM_COLUMNS, day_counts, distances, item_counts, unit_price
from tasks.domain.behaviour import next_day
from tasks.domain.data_policy import DayCounts

Settings = Mapping[str, float]
BUCKET_BITS = 24


@dataclass(slots=True)
class Past:
    """What was accepted before the day under judgement; grows as days pass, and forgets beyond `days`."""

    days: int
    rows: dict[str, int] = field(default_factory=dict)  # of every day that is remembered, for the weekday bands
    _counts: dict[str, DayCounts] = field(default_factory=dict)
    _items: dict[str, pl.DataFrame] = field(default_factory=dict)
    _ids: dict[str, pl.Series] = field(default_factory=dict)
    _users: dict[str, pl.Series] = field(default_factory=dict)
    _acts: dict[str, NDArray[np.uint64]] = field(default_factory=dict)

    def remember(self, day: str, rows: int, counts: DayCounts, items: pl.DataFrame, seen: Seen) -> None:
        self.rows[day] = rows
        self._counts[day], self._items[day] = counts, items
        self._ids[day], self._users[day], self._acts[day] = seen.ids, seen.users, seen.acts

    def forget(self, day: str) -> None:
        """Drop what is too old to judge `day` by."""
        oldest = next_day(day, -self.days)
        for kept in (self._counts, self._items, self._ids, self._users, self._acts):
            for known in [known for known in kept if known < oldest]:
                del kept[known]

    def counts(self, day: str) -> list[DayCounts]:
        """Of the reference days before `day`, oldest first; days without rows are left out."""
        return [self._counts[known] for known in sorted(self._counts) if known < day and self._counts[known].rows]

    def dated(self, day: str) -> list[tuple[str, DayCounts]]:
        return [(known, self._counts[known]) for known in sorted(self._counts) if known < day]

    def copied_share(self, day: str, acts: NDArray[np.uint64]) -> float | None:
        """Share of today's acts that a reference day has at the same time of day; None without reference."""
        known = [past for name, past in self._acts.items() if name < day]
        sampled = any(len(one) and not (one % SAMPLED).any() for one in (acts, *known))
        today = acts[acts % SAMPLED == 0] if sampled else acts
        if not known or not len(today):
            return None
        table = pl.DataFrame({"act": today})
        hits = [table.join(pl.DataFrame({"act": one}), on="act", how="semi") for one in known]
        return pl.concat(hits)["act"].n_unique() / table["act"].n_unique()

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

    def accepted_before(self, day: str, hashes: pl.Series) -> pl.Series | None:
        """Which of today's event ids were accepted on a reference day; None where none was."""
        today = hashes.to_numpy()
        bucket = np.zeros(1 << BUCKET_BITS, bool)  # rules most ids of the past out without looking today's ids up
        bucket[today >> (64 - BUCKET_BITS)] = True
        known = (ids.to_numpy() for past, ids in self._ids.items() if past < day)
        likely = [pl.DataFrame({"id": ids[bucket[ids >> (64 - BUCKET_BITS)]]}) for ids in known]
        if not likely:
            return None
        again = pl.concat(likely).join(pl.DataFrame({"id": today}), on="id", how="semi")["id"]
        return None if again.is_empty() else hashes.is_in(again.unique().implode())

    def stranger_share(self, day: str, user_rows: pl.DataFrame, rows: int) -> float:
        """Share of the rows whose user no reference day has seen. `user_rows`: user_id, rows."""
        strangers = user_rows.select("rows", id=pl.col("user_id").cast(pl.String).hash())
        for past in sorted(self._users, reverse=True):  # most users were here within a week
            if past < day and len(strangers):
                strangers = strangers.join(self._users[past].alias("id").to_frame(), on="id", how="anti")
        return float(strangers["rows"].sum() / max(rows, 1))


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of a day's accepted rows, as 64-bit hashes: event ids, users, and who did what at which time of day.

    10^6 ids against 28 days of as many confuse one row in half a million days.
    """

    ids: pl.Series
    users: pl.Series
    acts: NDArray[np.uint64]

    @classmethod
    def of(cls, events: pl.DataFrame, ids: pl.Series) -> Seen:
        """Of a frame with SEEN's columns; `ids` are its hashed event ids."""
        return cls(ids, events["user_id"].unique().drop_nulls().cast(pl.String).hash(), acts_of(events))


def rows_by_user(events: pl.DataFrame) -> pl.DataFrame:
    return events.group_by("user_id").agg(rows=pl.len()).drop_nulls("user_id")


SEEN = ("event_id", "user_id", "item_id", "event_type", "event_time")
SAMPLED, LARGE = 16, 200_000  # of a larger day every sixteenth user is remembered


def acts_of(events: pl.DataFrame) -> NDArray[np.uint64]:
    """A hash of user, item, kind and time of day a row; its remainder by SAMPLED is the user's, so that users can be sampled."""
    who = pl.col("user_id").cast(pl.String).hash()
    rows = events.lazy().drop_nulls(["user_id", "item_id", "event_time"])
    if len(events) > LARGE:
        rows = rows.filter(who % SAMPLED == 0)
    what = pl.struct(pl.col("item_id", "event_type").cast(pl.String), pl.col("event_time").dt.time()).hash()
    return rows.select((what ^ who) // SAMPLED * SAMPLED + who % SAMPLED).collect().to_series().to_numpy()


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
    def event_id_hashes(self) -> pl.Series:
        return self.events["event_id"].hash()

    @cached_property
    def alike(self) -> pl.DataFrame:
        """Rows of a user, item and kind of event that occur more than once, and a few that only share their hash."""
        key = pl.lit(0, pl.UInt64)
        for name in ("user_id", "item_id", "event_type"):
            key = key * 0x9E3779B97F4A7C15 + self.code(name).cast(pl.UInt64)  # wraps; Knuth, TAOCP 6.4
        rows = self.events.select(key.is_duplicated()).to_series().arg_true()
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
        return Seen.of(self.sound, self.sound["event_id"].hash() if self.has_quarantine else self.event_id_hashes)

    @property
    def has_quarantine(self) -> bool:
        return len(self.sound) < len(self.events)

    @cached_property
    def user_rows(self) -> pl.DataFrame:
        """user_id, rows: of every landed row that has a user."""
        return rows_by_user(self.events)

    def of_users(self, users: pl.Series) -> pl.Series:
        """The mask of the events of these users."""
        mine = self.events["user_id"]
        if users.is_empty():
            return pl.repeat(False, len(mine), dtype=pl.Boolean, eager=True)
        return mine.is_in(users.implode()).fill_null(False)

    @cached_property
    def priced(self) -> pl.DataFrame:
        """row, store_id, code of the item, ratio: the logarithm of the unit price over the item's usual one, and lines: how
        many lines of the reference days made that."""
        item = self.code("item_id")
        today = self.events.lazy().group_by(code=item).agg(item_id=pl.first("item_id").cast(pl.String))
        usual = today.join(self.items_before.lazy(), on="item_id").select("code", "lines", usual="price")
        lines = self.events.lazy().select("row", "store_id", code=item, price=unit_price()).drop_nulls("price")
        ratio = (pl.col("price") / pl.col("usual")).log()
        return (
            lines.join(usual.drop_nulls("usual"), on="code")
            .select("row", "store_id", "code", "lines", ratio=ratio)
            .collect()
        )

    def with_sound(self, sound: pl.DataFrame) -> Day:
        """The same day, of which only these rows count; what is known of all rows stays known."""
        day = replace(self, sound=sound)
        for name in ("event_id_hashes", "user_rows", "items_before"):
            if name in self.__dict__:
                day.__dict__[name] = self.__dict__[name]
        return day

    def prepare(self) -> None:
        """Work out what several rules ask for and no other day decides."""
        _ = (self.event_id_hashes, self.user_rows, self.alike)

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
        counts = day_counts(self.sound, self.items, by_user["rows"], self.catalogue)
        return counts.model_copy(
            update={
                "distances": distances(counts, self.reference),
                "stranger_share": self.past.stranger_share(self.day, by_user, len(self.sound)),
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
