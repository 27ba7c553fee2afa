"""Three landed days, two of them judged, and two users whom tests erase from them."""

from __future__ import annotations

import pyarrow as pa

from tasks.adapters.erasures import ERASED
from tasks.adapters.partitions import (
    accepted_days,
    landed_days,
    read_accepted_events,
    read_accepted_manifest,
    read_caught,
    read_partition,
    read_users,
)
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day, pseudonym
from tasks.domain.erasure import Erasure, Tainted, erasure_id
from tasks.ingest import ingest
from tests.behaviour_builders import FIRST, KEY, KEY_ID, TinySource, a_day, accept, events_table

SECOND, THIRD = next_day(FIRST), next_day(FIRST, 2)
ANNA, BERT = pseudonym("user-7", KEY), pseudonym("user-8", KEY)
CAUGHT = {0: "duplicate", 7: "duplicate,unknown_item", 8: "unknown_item", 50: "stale"}  # rows 7 and 57 are Anna's
MARKED = {7: "late", 20: "late", 57: "late", 140: "late"}


def a_source() -> TinySource:
    """Three days of 25 users; the second is Anna's day off. What the source knows of users is one table."""
    source = TinySource()
    source.replaced[SECOND] = events_table([row for row in a_day(SECOND) if row["user_id"] != "user-7"])
    source.user_table = pa.table({"user_id": [f"user-{n}" for n in range(25)], "age": ["45-54"] * 25})
    return source


def a_store(source=None) -> MemoryStore:
    store = MemoryStore()
    ingest(source or a_source(), store, THIRD, KEY, KEY_ID)
    for day in (FIRST, SECOND):
        accept(store, day, CAUGHT, MARKED)
    return store


def ask(store, *users):
    """What the command writes before anything changes."""
    for user in users:
        record = Erasure(pseudonym=user, when="w", actor="a", reason="r", days={}, tainted=Tainted())
        store.put_new(f"{ERASED}{erasure_id(user)}.json", record.model_dump_json().encode())


def days_of(store) -> dict:
    """Everything that readers see, by day."""
    seen = {}
    for day in landed_days(store):
        partition = read_partition(store, day)
        users = read_users(store, partition.manifest.users)
        seen[day] = [partition.events.to_pylist(), partition.plan.to_pylist(), sorted(map(str, users.to_pylist()))]
    for day in accepted_days(store):
        caught = read_caught(store, read_accepted_manifest(store, day))
        seen[day] += [read_accepted_events(store, day).to_pylist(), caught.to_pylist()]
    return seen
