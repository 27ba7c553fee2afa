"""Lists that were shown, and what came of them: impressions and their answers, joined by request; build time only.

One request is one slate: its candidates are the items that were shown, its grades the best that the user did with each
within the label delay. A log of purchases alone has none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.log import EventLog, graded
from tasks.ranker.tables import POLARS, Columns, Lazy, Tables

ANSWERS = ("click", "add_to_cart", "purchase", "rating")
PAIR = ("request_id", "item_id")
EVENTS: Columns = {
    "event_id": pl.String, "user_id": pl.String, "item_id": pl.String, "event_type": pl.String, "request_id": pl.String,
    "surface": pl.String, "position": pl.Int32, "propensity": pl.Float64, "value": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shown:
    """One row for each item of each list, sorted by (day, request, position, item); numbers are those of the log."""

    day: Ints
    request: Ints
    user: Ints
    item: Ints
    position: NDArray[np.int16]  # 0 is the first place; -1 where the log does not say
    propensity: Floats  # logged chance of having been shown here, NaN where the log does not say
    grade: NDArray[np.uint8]  # 0 nothing, 1 click, 2 cart, 3 purchase

    def during(self, first: int, last: int) -> Shown:
        """The lists of the days from `first` to `last`."""
        part = slice(*np.searchsorted(self.day, (first, last + 1)))
        return Shown(**{f.name: getattr(self, f.name)[part] for f in fields(self)})


def read_shown(
    accepted: list[Path], log: EventLog, label_delay_days: int, tables: Tables = POLARS
) -> tuple[Shown, dict[str, int]]:
    """(the lists, how many events could not be used and why).

    Items and users that the log does not know cannot be ranked or described, so their impressions are left out; so are
    lists of searches, because what answers them depends on a query that the ranker does not read. An answer counts for
    the request that it names, however much later it comes, up to `label_delay_days` days.
    """
    has_request, searched = ~nw.col("request_id").is_null(), nw.col("surface").fill_null("recommendation") == "search"
    events = tables.kept(tables.events(accepted, EVENTS).filter(nw.col("event_type").is_in(("impression", *ANSWERS))))
    impressions = events.filter(nw.col("event_type") == "impression")
    answers = events.filter((nw.col("event_type") != "impression") & has_request)
    named = impressions.filter(has_request & ~searched)
    placed = tables.kept(_placed(named, log, tables))
    answered = placed.select(*PAIR, "day").join(
        answers.select(*PAIR, answered=nw.col("day"), grade=graded()), on=list(PAIR)
    )
    in_time = (nw.col("answered") - nw.col("day")).is_between(0, label_delay_days)
    best = answered.filter(in_time).group_by(*PAIR).agg(nw.col("grade").max())
    table = (
        tables.collected(placed.join(best, on=list(PAIR), how="left"))
        .with_columns(pl.col("grade").fill_null(0), pl.col("position").fill_null(-1))
        .with_columns(request=pl.struct("day", "request_id").rank("dense").cast(pl.Int32) - 1)
        .sort("day", "request", "position", "item")
    )

    def count(lazy: Lazy) -> int:
        return int(tables.collected(lazy.select(rows=nw.len())).item())

    left_out = {
        "impressions_of_searches": count(impressions.filter(searched)),
        "impressions_without_request": count(impressions.filter(~has_request & ~searched)),
        "impressions_of_unknown_users_or_items": count(named.unique(list(PAIR))) - len(table),
        "answers_to_nothing_shown": count(answers.filter(~searched).join(named, on=list(PAIR), how="anti")),
        "answers_out_of_time": count(answered.filter(~in_time)),
    }
    return Shown(
        day=table["day"].to_numpy().astype(np.int32),
        request=table["request"].to_numpy().astype(np.int32),
        user=table["user"].to_numpy().astype(np.int32),
        item=table["item"].to_numpy().astype(np.int32),
        position=table["position"].to_numpy().astype(np.int16),
        propensity=table["propensity"].cast(pl.Float32).to_numpy().astype(np.float32),
        grade=table["grade"].to_numpy().astype(np.uint8),
    ), left_out


def _placed(named: Lazy, log: EventLog, tables: Tables) -> Lazy:
    """Each item of a request once, as its first event has it and at the best of its places; a request is of its first day."""
    users, items = _numbers("user_id", "user", log.user_ids), _numbers("item_id", "item", log.items.ids)
    known = named.join(tables.frame(users), on="user_id").join(tables.frame(items), on="item_id")
    known = known.with_columns(nw.col("position").min().over(*PAIR), first=nw.col("event_id").min().over(*PAIR))
    once = known.filter(nw.col("event_id") == nw.col("first")).unique(list(PAIR))
    return once.select(*PAIR, "user", "item", "position", "propensity", day=nw.col("day").min().over("request_id"))


def _numbers(name: str, number: str, values: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {name: values, number: np.arange(len(values), dtype=np.int32)}, schema_overrides={name: pl.String}
    )
