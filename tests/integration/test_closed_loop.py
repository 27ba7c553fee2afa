"""Serve -> feedback -> the day's partition -> training rows: every row below was written by the service or made of that.

Only the clock is moved: a week of requests and purchases, then the steps of the refresh on what was landed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.ranker.fast_path import FastPath
from tasks.adapters.accepted_days import fetch_accepted
from tasks.adapters.partitions import read_partition
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import parquet_bytes
from tasks.conform import frame_of
from tasks.domain.behaviour import pseudonym
from tasks.ingest import ingest
from tasks.ranker.arrays import epoch_day
from tasks.ranker.build import StateBuilder
from tasks.ranker.log import Plans, read_log
from tasks.ranker.rows import Sampling, training_rows
from tasks.ranker.shown import read_shown
from tasks.serving import replica as serving
from tasks.serving.upload import by_day, parquet_of, read_segment, sealed_segments
from tasks.sources.feedback import ITEMS, Feedback
from tasks.validate_data import load_policy, validate_data
from tests.behaviour_builders import items_table
from tests.ranker_builders import texts_of
from tests.serving_builders import ITEMS as CATALOGUE
from tests.serving_builders import PSEUDONYM_KEY, USERS, a_release, write_secrets

FIRST, DAYS, K = datetime(2026, 11, 2, 9, tzinfo=UTC), 7, 10
KEY = bytes.fromhex(PSEUDONYM_KEY)
IDS = [f"item-{n:03d}" for n in range(CATALOGUE)]


@dataclass
class Served:
    """What callers saw and sent, to be held against what training reads."""

    slates: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    answers: dict[str, set[str]] = field(default_factory=dict)  # request -> what was bought of it


def day_of(n: int) -> str:
    return (FIRST + timedelta(days=n)).date().isoformat()


async def shop(replica: serving.Replica, set_clock: Callable[[datetime], None]) -> Served:
    """Each household asks once a day, buys three or four of what it was shown, and says so an hour later."""
    served, rng = Served(), np.random.default_rng(4)
    transport = httpx.ASGITransport(FastPath(replica))
    async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:

        async def post(path: str, body: Any, **headers: str) -> Any:
            headers["content-type"] = "application/json"
            reply = await client.post(path, content=json.dumps(body), headers=headers)
            assert reply.is_success, reply.text
            return reply.json()

        for n in range(DAYS):
            for user in range(USERS):
                now = FIRST + timedelta(days=n, minutes=37 * user, seconds=int(rng.integers(1_800)))
                set_clock(now)
                request = f"day-{n}-user-{user}"
                told = await post("/recommend", {"user_id": f"user-{user}", "k": K}, **{"x-request-id": request})
                served.slates[request] = [(item["item_id"], item["score"]) for item in told["items"]]
                places = rng.choice(K, rng.integers(3, 5), replace=False).tolist()
                served.answers[request] = {served.slates[request][place][0] for place in places}
                events = [
                    {
                        "item_id": item,
                        "event_type": "purchase",
                        "value": 1.0 + int(item[-3:]) % 9,
                        "event_time": (now + timedelta(minutes=60 + place)).isoformat(),
                    }
                    for place, item in enumerate(sorted(served.answers[request]))
                ]
                set_clock(now + timedelta(minutes=70))
                assert (await post("/feedback", {"request_id": request, "events": events}))["joined"]
    return served


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Served, MemoryStore, str]:
    """(what callers saw, the store with what was uploaded, the release)"""
    root = tmp_path_factory.mktemp("loop")
    src, view = a_release(root)
    replica = serving.Replica(
        serving.ReplicaOptions(
            src, "r1", view=view, secrets=write_secrets(root / "secrets.json"), spool=root / "spool", deadline_ms=60_000
        )
    )
    replica.load()
    clock = [FIRST]

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return clock[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "datetime", Moved)
        served = asyncio.run(shop(replica, lambda now: clock.__setitem__(0, now)))
    digest = replica.digest
    replica.close()
    store = MemoryStore()
    store.put_new(ITEMS, parquet_bytes(items_table(IDS)))
    for segment in sealed_segments(root / "spool", "", 0):
        for day, rows in by_day(read_segment(segment)).items():
            store.put_new(f"feedback/dt={day}/{segment.stem}.parquet", parquet_of(rows))
    return served, store, digest


def test_every_served_list_is_landed_with_its_release_places_and_scores(
    loop: tuple[Served, MemoryStore, str],
) -> None:
    served, store, release = loop
    tables = [pq.read_table(pa.BufferReader(store.get(key))) for key in store.list("feedback/")]
    events = pl.concat([frame_of(table) for table in tables])
    shown = events.filter(pl.col("event_type") == "impression").sort("request_id", "position")
    assert len(shown) == DAYS * USERS * K
    assert set(shown["release"]) == {release}
    for (request,), rows in shown.group_by("request_id"):
        rows = rows.sort("position")
        assert list(zip(rows["item_id"], rows["score"], strict=True)) == served.slates[str(request)]
        user = str(request).rsplit("-", 1)[1]
        assert set(rows["user_id"]) == {pseudonym(f"user-{user}", KEY)}


def test_what_was_served_and_answered_is_what_the_next_model_is_trained_on(
    loop: tuple[Served, MemoryStore, str], tmp_path: Path
) -> None:
    served, store, _ = loop
    last = day_of(DAYS - 1)
    ingest(Feedback(store, last, "k1", day_of(DAYS)), store, last, KEY, "k1")
    days = [day_of(n) for n in range(DAYS)]
    assert read_partition(store, days[0]).manifest.source == "feedback"
    summary = validate_data(days, store, load_policy(), tmp_path / "report")
    assert summary["verdict"] == "pass", json.dumps(summary["days"], default=str)
    accepted = fetch_accepted(store, last, tmp_path / "accepted")
    log = read_log(accepted.events, accepted.catalogue, ("purchase",))
    shown, left_out = read_shown(accepted.events, log, 0)
    nobody_bought = left_out.pop("impressions_of_unknown_users_or_items")  # such an item cannot be ranked yet
    assert set(left_out.values()) == {0} and nobody_bought < len(shown.item) // 10, (left_out, nobody_bought)

    builder = StateBuilder(log, Plans({}), np.arange(len(log.user_ids), dtype=np.int32), texts_of(log), shown=shown)
    digests = np.arange(len(log.items.ids) * 16, dtype=np.uint8).reshape(-1, 16)
    day = epoch_day(last)
    rows = training_rows(builder, day, digests, Sampling(1, 1, 0, 1, slates="shown"))
    catalogue = {builder.items(day)[0].ids[row] for row in range(builder.items(day)[0].size)}
    wanted = [  # the part of each list that this morning's catalogue holds, where it was answered in part
        ([item in bought for item, _ in slate if item in catalogue])
        for slate, bought in (
            (served.slates[f"day-{DAYS - 1}-user-{user}"], served.answers[f"day-{DAYS - 1}-user-{user}"])
            for user in range(USERS)
        )
    ]
    wanted = [labels for labels in wanted if 0 < sum(labels) < len(labels)]
    found = [rows.label[a:b].tolist() for a, b in zip(rows.ptr[:-1], rows.ptr[1:], strict=True)]
    assert len(found) > USERS // 2
    assert sorted(found) == sorted([int(label) for label in labels] for labels in wanted)
    assert np.isfinite(rows.x.astype(np.float32)).all()
