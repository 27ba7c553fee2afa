"""Small behaviour logs for tests: a source in memory whose every day, row and item a test can bend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa

from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day
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
        "event_time": midnight + timedelta(minutes=n % 1440),
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
