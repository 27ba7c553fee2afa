"""A folder that meets the contract is a source, without code; one that does not is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.adapters.partitions import landed_days, read_landed_manifest
from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.ingest import ingest
from tasks.own_data.check import check
from tasks.sources import open_source
from tests.behaviour_builders import KEY, KEY_ID, TinySource, a_day, events_table, items_table, plan_table

DAYS = ("2017-01-01", "2017-01-02", "2017-01-03")


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, default=lambda time: time.isoformat()) + "\n" for row in rows)


def a_shop(root: Path) -> Path:
    """Three days: one of two Parquet files, one without events, one of JSON lines beside the folders."""
    first = root / "events" / f"dt={DAYS[0]}"
    first.mkdir(parents=True)
    rows = a_day(DAYS[0])
    pq.write_table(events_table(rows[:100]), first / "part-0.parquet")
    pq.write_table(events_table(rows[100:]).drop_columns(["query", "position"]), first / "part-1.parquet")
    (root / f"events-{DAYS[2]}.jsonl").write_text(as_lines(a_day(DAYS[2])))
    (root / "plan" / f"dt={DAYS[0]}").mkdir(parents=True)
    pq.write_table(plan_table(), root / "plan" / f"dt={DAYS[0]}" / "plan.parquet")
    pq.write_table(items_table(), root / "items.parquet")
    (root / "users.jsonl").write_text(as_lines([{"user_id": "user-1", "age": 44, "city": "Bonn"}]))
    return root


def opened(root: Path):
    return open_source(f"files:{root}")


def test_a_folder_gives_its_days_items_plans_and_users(tmp_path):
    source = opened(a_shop(tmp_path))
    assert source.days() == list(DAYS)
    assert [source.events(day).num_rows for day in DAYS] == [150, 0, 150]
    assert [source.plan(day).num_rows for day in DAYS] == [20, 0, 0]
    assert source.items().num_rows == 20
    assert source.users().to_pylist() == [{"user_id": "user-1", "age": 44.0, "city": "Bonn"}]
    with pytest.raises(InputRejected, match="ends on 2017-01-03; there is no 2017-01-04"):
        source.events("2017-01-04")


def test_parquet_and_json_lines_land_as_the_same_day(tmp_path):
    """And as the day that a source with code lands: the digests of their rows say so."""
    landed = []
    for source in (opened(a_shop(tmp_path)), TinySource()):
        store = MemoryStore()
        ingest(source, store, DAYS[2], KEY, KEY_ID)
        assert landed_days(store) == list(DAYS)
        landed.append([read_landed_manifest(store, day) for day in (DAYS[0], DAYS[2])])
    files, tiny = landed
    assert [one.content["events"] for one in files] == [one.content["events"] for one in tiny]
    assert [one.content["items"] for one in files] == [one.content["items"] for one in tiny]
    assert files[0].content["plan"] == tiny[0].content["plan"] != files[1].content["plan"]  # there is none on the third
    assert {one.source for one in files} == {"files"}


def test_what_a_user_bought_in_a_day_is_a_trip(tmp_path):
    trips = opened(a_shop(tmp_path)).trips(DAYS[0])
    lines = pl.DataFrame(events_table(a_day(DAYS[0])))
    assert {trip.user_id for trip in trips} == set(lines["user_id"])
    assert sum(value for trip in trips for _, value in trip.lines) == pytest.approx(lines["value"].sum())


def test_columns_that_the_contract_does_not_have_are_named_by_ingest(tmp_path):
    a_shop(tmp_path)
    rows = [row | {"colour": "red"} for row in a_day(DAYS[2])]
    (tmp_path / f"events-{DAYS[2]}.jsonl").write_text(as_lines(rows))
    summary = ingest(opened(tmp_path), MemoryStore(), DAYS[2], KEY, KEY_ID)
    assert summary["ignored_columns"] == ["colour"]


def cut(root: Path) -> None:
    (root / "items.parquet").write_bytes((root / "items.parquet").read_bytes()[:-200])


def lines(body: bytes):
    return lambda root: (root / f"events-{DAYS[2]}.jsonl").write_bytes(body)


def numbers_for_ids(name: str):
    numbers = pl.DataFrame(events_table(a_day())).with_columns(event_id=pl.int_range(pl.len()))
    return lambda root: numbers.write_parquet(root / name)


BAD = {
    "truncated": (cut, "items.parquet is no readable Parquet"),
    "bad cell": (lines(b'{"event_id": 7}\n'), "row 1, event_id is not a string; `freshrank data check"),
    "no UTF-8": (lines(b'{}\n{"event_id": "\xff"}\n'), "row 2, the line is not UTF-8"),
    "another type": (
        numbers_for_ids(f"events-{DAYS[1]}.parquet"),
        "column event_id is int64, the contract says string",
    ),
    "two types in one day": (
        numbers_for_ids(f"events/dt={DAYS[0]}/x.parquet"),
        "do not agree about the type of a column",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_name_and_nothing_of_its_day_lands(tmp_path, name):
    spoil, said = BAD[name]
    spoil(a_shop(tmp_path))
    store = MemoryStore()
    with pytest.raises(InputRejected, match=said):
        ingest(opened(tmp_path), store, DAYS[2], KEY, KEY_ID)
    assert set(landed_days(store)) <= {DAYS[0], DAYS[1]}


def test_a_folder_without_items_or_events_or_with_events_of_no_day_is_refused(tmp_path):
    (a_shop(tmp_path) / "items.parquet").unlink()
    with pytest.raises(InputRejected, match="holds no item table"):
        opened(tmp_path)
    pq.write_table(items_table(), tmp_path / "items.parquet")
    pq.write_table(events_table(a_day()), tmp_path / "events.parquet")
    with pytest.raises(InputRejected, match="events.parquet does not say its day; call it event"):
        opened(tmp_path)
    only = tmp_path / "only"
    only.mkdir()
    pq.write_table(items_table(), only / "items.parquet")
    with pytest.raises(InputRejected, match="holds no events"):
        opened(only)


@pytest.mark.parametrize("where", ["relative/shop", "/data/../etc", "/data/\0shop", "", "/absent/shop"])
@pytest.mark.parametrize("kind", ["files", "msrd"])
def test_a_path_that_is_no_plain_folder_is_refused(kind, where):
    with pytest.raises(InputRejected, match="needs an absolute path|is no folder"):
        open_source(f"{kind}:{where}")


@pytest.mark.parametrize("day", ["../2017-01-01", "2017-01-01\0", "2017-1-1", "latest"])
def test_a_day_that_is_none_reads_no_file(tmp_path, day):
    source = opened(a_shop(tmp_path))
    for read in (source.events, source.plan, source.trips):
        with pytest.raises(InputRejected, match="is not a day"):
            read(day)


def test_what_the_check_calls_fine_is_what_ingest_takes(tmp_path):
    assert check(a_shop(tmp_path)).exit_code == 0
    big = pa.Table.from_pylist(a_day(DAYS[1])).append_column("position", pa.array([1] * 150, pa.uint8()))
    pq.write_table(big, tmp_path / f"events-{DAYS[1]}.parquet")
    assert check(tmp_path).exit_code == 0
    assert ingest(opened(tmp_path), MemoryStore(), DAYS[2], KEY, KEY_ID)["rows"] == 450
