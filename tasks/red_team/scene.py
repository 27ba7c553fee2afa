"""What a kind of damage is, and the scene it happens in. Every draw comes from the scene's seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from tasks.adapters.store import Store
from tasks.domain.behaviour import next_day
from tasks.domain.errors import InputRejected
from tasks.sources import Source

# from harmless to final; a kind counts as detected when what happens is at least what its entry promises
Outcome = Literal["pass", "quarantined", "empty", "held", "refused", "rejected"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "quarantined", "empty", "held", "refused", "rejected")
Base = Literal["purchases", "exposure"]


@dataclass(frozen=True, slots=True)
class Scene:
    """One day of one source, and the dice."""

    day: str
    source: Source
    draws: np.random.Generator

    def earlier(self, days: int = 1) -> pl.DataFrame:
        """The sound rows of a day before this one; of the last one that has rows."""
        for back in range(days, days + 7):
            rows = pl.DataFrame(self.source.events(next_day(self.day, -back)))
            if len(rows):
                return rows
        return rows

    def mask(self, rows: int, share: float) -> pl.Series:
        """`share` of the rows, at random, at least one where the share is above 0."""
        chosen = np.zeros(rows, bool)
        chosen[self.draws.permutation(rows)[: count_of(rows, share)]] = True
        return pl.Series(chosen)

    def change(
        self, frame: pl.DataFrame, share: float, *changed: pl.Expr, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """`share` of the rows, or of those where `where` holds, with new values in the columns that `changed` names."""
        rows = pl.int_range(pl.len()) if where is None else pl.arg_where(where)
        chosen = self.some(frame.select(rows.alias("row")), share)["row"]
        hit = pl.int_range(pl.len()).is_in(chosen.implode())
        return frame.with_columns(
            pl.when(hit).then(new).otherwise(name).alias(name)
            for new, name in ((new, new.meta.output_name()) for new in changed)
        )

    def some(self, frame: pl.DataFrame, share: float) -> pl.DataFrame:
        return frame.filter(self.mask(len(frame), share))

    def several(self, frame: pl.DataFrame, rows: int) -> pl.DataFrame:
        """`rows` rows in random order, none of them twice before all were drawn once."""
        rounds = -(-rows // max(len(frame), 1))
        drawn = [self.draws.permutation(len(frame)) for _ in range(rounds)]
        return frame[np.concatenate([np.zeros(0, np.int64), *drawn])[:rows]]

    def within_the_hour(self, rows: int) -> pl.Expr:
        """The hour of each row's event, at a random moment of it."""
        moment = pl.lit(pl.Series(self.draws.integers(0, 3_600_000_000, rows)))
        return pl.col("event_time").dt.truncate("1h") + pl.duration(microseconds=moment)

    def largest(self, rows: pl.DataFrame, column: str, count: int) -> pl.Series:
        """The `count` values with most rows."""
        counted = rows.group_by(column).len().sort("len", column, descending=True)
        return counted[column].head(count)

    def one_of(self, values: pl.Series) -> str:
        return str(values[int(self.draws.integers(0, len(values)))])


def count_of(rows: int, share: float) -> int:
    return min(rows, max(1, round(share * rows))) if share > 0 else 0


def added(rows: int, share: float) -> int:
    """How many rows to add so that they make `share` of the day."""
    if share >= 1:
        raise InputRejected(f"added rows cannot make {share:g} of a day that has rows; choose a strength below 1")
    return round(rows * share / (1 - share))


def numbered(prefix: str, rows: int) -> pl.Series:
    return pl.Series([f"{prefix}-{n:06d}" for n in range(rows)], dtype=pl.String)


Bend = Callable[[pl.DataFrame, Scene, float], pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Landing:
    """What ingest is told."""

    day: str
    key: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which data goes wrong, and what must happen then."""

    name: str
    what: str  # really goes wrong, in one sentence
    strength: str  # what the number means; 0 always means nothing
    published: float  # the strength at which detection is promised
    rules: tuple[str, ...]  # that catch it at that strength; with all of them off it must pass
    outcome: Outcome  # at least
    base: Base = "purchases"
    events: Bend | None = None
    items: Bend | None = None
    plan: Bend | None = None
    landing: Callable[[Landing, float], Landing] | None = None
    objects: Callable[[Store, Scene, float], None] | None = None  # bends what has landed
