"""Events on surface search -> judged lists: a query, the items that were shown for it, and what came of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Ints, ranges

if TYPE_CHECKING:
    import polars as pl

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """Lists n = ptr[n]:ptr[n + 1] of items. A list without a positive, or with nothing else, teaches nothing."""

    names: list[str]
    queries: list[str]
    ptr: Longs
    rows: Ints  # of the catalogue, -1 for an item that it does not know
    grade: Floats  # 0: shown and nothing came of it

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def owner(self) -> Longs:
        """[pairs] the list of each pair."""
        return np.repeat(np.arange(len(self)), np.diff(self.ptr))

    @property
    def digest(self) -> str:
        told = [*self.names, *self.queries, self.ptr.tobytes().hex(), self.rows.tobytes().hex()]
        return hashlib.sha256("\x1f".join([*told, self.grade.tobytes().hex()]).encode()).hexdigest()

    def pairs(self, lists: Longs) -> Longs:
        """Pairs of these lists, one list after the other."""
        return ranges(self.ptr[lists], self.ptr[lists + 1] - self.ptr[lists])

    def take(self, lists: Longs) -> Lists:
        pairs = self.pairs(lists)
        ptr = np.cumsum([0, *np.diff(self.ptr)[lists].tolist()])
        names, queries = ([of[n] for n in lists.tolist()] for of in (self.names, self.queries))
        return Lists(names, queries, ptr.astype(np.int64), self.rows[pairs], self.grade[pairs])

    def teach(self) -> Longs:
        """The lists that a listwise loss can learn from."""
        found = np.add.reduceat(self.grade > 0, self.ptr[:-1], dtype=np.int64) if len(self) else np.zeros(0, np.int64)
        return np.flatnonzero((found > 0) & (found < np.diff(self.ptr)))


def together(parts: Sequence[Lists]) -> Lists:
    """The lists of all parts, one part after the other."""
    sizes = [np.diff(part.ptr) for part in parts]
    return Lists(
        names=[name for part in parts for name in part.names],
        queries=[query for part in parts for query in part.queries],
        ptr=np.cumsum(np.concatenate([[0], *sizes])).astype(np.int64),
        rows=np.concatenate([*(part.rows for part in parts), np.zeros(0, np.int32)]).astype(np.int32),
        grade=np.concatenate([*(part.grade for part in parts), np.zeros(0, np.float32)]).astype(np.float32),
    )


def lists_of(events: pl.DataFrame, ids: Sequence[str]) -> Lists:
    """The lists of events with a query, by request (or session, or user and query, where there is none).

    A rating above zero is a positive of that grade: judges of search say relevant or not, they give no stars. Otherwise the
    best of an item's events counts, see tasks.ranker.log.GRADES. Lists and their items are in the order of their first event.

    Args:
        events: columns of tasks.domain.contract.EVENT; other surfaces and events without a query are left out.
        ids: the catalogue, whose rows the lists name.
    """
    import polars as pl  # heavy: the service reads the features' code, never events

    from tasks.ranker.log import GRADES

    asked = events.filter((pl.col("surface") == "search") & (pl.col("query").str.strip_chars() != ""))
    value = pl.col("value").fill_null(0.0).fill_nan(0.0).clip(0.0, 10.0)
    grade = pl.col("event_type").replace_strict(GRADES, default=0, return_dtype=pl.Float64)
    alone = pl.format("{}|{}", pl.coalesce("session_id", "user_id").cast(pl.String), pl.col("query"))
    number = pl.DataFrame(
        {"item_id": list(ids), "row": np.arange(len(ids), dtype=np.int32)}, schema_overrides={"item_id": pl.String}
    )
    pairs = (
        asked.with_columns(
            pl.col("item_id").cast(pl.String),
            list=pl.coalesce(pl.col("request_id").cast(pl.String), alone),
            grade=pl.when(pl.col("event_type") == "rating").then(value).otherwise(grade),
        )
        .sort("event_time", "event_id")
        .with_columns(begin=pl.col("event_time").min().over("list"))
        .group_by("list", "item_id", maintain_order=True)
        .agg(pl.col("query").first(), pl.col("grade").max(), pl.col("event_time").min(), pl.col("begin").first())
        .join(number, on="item_id", how="left", maintain_order="left")
        .sort("begin", "list", "event_time", "item_id")
    )
    heads = pairs.group_by("list", maintain_order=True).agg(pl.col("query").first(), size=pl.len())
    return Lists(
        names=heads["list"].to_list(),
        queries=heads["query"].to_list(),
        ptr=np.cumsum([0, *heads["size"].to_list()]).astype(np.int64),
        rows=pairs["row"].fill_null(-1).to_numpy().astype(np.int32),
        grade=pairs["grade"].to_numpy().astype(np.float32),
    )
