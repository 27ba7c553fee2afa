"""What was accepted before a day: all that a rule may compare with, small enough to keep for twenty-eight days.

Of days after it, which are there when a held day is judged again, event ids alone count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.domain.behaviour import next_day
from tasks.domain.data_policy import DayCounts

HIGH_BITS, LOW_BITS = np.uint64(24), np.uint64(22)
HIGH, LOW = np.uint64(64) - HIGH_BITS, (np.uint64(1) << LOW_BITS) - np.uint64(1)
CHUNK = 1 << 16  # ids looked at together: what lies between stays in the cache
SEEN = ("event_id", "user_id", "item_id", "event_type", "event_time")
SAMPLED, LARGE = 16, 200_000  # of a larger day every sixteenth user is remembered


@dataclass(slots=True)
class Past:
    """What was accepted before the day under judgement; grows as days pass, and forgets beyond `days`."""

    days: int
    rows: dict[str, int] = field(default_factory=dict)  # of every day that is remembered, for the weekday bands
    _counts: dict[str, DayCounts] = field(default_factory=dict)
    _items: dict[str, pl.DataFrame] = field(default_factory=dict)
    _item_ids: pl.Categories = field(default_factory=pl.Categories.random)  # one numbering for the items of all days
    _ids: dict[str, NDArray[np.uint64]] = field(default_factory=dict)
    _users: dict[str, pl.Series] = field(default_factory=dict)
    _acts: dict[str, NDArray[np.uint64]] = field(default_factory=dict)

    def remember(self, day: str, rows: int, counts: DayCounts, items: pl.DataFrame, seen: Seen) -> None:
        self.rows[day] = rows
        self._counts[day] = counts
        self._items[day] = items.drop_nulls("item_id").cast({"item_id": pl.Categorical(self._item_ids)})
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
        ids = self._item_ids.to_series()  # empty where no day is remembered: categories live as long as their columns
        rows, lines = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        prices = np.full((len(ids), len(known)), np.nan)
        for at, frame in enumerate(known):
            item = frame["item_id"].to_physical().to_numpy()
            rows[item] += frame["rows"].to_numpy()
            lines[item] += frame["lines"].to_numpy()
            prices[item, at] = frame["price"].to_numpy()
        price = pl.Series(median_of_rows(prices)).fill_nan(None)
        seen = pl.DataFrame({"item_id": ids, "rows": rows, "lines": lines, "price": price})
        return seen.filter(pl.col("rows") > 0)

    def accepted_before(self, day: str, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of today's event ids that were accepted already, on another day that is remembered. `ids` are hashes, sorted.

        A day that was held is judged again after days that follow it, and these may have some of its events: sent again,
        they were late, and nobody's yet. Sorted, because then the first look walks through memory instead of jumping in it:
        four times faster.
        """
        high, low = np.zeros(1 << int(HIGH_BITS), bool), np.zeros(1 << int(LOW_BITS), bool)
        high[ids >> HIGH], low[ids & LOW] = True, True  # each rules most of what is left out; few are looked up
        others = [known for other, known in self._ids.items() if other != day]
        chunks = (known[at : at + CHUNK] for known in others for at in range(0, len(known), CHUNK))
        likely = np.concatenate([ids[:0], *(some[high[some >> HIGH]] for some in chunks)])
        likely = likely[low[likely & LOW]]
        if not len(likely):
            return likely
        at = np.searchsorted(ids, likely)
        return likely[ids[np.minimum(at, len(ids) - 1)] == likely]

    def stranger_share(self, day: str, user_rows: pl.DataFrame, rows: int) -> float:
        """Share of the rows whose user no reference day has seen. `user_rows`: user_id (text), rows."""
        strangers = user_rows.select("rows", id=pl.col("user_id").hash())
        for past in sorted(self._users, reverse=True):  # most users were here within a week
            if past < day and len(strangers):
                strangers = strangers.join(self._users[past].alias("id").to_frame(), on="id", how="anti")
        return float(strangers["rows"].sum() / max(rows, 1))


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of a day's accepted rows, as 64-bit hashes: event ids, users, and who did what at which time of day.

    10^6 ids against 28 days of as many confuse one row in half a million days.
    """

    ids: NDArray[np.uint64]  # sorted
    users: pl.Series
    acts: NDArray[np.uint64]

    @classmethod
    def of(cls, events: pl.DataFrame, ids: NDArray[np.uint64]) -> Seen:
        """Of a frame with SEEN's columns; `ids` are `sorted_hashes` of its event ids."""
        return cls(ids, events["user_id"].unique().drop_nulls().cast(pl.String).hash(), acts_of(events))


def sorted_hashes(ids: pl.Series) -> NDArray[np.uint64]:
    return ids.hash().sort().to_numpy()


def acts_of(events: pl.DataFrame) -> NDArray[np.uint64]:
    """A hash of user, item, kind and time of day a row; its remainder by SAMPLED is the user's, so that users can be sampled."""
    who = events["user_id"].cast(pl.String).hash().alias("who")
    rows = events.lazy().select("item_id", "event_type", "event_time", who).filter(events["user_id"].is_not_null())
    if len(events) > LARGE:
        rows = rows.filter(pl.col("who") % SAMPLED == 0)
    rows = rows.drop_nulls(["item_id", "event_time"])
    what = pl.struct(pl.col("item_id", "event_type").cast(pl.String), pl.col("event_time").dt.time()).hash()
    act = (what ^ pl.col("who")) // SAMPLED * SAMPLED + pl.col("who") % SAMPLED
    return rows.select(act).collect().to_series().to_numpy()


def median_of_rows(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows] the median of what is not NaN in each row of [rows, columns]; numpy's own takes ten times as long."""
    known = table.shape[1] - np.isnan(table).sum(1)
    if not known.any():
        return np.full(len(table), np.nan)
    ordered = np.sort(table, axis=1)  # NaN last
    each, last = np.arange(len(table)), np.maximum(known - 1, 0)
    middle: NDArray[np.float64] = (ordered[each, last // 2] + ordered[each, (last + 1) // 2]) / 2
    return middle
