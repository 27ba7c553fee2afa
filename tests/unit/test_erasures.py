"""Leaving users out of landed and accepted days: whole days at every moment, the same end whatever happens on the way."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.erasures import ERASED, find, leave_out
from tasks.adapters.partitions import (
    landed_days,
    landed_key,
    read_accepted_events,
    read_accepted_manifest,
    read_caught,
    read_landed_manifest,
    read_partition,
)
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day, pseudonym
from tasks.domain.erasure import erasure_id
from tasks.domain.errors import InputRejected
from tasks.ingest import ingest
from tests.behaviour_builders import (
    FIRST,
    KEY,
    KEY_ID,
    TinySource,
    a_day,
    accept,
    an_event,
    events_table,
    holders,
)
from tests.erasure_builders import ANNA, BERT, CAUGHT, MARKED, SECOND, THIRD, a_source, a_store, ask


def without_user(store, user) -> list:
    return [row for row in read_accepted_events(store, FIRST).to_pylist() if row["user_id"] != user]


def test_a_day_without_the_user_is_the_next_revision_and_the_bytes_before_are_gone():
    store = a_store()
    before = {day: read_landed_manifest(store, day) for day in landed_days(store)}
    assert len(holders(store, ANNA)) == 4, "two event files, one table of caught rows, the user table"
    ask(store, ANNA)
    gone = leave_out(store, {ANNA})
    assert holders(store, ANNA) == [f"{ERASED}{erasure_id(ANNA)}.json"]
    for day, rows in ((FIRST, 6), (SECOND, 0), (THIRD, 6)):
        manifest = read_landed_manifest(store, day)
        assert (manifest.revision, manifest.erased_rows) == (2, rows)
        assert manifest.rows == before[day].rows - rows == read_partition(store, day).events.num_rows
        assert manifest.digest != before[day].digest
        assert read_landed_manifest(store, day, 1) == before[day], "its manifest stays, as a tombstone"
        assert store.exists(landed_key(day, before[day].file("events").name)) == (rows == 0)
    assert len(gone) == 4


def test_the_digest_is_that_of_a_source_that_never_had_the_user():
    store, source = a_store(), a_source()
    ask(store, ANNA)
    leave_out(store, {ANNA})
    for day in (FIRST, SECOND, THIRD):
        rows = [row for row in source.events(day).to_pylist() if row["user_id"] != "user-7"]
        source.replaced[day] = events_table(rows)
    source.user_table = source.user_table.filter(pa.array([n != 7 for n in range(25)]))
    other = a_store(source)
    digests = [[read_landed_manifest(one, day).digest for day in landed_days(one)] for one in (store, other)]
    assert digests[0] == digests[1]


def test_the_accepted_day_keeps_its_verdict_its_caught_rows_and_their_places():
    store = a_store()
    expected = without_user(store, ANNA)
    leave_out(store, {ANNA})
    manifest, events = read_accepted_manifest(store, FIRST), read_partition(store, FIRST).events
    assert read_accepted_events(store, FIRST).to_pylist() == expected
    caught = read_caught(store, manifest).to_pylist()
    assert [row["row"] for row in caught] == [0, 7, 19, 48, 134]
    assert all(events["event_id"][row["row"]].as_py() == row["event_id"] for row in caught)
    assert manifest.quarantined == {"duplicate": 1, "stale": 1, "unknown_item": 1}
    assert manifest.marked == {"late": 2}
    assert (manifest.rows, manifest.landed_rows) == (len(expected), 144)
    assert (manifest.revision, manifest.landed_revision, manifest.verdict) == (2, 2, "pass")
    assert manifest.partition_digest == read_landed_manifest(store, FIRST).digest


def test_a_day_that_was_judged_on_an_old_revision_follows_through_all_later_ones():
    """validate_data read revision 1, two users were erased meanwhile, then it published: the bytes are gone by then."""
    store = MemoryStore()
    ingest(a_source(), store, FIRST, KEY, KEY_ID)
    late = MemoryStore()
    late._objects.update(store._objects)
    accept(late, FIRST, CAUGHT, MARKED)
    ask(store, ANNA)
    leave_out(store, {ANNA})
    ask(store, BERT)
    leave_out(store, {ANNA, BERT})
    for key in late.list("accepted/"):
        store.put_new(key, late.get(key))
    ingest(a_source(), store, FIRST, KEY, KEY_ID)
    caught = read_caught(store, read_accepted_manifest(store, FIRST)).to_pylist()
    events = read_partition(store, FIRST).events
    assert [row["event_id"][-5:] for row in caught] == ["00000", "00020", "00050", "00140"]
    assert all(events["event_id"][row["row"]].as_py() == row["event_id"] for row in caught)


@settings(max_examples=20, deadline=None)
@given(
    erased=st.lists(st.sampled_from([f"user-{n}" for n in range(5)]), min_size=1, max_size=5, unique=True),
    rules=st.dictionaries(st.integers(0, 29), st.sampled_from(["a", "a,b", "c"])),
    marks=st.dictionaries(st.integers(0, 29), st.sampled_from(["x", "x,y"])),
)
def test_whoever_is_erased_one_by_one_the_other_accepted_and_caught_rows_stay(erased, rules, marks):
    source, store = TinySource(), MemoryStore()
    source.replaced[FIRST] = events_table([an_event(n, user_id=f"user-{n % 5}") for n in range(30)])
    ingest(source, store, FIRST, KEY, KEY_ID)
    accept(store, FIRST, rules, marks)
    users = [pseudonym(user, KEY) for user in erased]
    expected = [row for row in read_accepted_events(store, FIRST).to_pylist() if row["user_id"] not in users]
    before = read_caught(store, read_accepted_manifest(store, FIRST)).drop_columns("row").to_pylist()
    for n in range(len(users)):
        leave_out(store, users[: n + 1])
    assert read_accepted_events(store, FIRST).to_pylist() == expected
    after = read_caught(store, read_accepted_manifest(store, FIRST)).drop_columns("row").to_pylist()
    assert after == [row for row in before if row["user_id"] not in users]


def test_erasing_again_changes_nothing():
    store = a_store()
    leave_out(store, {ANNA})
    before = dict(store._objects)
    assert leave_out(store, {ANNA}) == []
    assert store._objects == before


def test_rows_of_an_erased_user_are_left_out_at_the_door_late_and_sent_again_and_counted():
    store, source = a_store(), a_source()
    ask(store, ANNA)
    leave_out(store, {ANNA})
    fourth = next_day(FIRST, 3)
    late = [an_event(7007, FIRST, user_id="user-7"), an_event(7008, FIRST, user_id="user-9")]
    source.replaced[fourth] = events_table([*a_day(fourth), *late])
    summary = ingest(source, store, fourth, KEY, KEY_ID)
    assert (summary["erased_rows"], summary["late_rows"], summary["rows"]) == (7, 1, 145)
    assert read_landed_manifest(store, fourth).erased_rows == 7
    before = dict(store._objects)
    ingest(source, store, fourth, KEY, KEY_ID)
    ingest(source, store, THIRD, KEY, KEY_ID)  # the source still has the user: the same day nevertheless, no Conflict
    assert store._objects == before
    assert holders(store, ANNA) == store.list(ERASED)


def test_ingest_goes_on_with_an_erasure_that_was_interrupted():
    store = a_store()
    ask(store, ANNA)
    ingest(a_source(), store, THIRD, KEY, KEY_ID)
    assert holders(store, ANNA) == store.list(ERASED)


def test_what_a_crashed_attempt_left_of_an_erased_user_goes_when_the_day_lands():
    store, whole = MemoryStore(), a_store()
    events = read_landed_manifest(whole, FIRST).file("events").name
    store.put_new(landed_key(FIRST, events), whole.get(landed_key(FIRST, events)))
    ask(store, ANNA)
    ingest(a_source(), store, FIRST, KEY, KEY_ID)
    assert holders(store, ANNA) == store.list(ERASED)


def test_feedback_segments_keep_their_names_and_lose_the_user():
    store = a_store()
    body = store.get(landed_key(FIRST, read_landed_manifest(store, FIRST).file("events").name))
    store.put_new("feedback/dt=2017-01-01/abc-00000.parquet", body)
    store.put_new("feedback/dt=2017-01-01/abc-00001.parquet", b"cut off in the middle")
    with pytest.raises(InputRejected, match=r"abc-00001\.parquet is no readable Parquet file"):
        leave_out(store, {ANNA})
    store.delete("feedback/dt=2017-01-01/abc-00001.parquet")
    leave_out(store, {ANNA})
    assert "feedback/dt=2017-01-01/abc-00000.parquet" in store._objects
    assert holders(store, ANNA) == []


def test_finding_counts_rows_by_day_and_names_the_revisions():
    found = find(a_store(), {ANNA})
    assert {day: (held.rows, held.landed, held.accepted) for day, held in found.days.items()} == {
        FIRST: (6, 1, 1),
        THIRD: (6, 1, None),
    }
    assert found.affected == [FIRST, SECOND, THIRD], "the second day names the user table"


def test_a_day_that_cannot_be_read_stops_the_search_by_its_name():
    store = a_store()
    key = landed_key(FIRST, read_landed_manifest(store, FIRST).file("events").name)
    store.replace(key, b"other")
    with pytest.raises(InputRejected, match=key):
        find(store, {ANNA})


def test_a_record_that_cannot_be_read_stops_ingest():
    store = a_store()
    store.put_new(f"{ERASED}0123.json", b"{}")
    with pytest.raises(InputRejected, match="no record of an erasure .*nothing is landed"):
        ingest(a_source(), store, next_day(FIRST, 3), KEY, KEY_ID)
    assert landed_days(store)[-1] == THIRD
