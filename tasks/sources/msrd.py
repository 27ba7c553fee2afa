"""MSRD: film search with human relevance labels (Metarank, CC BY-SA 4.0), from a folder of three Parquet files.

The data has neither times nor users. A query gets a day and a second by a hash of its id, its pairs follow ten seconds
apart, and it is a user of its own: the same every time, and without meaning. docs/data-contract.md says so to readers.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tasks.domain.behaviour import next_day
from tasks.domain.contract import EVENT, ITEM, PLAN, arrow_schema
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.sources import Trip, require_day

if TYPE_CHECKING:
    import pyarrow as pa

DAYS = 42  # six of each weekday, for rules that compare a day with others like it
SECONDS_APART = 10  # about what a person takes to judge one film
LONGEST_SLATE_S = 3_600
COLUMNS = {
    "items": (
        "doc_id",
        "title",
        "overview",
        "tags",
        "genres",
        "director",
        "actors",
        "characters",
        "year",
        "votes",
        "rating",
        "popularity",
    ),
    "queries": ("query_id", "query"),
    "judgments": ("query_id", "doc_id", "grade"),
}


class Msrd:
    """Source of daily `rating` events on surface search, and of films with rich text."""

    name = "msrd"
    title = "MSRD"
    first_day = "2020-01-01"
    last_day = next_day("2020-01-01", DAYS - 1)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for table in COLUMNS:
            if not self._path(table).is_file():
                raise InputRejected(
                    f"{self._path(table)} is missing; MSRD is {', '.join(f'{t}.parquet' for t in COLUMNS)}"
                )

    def days(self) -> list[str]:
        return [next_day(self.first_day, n) for n in range(DAYS)]

    def events(self, day: str) -> pa.Table:
        require_day(self, day)
        return self._events.filter(pl.col("day") == partition_date(day)).select(EVENT.names).to_arrow()

    def plan(self, day: str) -> pa.Table:
        require_day(self, day)
        return arrow_schema(PLAN).empty_table()

    def items(self) -> pa.Table:
        tags, genres, actors, characters = (
            pl.col(name).list.unique(maintain_order=True).list.join(", ")
            for name in ("tags", "genres", "actors", "characters")
        )
        told = [pl.col("title"), pl.col("overview"), tags, genres, pl.col("director"), actors, characters]
        ended = [one.str.strip_chars(". ") for one in told]
        filled = [pl.when(one != "").then(one) for one in ended]
        genre = pl.col("genres").list.first().str.to_titlecase()  # some are written in capitals, some are not
        return (
            self._read("items")
            .select(
                item_id=pl.col("doc_id"),
                title=pl.col("title"),
                text=pl.concat_str(*filled, pl.col("year").cast(pl.String), separator=". ", ignore_nulls=True),
                category_path=pl.concat_str(pl.lit("Film"), genre, separator=" > ", ignore_nulls=True),
                brand=pl.lit(None, pl.String),
                price=pl.lit(None, pl.Float64),
                # what the search ranker reads field by field; the text above holds the words in one piece
                attributes=pl.struct(pl.exclude("doc_id", "title")).struct.json_encode(),
                available=pl.lit(True),
                updated_at=pl.lit(partition_date(self.first_day)).cast(pl.Datetime("us", "UTC")),
            )
            .sort("item_id")
            .select(ITEM.names)
            .to_arrow()
        )

    def users(self) -> pa.Table | None:
        return None

    def trips(self, day: str) -> list[Trip]:
        """None: nobody buys here."""
        require_day(self, day)
        return []

    @cached_property
    def _events(self) -> pl.DataFrame:
        queries = self._read("queries")
        moments = pl.Series([_moment(number) for number in queries["query_id"]], dtype=pl.Int64)
        midnight = pl.lit(partition_date(self.first_day)).cast(pl.Datetime("us", "UTC"))
        place = pl.int_range(pl.len()).over("query_id", order_by="doc_id")
        return (
            self._read("judgments")
            .join(queries.with_columns(begin=moments), on="query_id")
            .with_columns(number=pl.col("query_id").cast(pl.String))
            .with_columns(second=pl.col("begin") + place * SECONDS_APART)
            .select(
                event_id=pl.format("msrd-{}-{}", "number", "doc_id"),
                event_time=midnight + pl.duration(seconds="second"),
                user_id=pl.format("judge-{}", "number"),
                session_id=pl.format("judge-{}", "number"),
                surface=pl.lit("search"),
                query=pl.col("query"),
                item_id=pl.col("doc_id"),
                event_type=pl.lit("rating"),
                position=pl.lit(None, pl.Int32),  # the judges saw a shuffled list, and in which order is not told
                value=pl.col("grade").cast(pl.Float64),
                propensity=pl.lit(None, pl.Float64),
                request_id=pl.format("msrd-{}", "number"),
                quantity=pl.lit(None, pl.Float64),
                discount=pl.lit(None, pl.Float64),
                store_id=pl.lit(None, pl.String),
            )
            .with_columns(day=pl.col("event_time").dt.date())
            .sort("event_id")
        )

    def _read(self, table: str) -> pl.DataFrame:
        path = self._path(table)
        try:
            return pl.read_parquet(path, columns=list(COLUMNS[table]))
        except (OSError, pl.exceptions.PolarsError) as err:
            raise InputRejected(f"{path} cannot be read, or lacks one of {', '.join(COLUMNS[table])}") from err

    def _path(self, table: str) -> Path:
        return self._folder / f"{table}.parquet"


def _moment(query_id: int) -> int:
    """Seconds after the first day's midnight, early enough that a query's pairs end on its own day."""
    drawn = int.from_bytes(hashlib.sha256(f"msrd-{query_id}".encode()).digest()[:8])
    day, second = drawn % DAYS, (drawn // DAYS) % (86_400 - LONGEST_SLATE_S)
    return day * 86_400 + second
