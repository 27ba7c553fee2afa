"""Without an adapter the service's own feedback is the source: each event once, late ones later, nothing hashed twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tasks.adapters.erasures import ERASED
from tasks.adapters.partitions import landed_days, read_landed_manifest, read_partition
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import parquet_bytes
from tasks.domain.behaviour import next_day, pseudonym
from tasks.domain.errors import InputRejected
from tasks.domain.requests import Feedback as Sent
from tasks.domain.requests import FeedbackEvent
from tasks.ingest import ingest
from tasks.run import read_manifest, run
from tasks.serving.events import event_rows
from tasks.serving.rings import Slate
from tasks.serving.upload import by_day, parquet_of
from tasks.settings import Settings
from tasks.sources.feedback import ITEMS, Feedback
from tasks.steps import STEPS
from tests.behaviour_builders import (
    KEY,
    KEY_ID,
    TinySource,
    a_day,
    events_table,
    holders,
    items_table,
)
from tests.erasure_builders import ask

DAY, NEXT, TODAY = "2026-11-20", "2026-11-21", "2026-11-22"
RELEASE = "ab" * 32
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ANNA = pseudonym("anna", KEY)


def said(request: str, *items: str, at: datetime = NOON, user: str = ANNA) -> list[dict]:
    events = [FeedbackEvent(item, "click", event_time=at + timedelta(seconds=n)) for n, item in enumerate(items)]
    return event_rows(Sent(request, events), Slate("recommendation", None, user, list(items)), None, at)


def upload(store, rows, segment="00000", release=RELEASE, replica="r1-0badcafe") -> None:
    """As tasks/serving/upload.py does."""
    for day, of_day in by_day(rows).items():
        store.put_new(f"feedback/dt={day}/{release[:12]}-{replica}-{segment}.parquet", parquet_of(of_day))


def a_store() -> MemoryStore:
    store = MemoryStore()
    store.put_new(ITEMS, parquet_bytes(items_table()))
    told = {"key_id": KEY_ID, "view": "0" * 64}
    store.put_new(f"releases/{RELEASE}/release/release.json", json.dumps(told).encode())
    store.put_new(f"releases/{RELEASE}.json", b"{}")
    return store


def land(store, day, today=TODAY):
    return ingest(Feedback(store, day, KEY_ID, today), store, day, KEY, KEY_ID)


def ids(store, day) -> list[str]:
    return sorted(read_partition(store, day).events["item_id"].to_pylist())


def test_feedback_of_a_day_becomes_its_partition_and_users_are_not_hashed_again():
    store = a_store()
    upload(store, said("one", "item-1", "item-2"))
    upload(store, said("two", "item-3"), "00001")
    summary = land(store, DAY)
    assert (summary["rows"], summary["landed"], summary["users"]) == (3, 1, None)
    partition = read_partition(store, DAY)
    assert set(partition.events["user_id"].to_pylist()) == {ANNA}
    assert partition.events["request_id"].to_pylist().count("one") == 2
    assert (partition.plan.num_rows, partition.manifest.source) == (0, "feedback")


def test_an_event_that_was_sent_twice_counts_once_within_a_day_and_across_days():
    store = a_store()
    upload(store, said("one", "item-1"))
    upload(store, said("one", "item-1", "item-2"), "00001")
    land(store, DAY)
    assert ids(store, DAY) == ["item-1", "item-2"]
    upload(store, said("one", "item-1"), "00002")
    upload(store, said("two", "item-4", at=NOON + timedelta(days=1)), "00003")
    land(store, NEXT)
    assert ids(store, NEXT) == ["item-4"]


def test_what_arrives_after_its_day_was_landed_goes_to_the_next_and_is_counted():
    store = a_store()
    upload(store, said("one", "item-1"))
    land(store, DAY)
    before = store.get(f"behaviour/dt={DAY}/manifest.json")
    upload(store, said("late", "item-2"), "00001")
    assert land(store, DAY)["landed"] == 0, "the day goes on growing, and a landed day never changes: no Conflict"
    summary = land(store, NEXT)
    assert (summary["rows"], summary["late_rows"]) == (1, 1)
    assert ids(store, NEXT) == ["item-2"] and store.get(f"behaviour/dt={DAY}/manifest.json") == before
    assert land(store, next_day(NEXT), "2026-11-23")["rows"] == 0, "late rows are landed once"


def test_days_that_were_missed_are_landed_too_but_no_month_of_empty_ones():
    store = a_store()
    upload(store, said("old", "item-1", at=NOON - timedelta(days=5)))
    upload(store, said("clock", "item-2", at=datetime(1999, 1, 1, tzinfo=UTC)), "00001")
    upload(store, said("ahead", "item-3", at=NOON + timedelta(days=60)), "00002")
    summary = land(store, DAY)
    assert (summary["first"], summary["landed"], summary["rows"]) == ("2026-11-15", 6, 1)
    far = land(store, "2027-06-01", "2027-06-02")
    assert far["landed"] == 30 and landed_days(store)[-1] == "2027-06-01"


def test_two_copies_of_the_task_that_saw_different_feedback_agree_on_the_first_one():
    store = a_store()
    upload(store, said("one", "item-1"))
    source = Feedback(store, DAY, KEY_ID, TODAY)

    class Growing(MemoryStore):
        def put_new(self, key, content):
            if key == f"behaviour/dt={DAY}/manifest.json" and not store.exists(key):
                upload(store, said("two", "item-2"), "00001")
                ingest(Feedback(store, DAY, KEY_ID, TODAY), store, DAY, KEY, KEY_ID)
            super().put_new(key, content)

    twin = Growing()
    twin._objects = store._objects
    assert ingest(source, twin, DAY, KEY, KEY_ID)["rows"] == 2
    assert ids(store, DAY) == ["item-1", "item-2"]


def test_without_an_item_table_it_says_where_to_put_one_and_takes_the_newest_that_was_landed():
    store = a_store()
    upload(store, said("one", "item-1"))
    store.delete(ITEMS)
    with pytest.raises(InputRejected, match=r"no item table: put one at memory://catalogue/items\.parquet"):
        land(store, DAY)
    assert landed_days(store) == []
    ingest(TinySource(), store, "2017-01-01", KEY, KEY_ID)
    land(store, DAY)
    catalogue = [read_landed_manifest(store, day).catalogue for day in ("2017-01-01", DAY)]
    assert catalogue[0] == catalogue[1]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda store: upload(store, said("x", "item-1", user="raw-anna"), "9"), "was not written by the service"),
        (
            lambda store: store.put_new(f"feedback/dt={DAY}/mine.parquet", parquet_bytes(events_table([]))),
            "not written by",
        ),
        (lambda store: store.put_new(f"feedback/dt={DAY}/{'a' * 12}-1.parquet", b"PAR1"), "no readable Parquet file"),
        (
            lambda store: store.put_new(
                f"feedback/dt={DAY}/{'a' * 12}-1.parquet", parquet_bytes(events_table(a_day()).drop_columns("item_id"))
            ),
            "column item_id is missing",
        ),
        (
            lambda store: store.replace(f"releases/{RELEASE}/release/release.json", b'{"key_id": "k-old"}'),
            "was hashed with key k-old, this stack has key k-test",
        ),
        (lambda store: store.replace(ITEMS, b"PAR1"), r"catalogue/items\.parquet is no readable Parquet file"),
    ],
)
def test_what_the_service_did_not_write_is_refused_by_its_name_and_nothing_is_landed(spoil, sentence):
    store = a_store()
    upload(store, said("one", "item-1"))
    spoil(store)
    with pytest.raises(InputRejected, match=sentence) as refusal:
        land(store, DAY)
    assert landed_days(store) == [] and "raw-anna" not in str(refusal.value)


def test_a_release_that_is_not_published_any_more_does_not_stop_its_feedback():
    store = a_store()
    upload(store, said("one", "item-1"), release="cd" * 32)
    assert land(store, DAY)["rows"] == 1


@pytest.mark.parametrize("day", [TODAY, "2026-11-23"])
def test_a_day_that_is_not_over_is_refused(day):
    with pytest.raises(InputRejected, match=f"{day} is not over"):
        Feedback(a_store(), day, KEY_ID, TODAY)


def test_an_erased_user_who_goes_on_using_the_service_is_left_out_at_the_door():
    store = a_store()
    ask(store, ANNA)
    store.put_new(f"{store.list(ERASED)[0].removesuffix('.json')}.done.json", b"{}")
    upload(store, said("one", "item-1") + said("two", "item-2", user="b" * 64))
    summary = land(store, DAY)
    assert (summary["rows"], summary["erased_rows"]) == (1, 1)
    assert [key for key in holders(store, ANNA) if key.startswith("behaviour/")] == []


def test_the_step_lands_feedback_where_the_setting_names_no_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.run.MIN_FREE_BYTES", 0)
    store, settings = a_store(), Settings(home=tmp_path, source="none")
    told = {"key_id": settings.secrets.pseudonym_key_id}
    store.replace(f"releases/{RELEASE}/release/release.json", json.dumps(told).encode())
    upload(store, said("one", "item-1", at=datetime(2017, 1, 2, 8, tzinfo=UTC)))
    uri = run(STEPS["ingest"], "2017-01-02", {}, settings, store=store)
    assert read_manifest(store, uri).summary["rows"] == 1
