"""Feedback reaches the real object store as Parquet of the event contract, and waits on disk while there is none."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.adapters.store import S3Store
from tasks.domain.contract import EVENT
from tasks.domain.requests import Feedback, FeedbackEvent
from tasks.serving.events import event_rows
from tasks.serving.feedback import Spool
from tasks.serving.metrics import Metrics
from tasks.serving.rings import Slate
from tasks.settings import Settings

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
RELEASE = "d" * 64


def keep(spool: Spool, request_id: str) -> None:
    events = [FeedbackEvent("item-001", "purchase", value=1.5), FeedbackEvent("item-002", "click")]
    slate = Slate("recommendation", None, "ab" * 32, ["item-001", "x", "y", "z", "item-002"])
    spool.append_and_wait(event_rows(Feedback(request_id, events), slate, None, NOON))


def write_config(path: Path, settings: Settings, endpoint: str) -> Path:
    path.write_text(
        json.dumps(
            {
                "bucket": settings.store_bucket,
                "endpoint": endpoint,
                "access_key": settings.secrets.store_access_key,
                "secret_key": settings.secrets.store_secret_key,
                "timeout_s": 2,
            }
        )
    )
    return path


@pytest.fixture
def bucket(store_settings: Settings) -> S3Store:
    store = S3Store(store_settings)
    store.create_bucket()
    for key in store.list("feedback/"):
        store.delete(key)
    return store


def test_what_one_process_could_not_upload_the_next_one_does(
    bucket: S3Store, store_settings: Settings, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "store.json", store_settings, "http://127.0.0.1:1")
    lost = Spool(tmp_path / "spool", RELEASE, "r1", Metrics(RELEASE, "r1"), config)
    keep(lost, "first")
    lost.close()
    assert bucket.list("feedback/") == []
    assert list((tmp_path / "spool").rglob("*.jsonl")), "without a store it stays on disk"

    write_config(config, store_settings, store_settings.url("store"))
    spool = Spool(tmp_path / "spool", RELEASE, "r2", Metrics(RELEASE, "r2"), config)
    keep(spool, "second")
    spool.close()
    keys = bucket.list("feedback/")
    assert len(keys) == 2
    assert all(key.startswith(f"feedback/dt=2026-01-05/{RELEASE[:12]}-r") for key in keys)
    assert list((tmp_path / "spool").rglob("*.jsonl")) == []
    tables = [pq.read_table(io.BytesIO(bucket.get(key))) for key in keys]
    assert {row["request_id"] for table in tables for row in table.to_pylist()} == {"first", "second"}
    assert all(tuple(table.schema.names) == (*EVENT.names, "release", "score") for table in tables)
    bought = next(row for row in tables[0].to_pylist() if row["event_type"] == "purchase")
    assert (bought["position"], bought["value"], bought["event_time"]) == (0, 1.5, NOON)
