"""`freshrank data check`: a team's files are held against the contract, and what is wrong is named by row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tasks.cli import app, main
from tasks.domain.errors import InputRejected
from tasks.own_data.check import Report, check
from tasks.own_data.table_keys import KnownKeys, RepeatedKeys
from tasks.sources import json_lines, tables
from tests.behaviour_builders import FIRST, a_day, an_event, events_table, items_table, plan_table

SECRET = "raw-user-4711-of-mrs-example"


def as_lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, default=lambda time: time.isoformat()).encode() + b"\n" for row in rows)


def a_folder(root: Path, rows: list[dict] | None = None, lines: bytes | None = None) -> Path:
    """Items, a plan, and one day of events: as JSON lines where `lines` are given, else as Parquet."""
    folder = root / "events" / f"dt={FIRST}"
    folder.mkdir(parents=True)
    if lines is not None:
        (folder / "part-0.jsonl").write_bytes(lines)
    else:
        pq.write_table(events_table(a_day() if rows is None else rows), folder / "part-0.parquet")
    pq.write_table(items_table(), root / "items.parquet")
    pq.write_table(plan_table(), root / f"plan-{FIRST}.parquet")
    return root


def found(report: Report) -> dict[str, list[int]]:
    """kind -> rows that are named."""
    return {one.kind: [example["row"] for example in one.examples] for one in report.problems}


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "check", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize("lines", [None, as_lines(a_day())], ids=["parquet", "jsonl"])
def test_a_folder_that_meets_the_contract_passes_and_says_what_to_do_next(tmp_path, lines):
    code, said = run(a_folder(tmp_path, lines=lines))
    assert code == 0
    assert "150 rows of events in 1 file" in said
    assert f"Next: set FRESHRANK_SOURCE=files:{tmp_path}" in said


BAD_ROWS = {
    "event_id_not_blank": {"event_id": "  "},
    "event_time_not_null": {"event_time": None},
    "event_time_in_range": {"event_time": datetime(1970, 1, 1, tzinfo=UTC)},
    "event_time_future": {"event_time": datetime(2099, 1, 1, tzinfo=UTC)},
    "wrong_day": {"event_time": datetime(2017, 1, 2, 0, 0, 1, tzinfo=UTC)},
    "user_id_not_blank": {"user_id": ""},
    "surface_in_set": {"surface": "mail"},
    "query_matches": {"query": "x" * 513},
    "unknown_item": {"item_id": "item-999"},
    "event_type_in_set": {"event_type": "hover"},
    "position_in_range": {"position": -1},
    "value_in_range": {"value": -0.5},
    "propensity_in_range": {"propensity": 1.5},
    "duplicate": {"event_id": f"{FIRST}-00000"},
}


@pytest.mark.parametrize("kind", BAD_ROWS)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_bad_row_is_named(tmp_path, form, kind):
    rows = a_day()
    rows[41] |= BAD_ROWS[kind]
    a_folder(tmp_path, rows, as_lines(rows) if form == "jsonl" else None)
    report = check(tmp_path)
    expected = {kind: [42]} | ({"wrong_day": [42]} if kind == "event_time_future" else {})
    assert found(report) == expected
    assert report.exit_code == 1
    assert all(one.examples[0]["file"] == f"events/dt={FIRST}/part-0.{form}" for one in report.problems)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(tmp_path, value):
    rows = a_day()
    rows[7] |= {"value": value}
    assert found(check(a_folder(tmp_path, rows))) == {"value_finite": [8]}


BAD_LINES = {
    "not_json": b'{"event_id": NaN}',
    "not_object": b"[1, 2]",
    "not_utf8": b'{"event_id": "\xe4pfel"}',  # Latin-1 among UTF-8
    "wrong_type": json.dumps(an_event(3, event_time="2017-01-01T00:00:00Z", value="3.50")).encode(),
    "no_time_zone": json.dumps(an_event(3, event_time="2017-01-01T00:00:00")).encode(),
    "not_a_time": json.dumps(an_event(3, event_time="2017-13-01T00:00:00Z")).encode(),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_by_its_number_blank_lines_counted(tmp_path, kind):
    good = as_lines(a_day(rows=3)).splitlines()
    body = b"\n".join([*good[:2], b"", BAD_LINES[kind], b"  ", good[2]])
    report = check(a_folder(tmp_path, lines=body))
    assert found(report) == {kind: [4]}
    assert report.tables["event"]["rows"] == 4


def test_a_bad_cell_costs_that_cell_only_and_is_said_once(tmp_path):
    rows = a_day(rows=3)
    rows[1] |= {"event_time": 1483228800, "surface": "mail"}
    report = check(a_folder(tmp_path, lines=as_lines(rows)))
    assert found(report) == {"wrong_type": [2], "surface_in_set": [2]}


def test_the_same_columns_of_another_type_are_named_once_and_the_others_are_still_judged(tmp_path):
    table = events_table([an_event(n, surface="mail" if n == 5 else "search") for n in range(9)])
    table = table.set_column(0, "event_id", pa.array(range(9)))
    table = table.set_column(1, "event_time", table.column("event_time").cast(pa.timestamp("us")))
    pq.write_table(table, tmp_path / "events.parquet")
    report = check(tmp_path)
    said = {(one.kind, one.column): one.sentence for one in report.problems}
    assert said == {
        ("wrong_type", "event_id"): "is int64, the contract says string",
        ("wrong_type", "event_time"): "is timestamp[us], the contract says timestamp[us, tz=UTC]",
        ("surface_in_set", "surface"): "is none of recommendation, search",
    }
    assert found(report)["surface_in_set"] == [6]


def test_values_that_do_not_fit_the_type_are_named_by_row(tmp_path):
    table = events_table(a_day(rows=5))
    table = table.set_column(8, "position", pa.array([0, 1, 2**31, None, 4], pa.int64()))
    pq.write_table(table, tmp_path / "events.parquet")
    report = check(tmp_path)
    assert found(report) == {"wrong_type": [3]}
    assert report.problems[0].examples[0]["value"] == str(2**31)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_missing_columns_are_problems_and_further_ones_are_notes(tmp_path, form):
    rows = [{k: v for k, v in row.items() if k != "item_id"} | {"colour": "red"} for row in a_day(rows=3)]
    if form == "jsonl":
        (tmp_path / "events.jsonl").write_bytes(as_lines(rows))
    else:
        pl.DataFrame(rows).write_parquet(tmp_path / "events.parquet")
    report = check(tmp_path)
    assert [(one.kind, one.column, one.rows) for one in report.problems] == [("missing_column", "item_id", 0)]
    assert "columns of events that ingest leaves out: colour" in report.notes


def test_text_in_a_parquet_file_that_is_not_utf8_is_named(tmp_path):
    broken = pa.array([b"ok", b"\xe4pfel", None], pa.binary()).view(pa.string())
    table = events_table(a_day(rows=3)).drop_columns("query").append_column("query", broken)
    pq.write_table(table, tmp_path / "events.parquet")
    assert found(check(tmp_path)) == {"not_utf8": [2]}


def test_duplicates_are_found_across_files_and_say_where_the_first_is(tmp_path):
    a_folder(tmp_path)
    more = [an_event(7), an_event(900)]
    (tmp_path / "events" / f"dt={FIRST}" / "part-1.jsonl").write_bytes(as_lines(more))
    (problem,) = check(tmp_path).problems
    assert (problem.kind, problem.rows) == ("duplicate", 1)
    assert problem.examples == [
        {
            "file": f"events/dt={FIRST}/part-1.jsonl",
            "row": 1,
            "value": f"first in row 8 of events/dt={FIRST}/part-0.parquet",
        }
    ]


def test_items_stand_once_and_a_plan_names_each_once_a_day(tmp_path):
    twice = pa.concat_tables([items_table(), items_table(("item-3",))])
    pq.write_table(twice, tmp_path / "items.parquet")
    for day in ("2017-01-01", "2017-01-02"):
        pq.write_table(plan_table(), tmp_path / f"plan-{day}.parquet")
    report = check(tmp_path)
    assert [(one.table, one.kind, one.rows) for one in report.problems] == [("item", "duplicate", 1)]


def test_further_columns_of_users_are_judged_by_type(tmp_path):
    users = pl.DataFrame({"user_id": ["a", "b"], "age": [44.0, float("inf")], "tags": [["x"], ["y"]]})
    users.write_parquet(tmp_path / "users.parquet")
    report = check(tmp_path)
    assert {(one.kind, one.column) for one in report.problems} == {("age_finite", "age"), ("wrong_type", "tags")}
    (tmp_path / "users.parquet").unlink()
    pl.DataFrame({"user_id": ["a"], "x" * 65: [1]}).write_parquet(tmp_path / "users-2.parquet")
    report = check(tmp_path)
    assert ["the user table: further columns are" in one.sentence for one in report.problems] == [True]
    (tmp_path / "users-2.parquet").unlink()
    mixed = [{"user_id": "a", "age": None}, {"user_id": "b", "age": 3}, {"user_id": "c", "age": "old"}]
    (tmp_path / "users.jsonl").write_bytes(as_lines(mixed))
    assert found(check(tmp_path)) == {"wrong_type": [3]}


CANNOT_BE_READ = {
    "truncated.parquet": lambda whole: whole[: len(whole) // 2],
    "empty.parquet": lambda whole: b"",
    "text.parquet": lambda whole: b"event_id,event_time\n1,2\n",
    "no-footer.parquet": lambda whole: whole[:-4] + b"XXXX",
    "utf16.jsonl": lambda whole: "{}".encode("utf-16"),
    "packed.jsonl": lambda whole: b"\x1f\x8b\x08 and so on",
    "parquet.jsonl": lambda whole: whole,
}


@pytest.mark.parametrize("name", CANNOT_BE_READ)
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_still_checked(tmp_path, name):
    rows = a_day()
    rows[0] |= {"event_type": "hover"}
    a_folder(tmp_path, rows)
    whole = (tmp_path / "events" / f"dt={FIRST}" / "part-0.parquet").read_bytes()
    (tmp_path / f"events-{name}").write_bytes(CANNOT_BE_READ[name](whole))
    report = check(tmp_path)
    assert (report.exit_code, list(report.unreadable)) == (2, [f"events-{name}"])
    assert name in report.unreadable[f"events-{name}"]
    assert found(report) == {"event_type_in_set": [1]}
    code, said = run(tmp_path)
    assert code == 2
    assert "A file cannot be read" in said


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_damaged_page_is_named_or_shows_as_bad_rows_never_as_a_pass(tmp_path, at):
    path = a_folder(tmp_path) / "events" / f"dt={FIRST}" / "part-0.parquet"
    pq.write_table(pq.ParquetFile(path).read(), path, write_page_checksum=True, compression="none")
    body = bytearray(path.read_bytes())
    data = len(body) * 2 // 3  # what follows is the footer
    for byte in range(int(data * at), int(data * at) + 200):
        body[byte] ^= 0xFF
    path.write_bytes(bytes(body))
    assert check(tmp_path).exit_code in (1, 2)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 100)
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 1000)
    (tmp_path / "events.jsonl").write_bytes(as_lines(a_day(rows=2)) + b"[" + b" " * 5000)
    report = check(tmp_path)
    assert "line 3 is longer than 0 MiB; JSON lines have one object on each line" in report.unreadable["events.jsonl"]


def test_lines_keep_their_numbers_across_blocks_and_rows_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(tables, "BATCH_ROWS", 32)
    rows = a_day(rows=150)
    rows[120] |= {"surface": "mail"}
    (tmp_path / "events-a.jsonl").write_bytes(b"\xef\xbb\xbf" + as_lines(rows).rstrip(b"\n"))
    pq.write_table(
        events_table([row | {"event_id": f"b-{n}"} for n, row in enumerate(rows)]), tmp_path / "events-b.parquet"
    )
    report = check(tmp_path)
    assert [(one["file"], one["row"]) for one in report.problems[0].examples] == [
        ("events-a.jsonl", 121),
        ("events-b.parquet", 121),
    ]
    assert report.tables["event"] == {"files": 2, "rows": 300}


def test_an_empty_day_of_json_lines_is_fine(tmp_path):
    assert check(a_folder(tmp_path, lines=b"")).exit_code == 0


@pytest.mark.parametrize(
    "column",
    [
        "event_id",
        "user_id",
        "session_id",
        "item_id",
        "surface",
        "event_type",
        "query",
        "value",
        "position",
        "event_time",
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_no_raw_id_is_shown_wherever_it_stands(tmp_path, column, as_json):
    """Columns may be swapped: what stands in any text may be somebody's id."""
    rows = [{**row, column: SECRET} for row in a_day(rows=3, query=SECRET * 30)] + [{"user_id": SECRET}] * 2
    a_folder(tmp_path, lines=as_lines(rows) + b'{"user_id": "' + SECRET.encode())
    code, said = run(tmp_path, *(["--json"] if as_json else []))
    assert code == 1
    assert len(said) > 200
    assert SECRET[:4] not in said
    rows = [an_event(1, user_id=None) | {"user_id": int("4711" * 4)}]
    (tmp_path / "events" / f"dt={FIRST}" / "part-0.jsonl").write_bytes(as_lines(rows))
    assert "47114" not in run(tmp_path)[1]


def test_only_the_first_rows_are_listed_and_all_are_counted(tmp_path):
    a_folder(tmp_path, a_day(event_type="hover"))
    code, said = run(tmp_path, "--rows", 3)
    assert said.count(": hover") == 3
    assert "and 147 more" in said
    told = json.loads(CliRunner().invoke(app, ["data", "check", str(tmp_path), "--rows", "3", "--json"]).stdout)
    assert (told["meets"], told["exit_code"], told["contract_version"]) == (False, 1, 1)
    assert (told["problems"][0]["rows"], len(told["problems"][0]["examples"])) == (150, 3)
    assert code == 1


def test_a_single_file_is_known_by_its_name_its_folders_or_by_what_one_says(tmp_path):
    a_folder(tmp_path)
    part = tmp_path / "events" / f"dt={FIRST}" / "part-0.parquet"
    assert check(part).tables == {"event": {"files": 1, "rows": 150}}
    other = tmp_path / "x.parquet"
    other.write_bytes(part.read_bytes())
    assert check(other, "events").tables == {"event": {"files": 1, "rows": 150}}
    with pytest.raises(InputRejected, match="--table says which table"):
        check(other)
    assert check(tmp_path).notes == ["not read, no table is called so: x.parquet"]


@pytest.mark.parametrize("name", ["dt=2017-13-01", "dt=..", "dt=2017-01-01x", "dt="])
def test_a_folder_that_is_no_day_is_refused_by_name(tmp_path, name):
    (tmp_path / "events" / name).mkdir(parents=True)
    pq.write_table(events_table(a_day()), tmp_path / "events" / name / "part.parquet")
    with pytest.raises(InputRejected, match=name[3:].replace(".", r"\.") + "' is not a day"):
        check(tmp_path)


def test_nothing_to_check_is_refused(tmp_path, monkeypatch, capsys):
    for path in (tmp_path, tmp_path / "absent"):
        monkeypatch.setattr("sys.argv", ["freshrank", "data", "check", str(path)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
    assert "holds no table" in capsys.readouterr().err


def test_markers_of_other_programs_are_passed_over(tmp_path):
    a_folder(tmp_path)
    (tmp_path / "events" / "_SUCCESS").write_text("")
    (tmp_path / "events" / f"dt={FIRST}" / ".part-0.parquet.crc").write_text("crc")
    assert check(tmp_path).notes == []


@settings(max_examples=30, deadline=None)
@given(keys=st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), max_size=30), cut=st.integers(0, 30))
def test_repeated_keys_are_those_that_stood_before(tmp_path_factory, keys, cut):
    repeated = RepeatedKeys(tmp_path_factory.mktemp("keys"))
    for file, (start, part) in enumerate([(0, keys[:cut]), (cut, keys[cut:])]):
        repeated.add(pl.Series(part, dtype=pl.String), file, range(start, start + len(part)))
    count, repeats = repeated.repeats(5)
    again = [n for n, key in enumerate(keys) if key is not None and key in keys[:n]]
    assert count == len(again)
    assert [one.row for one in repeats] == again[:5]
    assert all(keys.index(keys[one.row]) == one.first_row for one in repeats)


@given(known=st.lists(st.text(max_size=2)), asked=st.lists(st.one_of(st.none(), st.text(max_size=2))))
def test_unknown_keys_are_those_that_were_never_added(known, asked):
    keys = KnownKeys()
    for one in known:
        keys.add(pl.Series([one]))
    expected = [key is not None and key not in known for key in asked]
    assert keys.unknown(pl.Series(asked, dtype=pl.String)).to_list() == expected
