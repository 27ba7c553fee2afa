"""Apache Spark behind the tables of build_dataset: it reads the accepted days, and what numpy needs of them comes back.

Files go both ways, through a folder that Spark's workers see as well: a table that is collected never goes through the driver.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import narwhals as nw
import polars as pl

from tasks.adapters.spark import asked_of_spark, spark_session
from tasks.ranker.tables import Columns, Lazy, partition_day

# Spark's names of the types that an event has
TYPES = {pl.String: "string", pl.Float64: "double", pl.Int32: "int", pl.Datetime("us", "UTC"): "timestamp"}
DAY = r".*/dt=(\d{4}-\d\d-\d\d)"  # the last one of a path, as partition_day has it


class SparkTables:
    """tasks.ranker.tables.Tables, by Spark. The session lives as long as the process."""

    def __init__(self, master: str, scratch: Path) -> None:
        """Start the session, or join the one of this process.

        Args:
            master: `local[2]`, or a cluster whose workers see `scratch` and the accepted files under the same paths.

        Raises:
            InputRejected: Spark cannot start here. Unavailable: its master does not answer.
        """
        self._session = spark_session(master, scratch)
        self._folder = tempfile.TemporaryDirectory(dir=scratch)  # a second live copy of the step has its own

    def events(self, accepted: Sequence[Path], columns: Columns) -> Lazy:
        from pyspark.sql import functions as sql

        for path in accepted:
            partition_day(path)  # refuses one that has none
        told = ", ".join(f"{name} {TYPES[kind]}" for name, kind in columns.items())
        with asked_of_spark("read the events"):
            read = self._session.read.schema(told).parquet(*map(str, accepted))
            named = sql.to_date(sql.regexp_extract(sql.col("_metadata.file_path"), DAY, 1))
            return nw.from_native(read.select(*columns, sql.unix_date(named).alias("day")))

    def frame(self, table: pl.DataFrame) -> Lazy:
        path = self._new("frame.parquet")
        table.write_parquet(path)
        return self._read(path)

    def kept(self, lazy: Lazy) -> Lazy:
        return self._read(self._made(lazy))

    def collected(self, lazy: Lazy) -> pl.DataFrame:
        return pl.read_parquet(self._made(lazy) / "*.parquet")

    def _made(self, lazy: Lazy) -> Path:
        path = self._new("made")
        with asked_of_spark("make a table"):
            lazy.to_native().write.parquet(str(path))
        return path

    def _read(self, path: Path) -> Lazy:
        with asked_of_spark("read a table"):
            return nw.from_native(self._session.read.parquet(str(path)))

    def _new(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder.name), name)
