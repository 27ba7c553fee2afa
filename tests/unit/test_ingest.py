"""Landing days: whole or absent, once and for all, and no raw id comes out."""

from __future__ import annotations

import logging

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.partitions import (
    content_digest,
    landed_days,
    landed_key,
    read_catalogue,
    read_landed_manifest,
    read_partition,
)
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import pseudonym, session_pseudonym
from tasks.domain.errors import Conflict, InputRejected
from tasks.ingest import ingest
from tests.behaviour_builders import (
    FIRST,
    KEY,
    KEY_ID,
    CrashingStore,
    TinySource,
    a_day,
    an_event,
    events_frame,
    events_table,
    items_table,
)

THIRD = "2017-01-03"


def land(source=None, store=None, through=FIRST, key_id=KEY_ID):
    store = MemoryStore() if store is None else store
    return ingest(source or TinySource(), store, through, KEY, key_id), store


def test_missing_days_are_landed_in_order_and_read_back_as_they_came():
    summary, store = land(through=THIRD)
    assert (summary["landed"], summary["first"], summary["rows"]) == (3, FIRST, 450)
    assert landed_days(store) == ["2017-01-01", "2017-01-02", THIRD]
    partition = read_partition(store, THIRD)
    assert partition.events.column("event_id").to_pylist() == [row["event_id"] for row in a_day(THIRD)]
    assert read_catalogue(store, partition.manifest.catalogue).num_rows == 20


def test_user_and_session_ids_become_pseudonyms_of_their_own_kind():
    _, store = land()
    row = read_partition(store, FIRST).events.to_pylist()[0]
    assert row["user_id"] == pseudonym("user-0", KEY)
    assert row["session_id"] == session_pseudonym("basket-0", KEY)
    assert pseudonym("7", KEY) != session_pseudonym("7", KEY) != pseudonym("7", bytes(32))


def test_a_blank_user_id_is_no_user():
    source = TinySource()
    source.replaced[FIRST] = events_table([an_event(0, user_id=" ", session_id=""), an_event(1, user_id=None)])
    _, store = land(source)
    assert read_partition(store, FIRST).events.column("user_id").to_pylist() == [None, None]


def test_landing_the_same_day_again_changes_nothing():
    _, store = land(through=THIRD)
    before = dict(store._objects)
    summary, _ = land(store=store, through=THIRD)
    assert summary["landed"] == 0
    assert store._objects == before


def test_a_day_whose_content_changed_is_a_conflict_and_stays_as_it_was():
    _, store = land()
    before = dict(store._objects)
    source = TinySource()
    source.replaced[FIRST] = events_table(a_day(value=99.0))
    with pytest.raises(Conflict, match="nothing was overwritten"):
        land(source, store)
    assert store._objects == before


@pytest.mark.parametrize("part", ["plan", "items"])
def test_another_plan_or_item_table_makes_another_day(part):
    _, store = land()
    source = TinySource()
    if part == "plan":
        source.plans[FIRST] = source.plan(FIRST).slice(1)
    else:
        source.item_table = items_table(title="Another")
    with pytest.raises(Conflict):
        land(source, store)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(30)))
def test_the_digest_of_a_day_does_not_depend_on_the_order_of_its_rows(order):
    source, rows = TinySource(), a_day(rows=30)
    source.replaced[FIRST] = events_table(rows)
    _, store = land(source)
    source.replaced[FIRST] = events_table([rows[n] for n in order])
    before = dict(store._objects)
    land(source, store)  # no Conflict: the same day
    assert store._objects == before


@given(a=st.one_of(st.none(), st.text(max_size=3)), b=st.one_of(st.none(), st.text(max_size=3)))
def test_two_rows_have_one_digest_only_if_they_are_equal(a, b):
    digests = [
        content_digest(pl.DataFrame({"k": ["1", "2"], "v": [x, "z"]}, schema={"k": pl.String, "v": pl.String}), "k")
        for x in (a, b)
    ]
    assert (digests[0] == digests[1]) == (a == b)


def writes_of_two_days() -> int:
    store = CrashingStore(10**6)
    land(store=store, through="2017-01-02")
    return 10**6 - store.left


def test_killed_after_any_write_readers_see_whole_days_only_and_a_rerun_finishes():
    total = writes_of_two_days()
    assert total == 7  # item table, then events, plan, manifest of each day
    _, whole = land(through="2017-01-02")
    for writes in range(total):
        store = CrashingStore(writes)
        with pytest.raises(KeyboardInterrupt):
            land(store=store, through="2017-01-02")
        seen = landed_days(store)
        assert seen == (["2017-01-01"] if writes >= 4 else [])
        for day in seen:
            assert read_partition(store, day).events.num_rows == 150
        store.left = 10**6
        land(store=store, through="2017-01-02")
        assert store._objects == whole._objects


def test_a_crashed_attempt_with_other_content_does_not_block_the_day():
    """Its files were never named by a manifest, so another attempt may write its own beside them."""
    store, source = CrashingStore(2), TinySource()
    source.replaced[FIRST] = events_table(a_day(value=1.0))
    with pytest.raises(KeyboardInterrupt):
        land(source, store)
    store.left = 10**6
    land(store=store)
    assert read_partition(store, FIRST).events.column("value").to_pylist()[0] == 2.0


def test_late_rows_are_counted_and_earlier_days_stay():
    source = TinySource()
    _, store = land(source)
    before = store.get(landed_key(FIRST))
    source.replaced["2017-01-02"] = events_table([*a_day("2017-01-02"), an_event(9999)])
    summary, _ = land(source, store, "2017-01-02")
    assert summary["late_rows"] == 1
    assert store.get(landed_key(FIRST)) == before


def test_a_day_without_events_is_landed_as_an_empty_partition():
    source = TinySource()
    source.replaced[FIRST] = events_table([])
    summary, store = land(source)
    assert summary["empty"] == [FIRST]
    assert read_partition(store, FIRST).events.num_rows == 0


@pytest.mark.parametrize(
    ("day", "sentence"),
    [
        ("2017-02-10", "Tiny Log ends on 2017-02-09; there is no 2017-02-10"),
        ("2016-12-31", "Tiny Log begins on 2017-01-01"),
        ("../../etc", "is not a day"),
        ("2017-01-01\0", "is not a day"),
        ("2017-1-1", "is not a day"),
    ],
)
def test_a_day_that_cannot_be_is_refused_in_one_sentence(day, sentence):
    store = MemoryStore()
    with pytest.raises(InputRejected, match=sentence):
        land(store=store, through=day)
    assert not store._objects


@pytest.mark.parametrize("column", ["event_id", "event_time", "user_id", "item_id", "event_type", "surface"])
def test_a_missing_column_is_named(column):
    source, store = TinySource(), MemoryStore()
    source.replaced[FIRST] = events_table(a_day()).drop_columns([column])
    with pytest.raises(InputRejected, match=f"column {column} is missing"):
        land(source, store)
    assert landed_days(store) == []


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("value", pa.array(["secret-value"] * 150)),
        ("user_id", pa.array([7] * 150)),
        ("event_time", pa.array(["2017-01-01"] * 150)),
        ("event_time", pa.array([0] * 150, pa.timestamp("us"))),  # no zone: no telling which hour it was
        ("position", pa.array([0.5] * 150)),
        ("position", pa.array([2**40] * 150)),
    ],
)
def test_a_wrong_type_is_named_and_no_value_is_quoted(column, values):
    source = TinySource()
    table = events_table(a_day())
    source.replaced[FIRST] = table.set_column(table.column_names.index(column), column, values)
    with pytest.raises(InputRejected, match=f"column {column}") as refusal:
        land(source)
    assert "secret-value" not in str(refusal.value) and str(2**40) not in str(refusal.value)


def test_optional_columns_may_be_absent_and_surplus_columns_are_left_out_by_name():
    source = TinySource()
    table = events_table(a_day()).drop_columns(["quantity", "store_id", "query"])
    source.replaced[FIRST] = table.append_column("phone_number", pa.array(["555"] * 150))
    summary, store = land(source)
    assert summary["ignored_columns"] == ["phone_number"]
    stored = read_partition(store, FIRST).events
    assert "phone_number" not in stored.column_names and stored.column("quantity").null_count == 150


def test_another_pseudonym_key_is_refused_before_anything_is_written():
    _, store = land()
    with pytest.raises(InputRejected, match="pseudonymised with key k-test, this stack has key k-other"):
        land(store=store, through=THIRD, key_id="k-other")
    assert landed_days(store) == [FIRST]


def test_no_raw_id_leaves_ingest(caplog):
    caplog.set_level(logging.DEBUG)
    user, basket = "RAWUSER-8d1f", "RAWBASKET-77ac"
    source = TinySource()
    source.replaced[FIRST] = events_table(a_day(user_id=user, session_id=basket))
    summary, store = land(source)
    assert read_partition(store, FIRST).events.num_rows == 150
    cells = [str(read_partition(store, FIRST).events.to_pylist()), str(read_landed_manifest(store, FIRST))]
    everything = [*cells, str(summary), caplog.text, *map(repr, store._objects), *map(repr, store._objects.values())]
    assert any(pseudonym(user, KEY) in text for text in everything)  # the search would find what is there
    for raw in (user, basket):
        assert not [text[:80] for text in everything if raw in text]


def test_rows_arrive_sorted_by_event_id_not_by_pseudonym():
    source = TinySource()
    source.replaced[FIRST] = events_table(list(reversed(a_day())))
    _, store = land(source)
    ids = read_partition(store, FIRST).events.column("event_id").to_pylist()
    assert ids == sorted(ids)
    assert events_frame(a_day())["event_id"].to_list() == ids
