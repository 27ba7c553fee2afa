"""`freshrank data check` agrees with everyone else who judges a row: ingest, the suites and the JSON Schema."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from expectations.profile import broken
from expectations.row_rules import NUMBERS
from expectations.suites import EVENTS, ITEMS
from tasks.conform import conform
from tasks.contract_page import json_schema
from tasks.domain.behaviour import pseudonym
from tasks.domain.contract import EVENT, ITEM
from tasks.domain.errors import InputRejected
from tasks.own_data.check import check
from tests.behaviour_builders import KEY, an_event, events_table, items_table

NOON = datetime(2017, 1, 1, 12, tzinfo=UTC)
CELLS = {  # sound and not, of the column's own type
    "event_id": [None, "", " ", "e\n"],
    "event_time": [None, NOON, datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)],
    "user_id": [None, "", "\t", "u"],
    "session_id": [None, "s", ""],
    "surface": [None, "search", "mail", "Search", ""],
    "query": [None, "", "q", "q" * 512, "q" * 513, "ä\n"],
    "item_id": [None, " ", "item-1"],
    "event_type": [None, "rating", "hover"],
    "position": [None, 0, -1, 2**31 - 1],
    "value": [None, 0.0, -0.01, 1e300, math.nan, math.inf],
    "propensity": [None, 0.0, 1.0, 1.0001, 0.5, -math.inf],
    "quantity": [None, 1, -1.0],
}
WRONG_TYPES = {  # in JSON lines a cell can be anything
    "event_id": [7, ["e"]],
    "event_time": [1483272000, "2017-01-01T12:00:00", "2017-01-01 12:00:00Z", "2017-01-01T12:00:00.25+02:00"],
    "user_id": [4711, {"id": 1}],
    "query": [True],
    "position": [1.0, 1.5, 2**31, "0"],
    "value": ["1.0", False],
    "item_id": [1],
}
changes = st.lists(st.sampled_from([(name, value) for name, values in CELLS.items() for value in values]), max_size=2)
json_changes = st.lists(
    st.sampled_from([(n, v) for cells in (CELLS, WRONG_TYPES) for n, values in cells.items() for v in values]),
    max_size=2,
)


def named(path: Path) -> set[int]:
    """Rows, from 0, that the check names for anything but a repeated id."""
    report = check(path, examples=1000)
    assert not report.unreadable
    return {one["row"] - 1 for problem in report.problems if problem.kind != "duplicate" for one in problem.examples}


@settings(max_examples=40, deadline=None)
@given(planted=st.lists(changes, min_size=1, max_size=12))
def test_the_check_names_the_rows_that_the_suites_and_the_rules_catch_after_ingest(tmp_path_factory, planted):
    rows = [an_event(n) | dict(change) for n, change in enumerate(planted)]
    table = events_table(rows)
    path = tmp_path_factory.mktemp("rows") / "events.parquet"
    pq.write_table(table, path)
    frame = pl.DataFrame(conform(table, EVENT, "events")[0])
    users = [pseudonym(user, KEY) if user and user.strip() else None for user in frame["user_id"]]
    frame = frame.with_columns(pl.Series("user_id", users, pl.String), session_id=pl.lit(None, pl.String))
    caught = {row for mask in broken(EVENTS, frame).values() for row in mask.arg_true()}
    caught |= {row for name in NUMBERS for row in (~frame[name].is_finite()).fill_null(False).arg_true()}
    assert named(path) == caught


@settings(max_examples=40, deadline=None)
@given(planted=st.lists(json_changes, min_size=1, max_size=12))
def test_the_check_names_the_lines_that_the_json_schema_refuses(tmp_path_factory, planted):
    rows = [an_event(n) | dict(change) for n, change in enumerate(planted)]
    lines = [json.dumps(row, default=lambda time: time.isoformat()) for row in rows]
    path = tmp_path_factory.mktemp("lines") / "events.jsonl"
    path.write_text("\n".join(lines))
    schema = Draft202012Validator(json_schema(EVENT))
    refused = {n for n, line in enumerate(lines) if not schema.is_valid(json.loads(line))}
    # what Python writes as NaN is no JSON, and a schema has no words for a time before its clock
    refused |= {n for n, row in enumerate(rows) if not all(map(finite, row.values())) or too_old(row["event_time"])}
    assert named(path) == refused


def finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def too_old(value: object) -> bool:
    return isinstance(value, datetime) and value.year < 2000


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"title": ""}, "title_not_blank"),
        ({"title": "t" * 501}, "title_length"),
        ({"text": "t" * 20_001}, "text_length"),
        ({"price": -1.0}, "price_in_range"),
        ({"available": None}, "available_not_null"),
        ({"updated_at": datetime(9999, 1, 1, tzinfo=UTC)}, "updated_at_in_range"),
    ],
)
def test_a_bad_item_has_one_name_here_and_in_the_suite(tmp_path, columns, name):
    table = pa.concat_tables([items_table(("a", "b")), items_table(("c",), **columns)])
    pq.write_table(table, tmp_path / "items.parquet")
    frame = pl.DataFrame(conform(table, ITEM, "items")[0])
    assert [kind for kind, mask in broken(ITEMS, frame).items() if mask.any()] == [name]
    problems = {one.kind: one.examples[0]["row"] for one in check(tmp_path).problems if one.kind != "updated_at_future"}
    assert problems == {name: 3}


TYPES = [
    pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string()), pa.null(), pa.bool_(), pa.int8(),
    pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(9, 2), pa.date32(), pa.timestamp("ns", "UTC"),
    pa.timestamp("s", "+00:00"), pa.timestamp("us"), pa.timestamp("us", "Europe/Berlin"), pa.list_(pa.string()),
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_the_check_takes_a_column_type_if_and_only_if_ingest_does(tmp_path, kind):
    accepted = 0
    for name in ("query", "event_time", "position", "value"):
        table = events_table([an_event(n) for n in range(3)])
        table = table.set_column(table.column_names.index(name), name, pa.nulls(3, kind))
        pq.write_table(table, tmp_path / "events.parquet")
        try:
            conform(table, EVENT, "events")
        except InputRejected:
            taken = False
        else:
            taken = True
            accepted += 1
        wrong = {one.column for one in check(tmp_path).problems if one.kind == "wrong_type"}
        assert (name not in wrong) == taken
    assert accepted < 4 or kind == pa.null()


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5), min_size=1, max_size=5),
    column=st.sampled_from(["position", "value"]),
)
def test_a_number_that_the_check_lets_through_fits_the_contract(tmp_path_factory, numbers, column):
    table = events_table([an_event(n) for n in range(len(numbers))])
    table = table.set_column(table.column_names.index(column), column, pa.array(numbers, pa.int64()))
    path = tmp_path_factory.mktemp("numbers") / "events.parquet"
    pq.write_table(table, path)
    fits = not any(one.kind == "wrong_type" for one in check(path).problems)
    try:
        conform(table, EVENT, "events")
    except InputRejected:
        assert not fits
    else:
        assert fits
