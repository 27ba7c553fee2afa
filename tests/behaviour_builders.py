"""Small behaviour logs for tests: a source in memory whose every day, row and item a test can bend."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa

from tasks.adapters.partitions import accepted_key, accepted_revisions, described, put_day, read_partition
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import parquet_bytes
from tasks.domain.behaviour import AcceptedManifest, next_day
from tasks.domain.contract import EVENT, ITEM, PLAN, arrow_schema
from tasks.domain.manifest import partition_date
from tasks.sources import Trip, require_day

KEY, KEY_ID = bytes(range(32)), "k-test"
FIRST = "2017-01-01"
ITEMS = 20


def an_event(n: int, day: str = FIRST, **columns):
    """Event `n` of a day: sound on its own; a test names only what it is about."""
    midnight = datetime.combine(partition_date(day), datetime.min.time(), UTC)
    sound = {
        "event_id": f"{day}-{n:05d}",
        "event_time": midnight + timedelta(minutes=n % 1440, seconds=midnight.day),  # no two days are copies
        "user_id": f"user-{n % 25}",
        "session_id": f"basket-{n % 50}",
        "surface": "recommendation",
        "item_id": f"item-{n % ITEMS}",
        "event_type": "purchase",
        "value": 2.0 + n % ITEMS,
        "quantity": 1.0,
        "discount": 0.0,
        "store_id": "shop-1",
    }
    return sound | columns


def a_day(day: str = FIRST, rows: int = 150, **columns) -> list[dict]:
    return [an_event(n, day, **columns) for n in range(rows)]


def events_table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in arrow_schema(EVENT)]))


def events_frame(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(events_table(rows))


def items_table(ids=tuple(f"item-{n}" for n in range(ITEMS)), **columns) -> pa.Table:
    rows = [
        {
            "item_id": i,
            "title": f"Title {i}",
            "text": f"text of {i}",
            "available": True,
            "updated_at": datetime(2017, 1, 1, tzinfo=UTC),
        }
        | columns
        for i in ids
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in arrow_schema(ITEM)]))


def plan_table(**shares) -> pa.Table:
    rows = [{"item_id": f"item-{n}", "display_share": 0.5, "mailer_share": 0.0} | shares for n in range(ITEMS)]
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in arrow_schema(PLAN)]))


class TinySource:
    """A Source with 40 days of 150 sound events; `replaced`, `plans` and `item_table` bend it."""

    name, title = "tiny", "Tiny Log"
    first_day, last_day = FIRST, next_day(FIRST, 39)

    def __init__(self) -> None:
        self.replaced: dict[str, pa.Table] = {}
        self.plans: dict[str, pa.Table] = {}
        self.item_table = items_table()
        self.user_table: pa.Table | None = None

    def days(self) -> list[str]:
        return [next_day(self.first_day, n) for n in range(40)]

    def events(self, day: str) -> pa.Table:
        require_day(self, day)
        return self.replaced[day] if day in self.replaced else events_table(a_day(day))

    def plan(self, day: str) -> pa.Table:
        return self.plans.get(day, plan_table())

    def items(self) -> pa.Table:
        return self.item_table

    def users(self) -> pa.Table | None:
        return self.user_table

    def trips(self, day: str) -> list[Trip]:
        return []


class CrashingStore(MemoryStore):
    """Dies at the k-th write, as a killed uploader does: what was written before stays."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    def put_new(self, key, content) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().put_new(key, content)


class HookedStore(MemoryStore):
    """Calls `before(store)` once, ahead of change number `at`: to die there, or to let somebody else act meanwhile."""

    def __init__(self, at: int, before: Callable[[HookedStore], None], objects: dict[str, bytes] | None = None) -> None:
        super().__init__()
        self._objects.update(objects or {})
        self.at, self.before, self.changes = at, before, 0

    def _count(self) -> None:
        self.changes += 1
        if self.changes == self.at:
            self.at = -1
            self.before(self)

    def put_new(self, key, content) -> None:
        self._count()
        super().put_new(key, content)

    def replace(self, key, content) -> None:
        self._count()
        super().replace(key, content)

    def delete(self, key) -> None:
        self._count()
        super().delete(key)


def die(store: HookedStore) -> None:
    raise KeyboardInterrupt


def accept(store: MemoryStore, day: str, rules: dict[int, str] | None = None, marks: dict[int, str] | None = None):
    """Write the accepted day that validate_data would, had its rules caught these rows of the newest landed revision."""
    rules, marks = rules or {}, marks or {}
    partition = read_partition(store, day)
    landed, rows = partition.manifest, sorted({*rules, *marks})
    caught = partition.events.take(pa.array(rows, pa.int64())).cast(events_table([]).schema)
    caught = caught.add_column(0, "row", pa.array(rows, pa.int64()))
    for name, told in (("rules", rules), ("marks", marks)):
        caught = caught.append_column(name, pa.array([told.get(row, "") for row in rows], pa.string()))
    files = [described("caught", parquet_bytes(caught), len(rows)), described("report", b"{}", 0, ".json")]

    def counts(told: dict[int, str]) -> dict[str, int]:
        return dict(Counter(rule for joined in told.values() for rule in joined.split(",")))

    manifest = AcceptedManifest(
        partition=day,
        revision=accepted_revisions(store).get(day, 0) + 1,
        verdict="pass",
        files=tuple(file for file, _ in files),
        rows=landed.rows - len(rules),
        landed_rows=landed.rows,
        quarantined=counts(rules),
        marked=counts(marks),
        events=landed.file("events"),
        plan=landed.file("plan"),
        catalogue=landed.catalogue,
        users=landed.users,
        partition_digest=landed.digest,
        landed_revision=landed.revision,
        policy_digest="0" * 64,
    )
    put_day(store, accepted_key(day, ""), files, manifest)


def holders(store: MemoryStore, text: str) -> list[str]:
    """Every object that names `text`, in a cell of a table or anywhere in its bytes."""
    found = []
    for key, body in sorted(store._objects.items()):
        told = [key, body.decode(errors="replace")]
        if key.endswith(".parquet"):
            told += [str(column) for column in pl.read_parquet(io.BytesIO(body)).to_dict(as_series=False).values()]
        if any(text in one for one in told):
            found.append(key)
    return found
