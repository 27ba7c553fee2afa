"""Keys of long tables: which stand in a table more than once, and which another table knows.

Keys are compared by hash. Repeats are told on disk, by 128 bits: memory stays small however many rows there are. Known
keys stay in memory, 8 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

BUCKETS = 64
RECORD = np.dtype([("a", "<u8"), ("b", "<u8"), ("file", "<u4"), ("row", "<u8")])


class Repeat(NamedTuple):
    """A key that stood before, and where it stood first."""

    file: int
    row: int
    first_file: int
    first_row: int


class RepeatedKeys:
    """Add keys with their places, then ask. `folder` takes 28 bytes a key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buckets: dict[int, BinaryIO] = {}

    def add(self, keys: pl.Series, file: int, rows: Sequence[int]) -> None:
        """Nulls are no keys. A row's number is any integer; files and rows come in ascending order."""
        records = np.empty(len(keys), RECORD)
        records["a"], records["b"] = keys.hash(seed=1).to_numpy(), keys.hash(seed=2).to_numpy()
        records["file"], records["row"] = file, rows
        records = records[keys.is_not_null().to_numpy()]
        bucket = records["a"] % BUCKETS
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(BUCKETS + 1))
        for number in np.unique(bucket).tolist():
            self._bucket(number).write(records[order[bounds[number] : bounds[number + 1]]].tobytes())

    def repeats(self, most: int) -> tuple[int, list[Repeat]]:
        """(how many keys stand where the same key stood before, the first `most` of them). Ends the collection."""
        count, first = 0, pl.DataFrame(schema=dict.fromkeys(Repeat._fields, pl.Int64))
        for bucket in self._buckets.values():
            bucket.close()
            records = np.fromfile(bucket.name, RECORD)
            frame = pl.DataFrame({name: records[name] for name in RECORD.names or ()})
            again = (
                frame.filter(pl.struct("a", "b").is_duplicated())
                .with_columns(pl.col("file", "row").first().over("a", "b").name.prefix("first_"))
                .filter(~pl.struct("a", "b").is_first_distinct())
                .select(pl.col(*Repeat._fields).cast(pl.Int64))
            )
            count += len(again)
            first = pl.concat([first, again]).sort("file", "row").head(most)
        return count, [Repeat(*row) for row in first.iter_rows()]

    def _bucket(self, number: int) -> BinaryIO:
        if number not in self._buckets:
            self._buckets[number] = (self._folder / f"{number}.keys").open("wb")
        return self._buckets[number]


class KnownKeys:
    """The keys of one table, and which of another's are not among them."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint64]] = []
        self._sorted = np.empty(0, np.uint64)

    def add(self, keys: pl.Series) -> None:
        self._parts.append(keys.drop_nulls().hash().to_numpy())

    def unknown(self, keys: pl.Series) -> pl.Series:
        """True where a key is not known; null is no key."""
        if self._parts:
            self._sorted, self._parts = np.unique(np.concatenate([self._sorted, *self._parts])), []
        hashes = keys.hash().to_numpy()
        at = np.searchsorted(self._sorted, hashes)
        found = np.append(self._sorted, np.uint64(0))[at] == hashes
        found &= at < len(self._sorted)
        return pl.Series(~found) & keys.is_not_null()
