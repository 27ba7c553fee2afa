"""Landing days: whole or absent, once and for all, and no raw id comes out."""

from __future__ import annotations

import logging

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.partitions import (
    landed_days,
    landed_key,
    read_catalogue,
    read_landed_manifest,
    read_partition,
    read_users,
    users_key,
)
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import content_digest
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
LONG_USER, LONG_SESSION = "RAWUSER-8d1f", "RAWBASKET-77ac"


def not_utf8(rows: int) -> pa.Array:
    """Text as a file in Latin-1 gives it: bytes that are no UTF-8."""
    return pa.array([b"caf\xe9"] * rows).view(pa.string())


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


def a_source_with_users(**columns) -> TinySource:
    source = TinySource()
    ids = [f"user-{n}" for n in range(25)]
    source.user_table = pa.table({"user_id": ids, "age": ["45-54"] * 25, "visits": list(range(25)), **columns})
    return source


def test_killed_after_any_write_readers_see_whole_days_only_and_a_rerun_finishes():
    through, source = "2017-01-02", a_source_with_users()
    whole = CrashingStore(10**6)
    land(source, whole, through)
    total = 10**6 - whole.left
    assert total == 8  # item table and user table, then events, plan, manifest of each day
    for writes in range(total):
        store = CrashingStore(writes)
        with pytest.raises(KeyboardInterrupt):
            land(source, store, through)
        seen = landed_days(store)
        assert seen == (["2017-01-01"] if writes >= 5 else [])
        for day in seen:
            assert read_partition(store, day).events.num_rows == 150
            assert read_users(store, read_landed_manifest(store, day).users).num_rows == 25
        store.left = 10**6
        land(source, store, through)
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
    late = [an_event(9000 + n) for n in range(3)]
    early = [an_event(9100, "2017-01-09")]  # of a day to come: not late, and the rule wrong_day has a word with it
    source.replaced["2017-01-02"] = events_table([*a_day("2017-01-02"), *late, *early])
    summary, _ = land(source, store, "2017-01-02")
    manifest = read_landed_manifest(store, "2017-01-02")
    assert (summary["late_rows"], manifest.late_rows, manifest.rows) == (3, 3, 154)
    assert store.get(landed_key(FIRST)) == before
    assert landed_days(store) == [FIRST, "2017-01-02"]


def test_the_user_table_is_landed_once_under_pseudonyms_and_every_day_names_it():
    summary, store = land(a_source_with_users(), through=THIRD)
    assert summary["users"] == 25
    [key] = store.list("users/")
    assert {users_key(read_landed_manifest(store, day).users) for day in landed_days(store)} == {key}
    users = read_users(store, read_landed_manifest(store, FIRST).users).to_pylist()
    assert {row["user_id"]: row["visits"] for row in users} == {pseudonym(f"user-{n}", KEY): n for n in range(25)}
    assert users[0].keys() == {"user_id", "age", "visits"}


def test_a_source_that_knows_nothing_of_its_users_names_no_table():
    summary, store = land()
    assert (summary["users"], read_landed_manifest(store, FIRST).users, store.list("users/")) == (None, None, [])


def test_another_user_table_makes_another_day():
    _, store = land(a_source_with_users())
    before = dict(store._objects)
    with pytest.raises(Conflict):
        land(a_source_with_users(age=["55-64"] * 25), store)
    assert store._objects == before


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"born": pa.array([0] * 25, pa.timestamp("us", tz="UTC"))}, "further columns are text, bool or numbers"),
        ({"a" * 65: [1] * 25}, "names of up to 64 printable letters"),
        ({"a\nb": [1] * 25}, r"printable letters; .*a\?b"),
        ({f"c{n}": [1] * 25 for n in range(201)}, r"here are 203: .*and 183 more"),
    ],
)
def test_a_user_table_off_the_contract_is_refused(columns, sentence):
    store = MemoryStore()
    with pytest.raises(InputRejected, match=sentence):
        land(a_source_with_users(**columns), store)
    assert not store._objects


def test_a_second_column_with_the_raw_user_id_is_left_out_and_text_that_holds_it_is_rewritten():
    ids = [f"member-{n}" for n in range(25)]
    source = a_source_with_users(
        user_id=ids, copy=ids, mail=[f"{one}@shop" for one in ids], number=[float(n) for n in range(25)]
    )
    summary, store = land(source)
    assert summary["ignored_columns"] == ["users.copy"]
    row = read_users(store, read_landed_manifest(store, FIRST).users).to_pylist()[0]
    assert row["mail"] == f"{row['user_id']}@shop" and "number" in row
    source = a_source_with_users(user_id=[str(n) for n in range(25)], number=[float(n) for n in range(25)])
    summary, _ = land(source)
    assert summary["ignored_columns"] == ["users.number", "users.visits"]


def test_a_raw_id_that_another_column_repeats_is_rewritten_there_too():
    source = TinySource()
    rows = [
        an_event(0, user_id=LONG_USER, session_id=LONG_SESSION, event_id=f"{LONG_USER}/{LONG_SESSION}/1"),
        an_event(1, user_id=LONG_USER, session_id=None, surface="search", query=f"orders of {LONG_USER} please"),
        an_event(2, user_id="7", query="7 apples"),  # too short to tell a repetition from a word
        an_event(3, user_id="another", query="nothing of it"),
    ]
    source.replaced[FIRST] = events_table(rows)
    _, store = land(source)
    stored = {row["item_id"]: row for row in read_partition(store, FIRST).events.to_pylist()}
    user, session = pseudonym(LONG_USER, KEY), session_pseudonym(LONG_SESSION, KEY)
    assert stored["item-0"]["event_id"] == f"{user}/{session}/1"
    assert [stored[f"item-{n}"]["query"] for n in (1, 2, 3)] == [
        f"orders of {user} please",
        "7 apples",
        "nothing of it",
    ]


@pytest.mark.parametrize("us", [-(2**63), 2**63 - 1, -62_135_596_800_000_001, 253_402_300_800_000_000])
def test_a_time_that_no_calendar_has_is_no_time_and_the_rest_of_the_day_is_landed(us):
    source, table = TinySource(), events_table(a_day())
    times = pa.array([us, *table.column("event_time").cast(pa.int64()).to_pylist()[1:]], pa.int64())
    at = table.column_names.index("event_time")
    source.replaced[FIRST] = table.set_column(at, "event_time", times.cast(pa.timestamp("us", tz="UTC")))
    _, store = land(source)
    stored = read_partition(store, FIRST).events.column("event_time")
    assert (len(stored), stored.null_count) == (150, 1)


def test_the_years_1_and_9999_are_times_and_left_to_validation():
    source, table = TinySource(), events_table(a_day(rows=2))
    times = pa.array([-62_135_596_800_000_000, 253_402_300_799_999_999]).cast(pa.timestamp("us", tz="UTC"))
    source.replaced[FIRST] = table.set_column(table.column_names.index("event_time"), "event_time", times)
    summary, store = land(source)
    assert summary["late_rows"] == 1
    assert [time.year for time in read_partition(store, FIRST).events.column("event_time").to_pylist()] == [1, 9999]


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
        ("event_time", pa.array([10**15] * 150, pa.timestamp("s", tz="UTC"))),  # no 64 bits of microseconds hold it
        ("query", not_utf8(150)),
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


def test_names_of_surplus_columns_are_written_down_printable_short_and_few():
    source = TinySource()
    table = events_table(a_day())
    for name in ("\x1b[31mred", "n" * 500, *(f"c{n:02d}" for n in range(30))):
        table = table.append_column(name, pa.array([1] * 150))
    source.replaced[FIRST] = table
    _, store = land(source)
    names = read_landed_manifest(store, FIRST).ignored_columns
    assert names[0] == "?[31mred" and names[-1] == "and 12 more" and len(names) == 21
    assert max(map(len, names)) <= 64


def test_a_column_that_is_there_twice_is_named():
    source, table = TinySource(), events_table(a_day())
    source.replaced[FIRST] = table.append_column("item_id", table.column("item_id"))
    with pytest.raises(InputRejected, match="column item_id is there more than once"):
        land(source)


def test_another_pseudonym_key_is_refused_before_anything_is_written():
    _, store = land()
    with pytest.raises(InputRejected, match="pseudonymised with key k-test, this stack has key k-other"):
        land(store=store, through=THIRD, key_id="k-other")
    assert landed_days(store) == [FIRST]


def test_no_raw_id_leaves_ingest(caplog):
    caplog.set_level(logging.DEBUG)
    user, basket = LONG_USER, LONG_SESSION
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
