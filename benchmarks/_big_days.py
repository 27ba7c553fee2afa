"""Landed days of any size: a weekday's rows of the whole year at once, repeated under new event, user and basket ids.

python -m benchmarks._big_days FOLDER DAYS ROWS        # lands DAYS days of about ROWS rows each, in a folder store
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import polars as pl

from tasks.adapters.partitions import catalogue_key, described, landed_key, put_day
from tasks.adapters.store import MemoryStore, checked_key
from tasks.adapters.tables import contract_table, parquet_bytes
from tasks.domain.behaviour import PartitionManifest
from tasks.domain.contract import EVENT, ITEM, PLAN
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import digest_of, partition_date
from tasks.sources.completejourney import CompleteJourney

FIRST = 14  # day of the log: the first two weeks of the year are sparse


class FolderStore(MemoryStore):
    """The in-memory store with its objects in files, so that what it holds is not the memory that is measured."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def put_new(self, key: str, content: bytes | Path) -> None:
        path = self._root / checked_key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())

    def get(self, key: str) -> bytes:
        path = self._root / checked_key(key)
        if not path.is_file():
            raise InputRejected(f"{key} does not exist")
        return path.read_bytes()

    def exists(self, key: str) -> bool:
        return (self._root / checked_key(key)).is_file()

    def list(self, prefix: str) -> list[str]:
        folder = self._root / prefix.rsplit("/", 1)[0]
        keys = (path.relative_to(self._root).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix))


def land(root: Path, days: int, rows: int) -> list[str]:
    """Land what is not there yet; the days' names."""
    source, store = CompleteJourney(), FolderStore(root)
    items = pl.DataFrame(source.items()).sort("item_id")
    file, body = described("items", parquet_bytes(contract_table(items, ITEM)), len(items))
    store.put_new(catalogue_key(file.sha256), body)
    names = source.days()[FIRST : FIRST + days]
    for day in names:
        if not store.exists(landed_key(day)):
            _land_day(store, source, day, rows, file.sha256)
    return names


def _land_day(store: FolderStore, source: CompleteJourney, day: str, rows: int, catalogue: str) -> None:
    alike = [one for one in source.days() if _weekday(one) == _weekday(day) and source.events(one).num_rows > 2000]
    real = pl.concat([_moved(pl.DataFrame(source.events(one)), one, day) for one in alike])
    copies = max(1, round(rows / len(real)))
    named = [_renamed(real, day, copy) for copy in range(copies)]
    events = pl.concat(named).sort("event_id")
    plan = pl.DataFrame(source.plan(day)).sort("item_id")
    files = [
        described("events", parquet_bytes(contract_table(events, EVENT)), len(events)),
        described("plan", parquet_bytes(contract_table(plan, PLAN)), len(plan)),
    ]
    manifest = PartitionManifest(
        partition=day,
        files=tuple(file for file, _ in files),
        rows=len(events),
        late_rows=0,
        catalogue=catalogue,
        source="completejourney",
        pseudonym_key_id="benchmark",
        digest=digest_of([day, copies]),
    )
    put_day(store, landed_key(day, ""), files, manifest)


def _weekday(day: str) -> int:
    return partition_date(day).weekday()


def _moved(events: pl.DataFrame, from_day: str, to_day: str) -> pl.DataFrame:
    """Another day's rows as if they had happened on `to_day`, each day a little later than the one before: nobody comes at
    the same second again, and the rules would say so."""
    midnight, later = pl.col("event_time").dt.truncate("1d"), partition_date(to_day).toordinal() % 90 * 17
    second = ((pl.col("event_time") - midnight).dt.total_seconds() + later) % 86_400
    moved = midnight + (partition_date(to_day) - partition_date(from_day)) + pl.duration(seconds=second)
    of_day = [(pl.lit(f"{from_day}-") + pl.col(name)).alias(name) for name in ("user_id", "session_id", "event_id")]
    return events.with_columns(moved.alias("event_time"), *of_day)


def _renamed(real: pl.DataFrame, day: str, copy: int) -> pl.DataFrame:
    """The same shop once more, with other customers; they come back a week later."""

    def pseudonyms(column: str) -> pl.Expr:
        ids = real[column].unique().to_list()
        return pl.col(column).replace_strict(
            ids, [hashlib.sha256(f"{column}{copy}-{one}".encode()).hexdigest() for one in ids]
        )

    event_id = pl.lit(f"{day}/{copy:03d}-") + pl.col("event_id")
    return real.with_columns(event_id.alias("event_id"), pseudonyms("user_id"), pseudonyms("session_id")).select(
        EVENT.names
    )


if __name__ == "__main__":
    land(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
