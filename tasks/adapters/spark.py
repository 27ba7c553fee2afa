"""Apache Spark behind the rules about rows: it reads the landed file of a day, and hands back the rows that a rule caught.

An extra of the distribution (`spark`) that needs Java: nothing here is imported unless the setting `tables` says so.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from expectations.day import Day
from expectations.portable_rules import ROW, SPARK, TIME, caught
from expectations.row_rules import ROW_RULES, none_of
from expectations.suites import EVENTS
from tasks.domain.data_policy import DataPolicy
from tasks.domain.errors import InputRejected, Unavailable


def why_no_spark() -> str | None:
    """What is missing on this machine; None where Spark can start."""
    try:
        import pyspark  # noqa: F401  # only whether it is there
    except ImportError:
        return "pyspark is not installed: pip install pyspark"
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else Path(shutil.which("java") or "/nowhere")
    return None if java.exists() else "there is no Java: install Java 17 or newer, or set JAVA_HOME"


class SparkRules:
    """Which rows of a day break the contract or a rule, by Spark. The session lives as long as the process."""

    def __init__(self, master: str, scratch: Path, file_of: Callable[[str], bytes]) -> None:
        """Start the session, or join the one of this process.

        Args:
            master: `local[2]`, or a cluster whose workers see `scratch` under the same path.
            file_of: day -> its landed events, Parquet, verified.

        Raises:
            InputRejected: Spark cannot start here. Unavailable: its master does not answer.
        """
        self._session = spark_session(master, scratch)
        self._scratch, self._file_of = scratch, file_of

    def __call__(self, day: Day, policy: DataPolicy) -> dict[str, pl.Series]:
        """Expectation or rule -> the mask of the rows that it catches, as expectations.verdicts.caught_here says it."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:  # a second live copy of the step has its own
            events, items = Path(folder, "events.parquet"), Path(folder, "items.parquet")
            events.write_bytes(self._file_of(day.day))
            if (rows := pq.read_metadata(events).num_rows) != len(day.events):
                raise Unavailable(
                    f"{day.day} was landed anew, {rows} rows where {len(day.events)} are judged; run validate_data again"
                )
            day.catalogue.select("item_id").write_parquet(items)
            found = self._caught(events, items, day.day, policy)
        names = [*(one.name for one in EVENTS.expectations), *(rule.name for rule in ROW_RULES if not rule.by_the_past)]
        return {
            name: day.events[ROW].is_in(found.filter(pl.col(name))[ROW].implode())
            if name in found.columns
            else none_of(day)
            for name in names
        }

    def _caught(self, path: Path, items: Path, day: str, policy: DataPolicy) -> pl.DataFrame:
        import narwhals as nw
        from pyspark.sql import functions as sql

        with asked_of_spark(f"judge {day}"):
            read = self._session.read.parquet
            events = read(str(path)).select("*", sql.col("_metadata.row_index").alias(ROW))
            events = events.withColumn(TIME, sql.unix_micros("event_time")).drop("event_time")
            lazy: Any = caught(nw.from_native(events), nw.from_native(read(str(items))), day, policy, SPARK)
            told = pl.from_arrow(lazy.to_native().toArrow())
        assert isinstance(told, pl.DataFrame)
        return told.with_columns(pl.col(ROW).cast(pl.UInt32))


def spark_session(master: str, scratch: Path) -> Any:
    """The session of this process, started where there is none.

    Raises:
        InputRejected: Spark cannot start here. Unavailable: its master does not answer.
    """
    if missing := why_no_spark():
        raise InputRejected(f"tables is spark, but {missing}; or set FRESHRANK_TABLES=polars")
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    scratch.mkdir(parents=True, exist_ok=True)
    told = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }
    if master.startswith("local"):
        told |= {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.sql.shuffle.partitions": "4",
        }
    builder = SparkSession.builder.appName("freshrank").master(master)
    for name, value in told.items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except (PySparkException, OSError) as err:
        raise Unavailable(f"Spark does not start with master {master}: {type(err).__name__}") from err


@contextmanager
def asked_of_spark(what: str) -> Iterator[None]:
    """Says what went wrong by Spark's name for it; its own words hold paths of the machine.

    Raises:
        Unavailable: Spark failed, here or in a worker.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as err:  # the latter where it failed while it ran
        named = re.search(r"\[([A-Z][A-Z0-9_.]+)\]", str(err))
        raise Unavailable(
            f"Spark could not {what}: {named[1] if named else type(err).__name__}; what it printed before says where"
        ) from err
