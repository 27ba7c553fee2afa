"""Reading days: by manifest, byte for byte, or not at all; what is wrong is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from tasks.adapters.partitions import (
    accepted_days,
    catalogue_key,
    described,
    fetch_accepted,
    landed_days,
    landed_key,
    parquet_bytes,
    read_catalogue,
    read_landed_manifest,
    read_partition,
)
from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.ingest import ingest
from tests.behaviour_builders import FIRST, KEY, KEY_ID, TinySource


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
        pytest.param(
            lambda t: t.set_column(9, "value", pa.array(["1"] * t.num_rows)), "column value is string", id="wrong type"
        ),
    ],
)
def test_a_file_off_the_contract_is_refused_with_its_column(store, change, sentence):
    table = read_partition(store, FIRST).events
    assert table.column_names[9] == "value"
    with_file(store, parquet_bytes(change(table)), 150)
    with pytest.raises(InputRejected, match=sentence):
        read_partition(store, FIRST)


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


def test_fetching_with_nothing_accepted_says_what_to_run(store, tmp_path):
    with pytest.raises(InputRejected, match="run validate_data"):
        fetch_accepted(store, FIRST, tmp_path)
