"""Reading days: by manifest, byte for byte, or not at all; what is wrong is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.adapters.accepted_days import fetch_accepted
from tasks.adapters.erasures import leave_out
from tasks.adapters.partitions import (
    accepted_days,
    accepted_key,
    catalogue_key,
    described,
    landed_days,
    landed_key,
    put_day,
    read_accepted_manifest,
    read_catalogue,
    read_caught,
    read_landed_manifest,
    read_partition,
)
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import LATEST_US, parquet_bytes
from tasks.domain.errors import Conflict, InputRejected
from tasks.ingest import ingest
from tests.behaviour_builders import FIRST, KEY, KEY_ID, TinySource, accept, events_table


@pytest.fixture
def store():
    store = MemoryStore()
    ingest(TinySource(), store, FIRST, KEY, KEY_ID)
    return store


def file_key(store, kind="events"):
    return landed_key(FIRST, read_landed_manifest(store, FIRST).file(kind).name)


def with_manifest(store, **changes):
    """Replace fields of the day's manifest, as somebody with access to the bucket could."""
    manifest = json.loads(store.get(landed_key(FIRST)))
    store.replace(landed_key(FIRST), json.dumps(manifest | changes).encode())


def with_file(store, body: bytes, rows: int):
    """Put other bytes as the events file and make the manifest agree with them."""
    file, _ = described("events", body, rows)
    store.put_new(landed_key(FIRST, file.name), body)
    plan = read_landed_manifest(store, FIRST).file("plan")
    with_manifest(store, files=[file.model_dump(), plan.model_dump()])


def plain(table: pa.Table) -> pa.Table:
    """Without dictionaries, as another writer may have it."""
    return table.cast(events_table([]).schema)


def changed(table: pa.Table, column: str, values) -> pa.Table:
    at = table.column_names.index(column)
    return table.set_column(at, column, values if isinstance(values, pa.Array) else pa.array(values))


def not_utf8(rows: int) -> pa.Array:
    """Text as a file in Latin-1 gives it: bytes that are no UTF-8."""
    return pa.array([b"caf\xe9"] * rows).view(pa.string())


def times(first_us: int) -> pa.Array:
    return pa.array([first_us, *[0] * 149], pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def without_files(store) -> dict[str, bytes]:
    return {key: body for key, body in store._objects.items() if "/events-" not in key and "manifest" not in key}


@pytest.mark.parametrize("kind", ["events", "plan"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b""])
def test_an_object_that_changed_after_the_manifest_is_named_and_left_alone(store, kind, damage):
    key = file_key(store, kind)
    store.replace(key, damage(store.get(key)))
    before = dict(store._objects)
    with pytest.raises(InputRejected, match=f"{kind}-.*the object changed after the manifest"):
        read_partition(store, FIRST)
    assert store._objects == before


def test_a_changed_item_table_is_named(store):
    sha256 = read_landed_manifest(store, FIRST).catalogue
    store.replace(catalogue_key(sha256), b"other")
    with pytest.raises(InputRejected, match=f"catalogue/{sha256}"):
        read_catalogue(store, sha256)


def test_a_manifest_that_names_an_absent_file_is_refused_by_that_name(store):
    key = file_key(store)
    store.delete(key)
    with pytest.raises(InputRejected, match=f"{key} does not exist"):
        read_partition(store, FIRST)


def test_a_truncated_parquet_file_is_named_even_where_the_manifest_agrees_with_it(store):
    body = store.get(file_key(store))
    with_file(store, body[: len(body) // 2], 150)
    with pytest.raises(InputRejected, match="no readable Parquet file"):
        read_partition(store, FIRST)


def test_rows_must_be_as_many_as_the_manifest_says(store):
    with_file(store, store.get(file_key(store)), 151)
    with pytest.raises(InputRejected, match="holds 150 rows, its manifest says 151"):
        read_partition(store, FIRST)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(lambda t: t.drop_columns(["item_id"]), "lacks the column item_id", id="missing column"),
        pytest.param(lambda t: t.append_column("item_id", t["item_id"]), "holds a column twice", id="column twice"),
        pytest.param(lambda t: changed(t, "value", ["1"] * 150), "column value is string", id="wrong type"),
        pytest.param(lambda t: changed(t, "position", [2**40] * 150), "column position is int64", id="wider type"),
        pytest.param(lambda t: changed(t, "query", not_utf8(150)), "no readable Parquet file", id="not UTF-8"),
        pytest.param(lambda t: changed(t, "user_id", not_utf8(150)), "no readable Parquet file", id="id not UTF-8"),
        pytest.param(lambda t: changed(t, "event_time", times(-(2**63))), "beyond the years 1 to 9999", id="overflow"),
        pytest.param(lambda t: changed(t, "event_time", times(LATEST_US + 1)), "beyond the years", id="year 10000"),
        pytest.param(
            lambda t: changed(t, "event_time", pa.array([0] * 150, pa.timestamp("us"))), "event_time is", id="no zone"
        ),
    ],
)
def test_a_file_off_the_contract_is_refused_with_its_column(store, change, sentence):
    before = without_files(store)
    with_file(store, parquet_bytes(change(plain(read_partition(store, FIRST).events))), 150)
    with pytest.raises(InputRejected, match=sentence):
        read_partition(store, FIRST)
    assert without_files(store) == before, "reading changes nothing"


def test_the_first_and_the_last_year_of_a_calendar_and_an_extra_column_are_read(store):
    table = changed(plain(read_partition(store, FIRST).events), "event_time", times(LATEST_US))
    with_file(store, parquet_bytes(table.append_column("extra", pa.array([1] * 150))), 150)
    assert read_partition(store, FIRST).events["event_time"][0].as_py().year == 9999


@pytest.mark.parametrize("name", ["../../secrets.json", "/etc/passwd", "a/b", "x\0", "", ".."])
def test_a_manifest_cannot_point_out_of_its_folder(store, name):
    files = json.loads(store.get(landed_key(FIRST)))["files"]
    files[0]["name"] = name
    with_manifest(store, files=files)
    with pytest.raises(InputRejected, match=r"is not a manifest of a day: files\.0\.name"):
        read_partition(store, FIRST)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"partition": "2017-01-02"}, "is the manifest of 2017-01-02 revision 1, not of 2017-01-01 revision 1"),
        ({"files": []}, "should name one events file, this one names 0"),
        ({"rows": -1}, "rows"),
        ({"surprise": 1}, "surprise"),
        ({"version": 3}, "version"),
        ({"contract": 2}, "was landed under contract 2, this code reads 1"),
        ({"revision": 2}, "is the manifest of 2017-01-01 revision 2, not of 2017-01-01 revision 1"),
        ({"catalogue": "../x"}, "catalogue"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(store, changes, sentence):
    with_manifest(store, **changes)
    with pytest.raises(InputRejected, match=sentence):
        read_partition(store, FIRST)


@pytest.mark.parametrize("day", ["../2017-01-01", "2017-01-01/..", "2017-01-01\0", "2017-13-01", ""])
def test_a_partition_key_that_is_no_day_is_refused(store, day):
    with pytest.raises(InputRejected, match="is not a day"):
        read_partition(store, day)


def test_files_without_a_manifest_and_names_that_are_no_days_do_not_count(store):
    store.put_new("behaviour/dt=2017-01-05/events-0.parquet", b"half")
    store.put_new("behaviour/dt=latest/manifest.json", b"{}")
    store.put_new("accepted/dt=2017-01-01/report.json", b"{}")
    assert landed_days(store) == [FIRST]
    assert accepted_days(store) == []


@pytest.mark.parametrize(
    "name",
    [
        "behaviour/dt=2017-13-01/manifest.json",
        "behaviour/dt=\u0662017-01-02/manifest.json",
        "behaviour/dt=2017-01-02/manifest-000000.json",
        "behaviour/dt=2017-01-02/manifest-000001.json",
        "behaviour/dt=2017-01-02/manifest-2.json",
        "behaviour/dt=2017-01-02/manifest.json.bak",
        "behaviour/dt=2017-01-02/old/manifest.json",
        "behaviour/dt=2017-01-02\0/manifest.json",
    ],
)
def test_a_name_that_is_almost_a_manifest_makes_no_day(store, name):
    store._objects[name] = store.get(landed_key(FIRST))
    assert landed_days(store) == [FIRST]
    assert read_partition(store, FIRST).events.num_rows == 150


def test_a_second_name_for_the_first_revision_has_no_effect(store):
    store.put_new(landed_key(FIRST, "manifest-000001.json"), b"{}")
    assert read_landed_manifest(store, FIRST).revision == 1


def test_a_gap_between_revisions_is_named(store):
    leave_out(store, {read_partition(store, FIRST).events["user_id"][0].as_py()})
    leave_out(store, {read_partition(store, FIRST).events["user_id"][0].as_py()})
    assert read_landed_manifest(store, FIRST).revision == 3
    store.delete(landed_key(FIRST, "manifest-000002.json"))
    with pytest.raises(InputRejected, match=r"manifest-000003\.json is there and .*manifest-000002\.json is not"):
        read_partition(store, FIRST)


def test_of_two_writers_of_one_revision_the_second_is_refused_and_changes_nothing(store):
    manifest = read_landed_manifest(store, FIRST)
    before = store.get(landed_key(FIRST))
    with pytest.raises(Conflict):
        put_day(store, landed_key(FIRST, ""), [], manifest.model_copy(update={"rows": 7}))
    assert store.get(landed_key(FIRST)) == before


@pytest.mark.parametrize(
    ("bend", "sentence"),
    [
        (lambda t: t.set_column(0, "row", pa.array([7, 150])), "does not say which of the 150 landed rows"),
        (lambda t: t.set_column(0, "row", pa.array([-1, 7])), "does not say which of the 150 landed rows"),
        (lambda t: t.set_column(0, "row", pa.array([7, 7])), "does not say which of the 150 landed rows"),
        (lambda t: t.slice(1), "does not say which of the 150 landed rows"),
        (lambda t: t.drop_columns("rules"), "no table of caught rows"),
        (lambda t: changed(t, "rules", not_utf8(2)), "no readable Parquet file"),
        (lambda t: b"PAR1 cut off", "no readable Parquet file"),
    ],
)
def test_a_table_of_caught_rows_that_makes_no_sense_is_named(store, bend, sentence):
    accept(store, FIRST, {7: "duplicate", 9: "late"})
    manifest = read_accepted_manifest(store, FIRST)
    bent = bend(read_caught(store, manifest))
    file, body = described("caught", bent if isinstance(bent, bytes) else parquet_bytes(bent), 2)
    store.put_new(accepted_key(FIRST, file.name), body)
    told = manifest.model_copy(update={"files": (file,)})
    with pytest.raises(InputRejected, match=sentence) as refusal:
        read_caught(store, told)
    assert file.name in str(refusal.value)


def test_fetching_with_nothing_accepted_says_what_to_run(store, tmp_path):
    with pytest.raises(InputRejected, match="run validate_data"):
        fetch_accepted(store, FIRST, tmp_path)


def test_a_local_copy_holds_the_rows_of_the_revision_that_it_is_named_for(store, tmp_path, monkeypatch):
    """A person released a row between the listing and the reading: the copy would be kept, and read, under the older name."""
    accept(store, FIRST, {0: "late", 1: "late"})
    accept(store, FIRST, {0: "late"})
    monkeypatch.setattr("tasks.adapters.accepted_days.accepted_revisions", lambda store: {FIRST: 1})
    (before,) = fetch_accepted(store, FIRST, tmp_path).events
    monkeypatch.undo()
    (after,) = fetch_accepted(store, FIRST, tmp_path).events
    landed = read_landed_manifest(store, FIRST).rows
    assert [pq.read_table(path).num_rows for path in (before, after)] == [landed - 2, landed - 1]
