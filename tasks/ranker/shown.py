"""Lists that were shown, and what came of them: impressions and their answers, joined by request; build time only.

One request is one slate: its candidates are the items that were shown, its grades the best that the user did with each
within the label delay. A log of purchases alone has none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.log import EventLog, graded, partition_day

ANSWERS = ("click", "add_to_cart", "purchase", "rating")


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


def read_shown(accepted: list[Path], log: EventLog, label_delay_days: int) -> tuple[Shown, dict[str, int]]:
    """(the lists, how many events could not be used and why).

    Items and users that the log does not know cannot be ranked or described, so their impressions are left out; so are
    lists of searches, because what answers them depends on a query that the ranker does not read. An answer counts for
    the request that it names, however much later it comes, up to `label_delay_days` days.
    """
    events = pl.concat([_events(path) for path in sorted(accepted)])
    impressions = events.filter(pl.col("event_type") == "impression")
    answers = events.filter(pl.col("event_type").is_in(ANSWERS) & pl.col("request_id").is_not_null())
    searched = pl.col("surface").fill_null("recommendation") == "search"
    named = impressions.filter(pl.col("request_id").is_not_null() & ~searched)
    placed = (
        named.sort("event_id")
        .join(_numbers("user_id", "user", log.user_ids), on="user_id")
        .join(_numbers("item_id", "item", log.items.ids), on="item_id")
        .group_by("request_id", "item_id", maintain_order=True)
        .agg(pl.col("day", "user", "item").first(), pl.col("position").min(), pl.col("propensity").first())
        .with_columns(day=pl.col("day").min().over("request_id"))
    )
    answered = placed.join(answers.rename({"day": "answered"}), on=["request_id", "item_id"])
    answered = answered.with_columns(grade=graded(pl.col("event_type"), pl.col("value")))
    in_time = answered.filter((pl.col("answered") - pl.col("day")).is_between(0, label_delay_days))
    best = in_time.group_by("request_id", "item_id").agg(pl.col("grade").max())
    table = (
        placed.join(best, on=["request_id", "item_id"], how="left")
        .with_columns(pl.col("grade").fill_null(0), pl.col("position").fill_null(-1))
        .with_columns(request=pl.struct("day", "request_id").rank("dense").cast(pl.Int32) - 1)
        .sort("day", "request", "position", "item")
    )
    orphans = answers.filter(~searched).join(named, on=["request_id", "item_id"], how="anti")
    left_out = {
        "impressions_of_searches": int(impressions.select(searched.sum()).item()),
        "impressions_without_request": int(
            impressions.select((pl.col("request_id").is_null() & ~searched).sum()).item()
        ),
        "impressions_of_unknown_users_or_items": len(named.unique(["request_id", "item_id"])) - len(placed),
        "answers_to_nothing_shown": len(orphans),
        "answers_out_of_time": len(answered) - len(in_time),
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


def _events(path: Path) -> pl.DataFrame:
    """The events of one day that have to do with lists."""
    wanted = {
        "event_id": pl.String, "user_id": pl.String, "item_id": pl.String, "event_type": pl.String,
        "request_id": pl.String, "surface": pl.String, "position": pl.Int32, "propensity": pl.Float64, "value": pl.Float64,
    }  # fmt: skip
    schema = pl.read_parquet_schema(path)
    frame = pl.read_parquet(path, columns=[name for name in wanted if name in schema])
    columns = [pl.col(n).cast(t) if n in schema else pl.lit(None, dtype=t).alias(n) for n, t in wanted.items()]
    return frame.select(*columns, pl.lit(partition_day(path), dtype=pl.Int32).alias("day"))


def _numbers(name: str, number: str, values: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {name: values, number: np.arange(len(values), dtype=np.int32)}, schema_overrides={name: pl.String}
    )
