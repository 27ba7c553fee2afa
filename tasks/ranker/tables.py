"""Who reads the events of many days, filters, joins and reduces them, before numpy does the rest; build time only.

What is done is said once, as Narwhals expressions (log.py, shown.py, ../evaluation/labels.py). Polars does it in this
process; tasks/adapters/spark_tables.py has Apache Spark do it, for a log that no machine holds. Rows come in no order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import narwhals as nw
import polars as pl

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import epoch_day

Lazy = nw.LazyFrame[Any]
Columns = Mapping[str, pl.DataType | type[pl.DataType]]


class Tables(Protocol):
    def events(self, accepted: Sequence[Path], columns: Columns) -> Lazy:
        """These columns of the events of every day, null where a file lacks one, and `day`, which counts from 1970."""

    def frame(self, table: pl.DataFrame) -> Lazy:
        """A small table of this process, to join with."""

    def kept(self, lazy: Lazy) -> Lazy:
        """The same rows for several questions: read once."""

    def collected(self, lazy: Lazy) -> pl.DataFrame:
        """The rows, in this process."""


class PolarsTables:
    """Tables in the memory of this process."""

    def events(self, accepted: Sequence[Path], columns: Columns) -> Lazy:
        return nw.from_native(pl.concat([_events(path, columns) for path in accepted]))

    def frame(self, table: pl.DataFrame) -> Lazy:
        return nw.from_native(table.lazy())

    def kept(self, lazy: Lazy) -> Lazy:
        return self.frame(self.collected(lazy))

    def collected(self, lazy: Lazy) -> pl.DataFrame:
        table: pl.DataFrame = lazy.to_native().collect()
        return table


POLARS = PolarsTables()


def _events(path: Path, columns: Columns) -> pl.LazyFrame:
    held = pl.read_parquet_schema(path)
    told = [pl.col(n).cast(t) if n in held else pl.lit(None, dtype=t).alias(n) for n, t in columns.items()]
    return pl.scan_parquet(path).select(*told, pl.lit(partition_day(path), dtype=pl.Int32).alias("day"))


def partition_day(path: Path) -> int:
    """The day that a partition file belongs to, read from its directory `dt=YYYY-MM-DD`."""
    for part in reversed(path.parts):
        if part.startswith("dt="):
            return epoch_day(part[3:13])
    raise InputRejected(f"{path} lies in no directory dt=YYYY-MM-DD, so its day is unknown; keep the partition layout")
