"""The contract: its page lists it, its schemas follow it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from tasks import contract_page
from tasks.domain.behaviour import pseudonym
from tasks.domain.contract import CONTRACT_VERSION, CONTRACTS, EVENT, ITEM, USER, arrow_schema, as_sent
from tasks.domain.errors import InputRejected

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data-contract.md"


def documented(title: str) -> dict[str, list[str]]:
    section = PAGE.read_text().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    return {row[0]: row for row in rows if row[0] != "column"}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_the_page_lists_every_column_with_its_type_and_whether_it_is_required(contract):
    rows = documented(contract.name.capitalize())
    assert tuple(rows) == contract.names
    for column in contract.columns:
        name, kind, required = rows[column.name][:3]
        assert (kind.split(" ")[0], required == "yes") == (column.type, column.required), name
        for value in column.values:
            assert value in rows[name][4]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_the_schema_has_the_columns_in_order_and_the_key_is_required(contract):
    schema = arrow_schema(contract)
    assert tuple(schema.names) == contract.names
    assert [field.name for field in schema if not field.nullable] == list(contract.required)
    assert contract.key in contract.required
    assert all(column.meaning and column.reason for column in contract.columns)


def test_the_page_and_the_json_schemas_are_what_the_contract_says(capsys):
    assert contract_page.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["data-contract.md", "contract/item.schema.json"])
def test_a_stale_page_or_schema_is_named(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "contract").mkdir()
    for file, text in contract_page.pages(PAGE.parent).items():
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(contract_page, "DOCS", tmp_path)
    assert contract_page.main(["--check"]) == 0
    whole = (tmp_path / name).read_text()
    (tmp_path / name).write_text(whole.replace("What a person reads in the list", "Whatever"))
    assert contract_page.main(["--check"]) == 1
    assert f"docs/{name} is not what the contract says" in capsys.readouterr().err
    assert contract_page.main([]) == 0
    assert (tmp_path / name).read_text() == whole


def test_page_parquet_schema_and_json_schema_name_the_version():
    assert f"This is version {CONTRACT_VERSION} of the contract" in PAGE.read_text()
    for contract in CONTRACTS:
        schema = json.loads((PAGE.parent / "contract" / f"{contract.name}.schema.json").read_text())
        assert schema["$id"].endswith(f":{CONTRACT_VERSION}:{contract.name}")
        assert arrow_schema(contract).metadata[b"contract_version"] == str(CONTRACT_VERSION).encode()


A_ROW = {
    "event": {
        "event_id": "e1",
        "event_time": "2026-03-02T18:04:05Z",
        "user_id": "1811",
        "surface": "search",
        "item_id": "i1",
        "event_type": "click",
    },
    "plan": {"item_id": "i1", "display_share": 0.5, "mailer_share": 0},
    "item": {"item_id": "i1", "title": "T", "text": "t", "available": True, "updated_at": "2026-03-02T18:04:05+01:00"},
    "user": {"user_id": "1811", "age": 44, "city": "Bonn", "member": False, "income": None},
}
BAD = [
    ("event", {"event_id": None}),
    ("event", {"event_id": " "}),
    ("event", {"event_time": "2026-03-02T18:04:05"}),
    ("event", {"event_time": 1772474645}),
    ("event", {"user_id": 1811}),
    ("event", {"surface": "mail"}),
    ("event", {"event_type": None}),
    ("event", {"position": -1}),
    ("event", {"position": 1.5}),
    ("event", {"position": 2**31}),
    ("event", {"value": "3.50"}),
    ("event", {"value": -1}),
    ("event", {"propensity": 0}),
    ("event", {"propensity": 1.01}),
    ("event", {"query": "x" * 513}),
    ("plan", {"display_share": 1.01}),
    ("item", {"title": ""}),
    ("item", {"title": "t" * 501}),
    ("item", {"text": "t" * 20_001}),
    ("item", {"item_id": "i" * 129}),
    ("item", {"available": "yes"}),
    ("user", {"tags": ["a"]}),
    ("user", {"user_id": ""}),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_the_json_schema_is_one_and_takes_a_sound_row_with_and_without_nulls(contract):
    schema = contract_page.json_schema(contract)
    Draft202012Validator.check_schema(schema)
    judge, row = Draft202012Validator(schema), A_ROW[contract.name]
    nulls = {name: None for name in contract.names if name not in contract.required}
    assert list(judge.iter_errors(row)) == list(judge.iter_errors(nulls | row)) == []
    for name in contract.required:
        assert not judge.is_valid({key: value for key, value in row.items() if key != name})


@pytest.mark.parametrize(
    ("name", "bad"), BAD, ids=[f"{name}-{next(iter(bad))}-{n}" for n, (name, bad) in enumerate(BAD)]
)
def test_the_json_schema_refuses_a_bad_row_at_the_column_that_is_bad(name, bad):
    schema = next(contract_page.json_schema(contract) for contract in CONTRACTS if contract.name == name)
    errors = Draft202012Validator(schema).iter_errors(A_ROW[name] | bad)
    assert {tuple(error.path) for error in errors} == {tuple(bad)}


def test_what_a_source_sends_has_raw_ids_where_ingest_puts_pseudonyms():
    patterns = {column.name: column.pattern for column in as_sent(EVENT).columns if column.pseudonym}
    assert patterns == {"user_id": "", "session_id": ""}
    assert all(column.pattern for column in EVENT.columns if column.pseudonym)


def test_further_columns_of_users_are_text_bool_or_numbers():
    text = pa.dictionary(pa.int32(), pa.large_string())
    found = pa.schema([("city", text), ("age", pa.int16()), ("user_id", pa.string()), ("member", pa.bool_())])
    schema = arrow_schema(USER, found)
    assert schema.names == ["user_id", "age", "city", "member"]
    assert schema.types == [pa.string(), pa.float64(), pa.string(), pa.bool_()]
    with pytest.raises(InputRejected, match="column tags of the user table is list"):
        arrow_schema(USER, found.append(pa.field("tags", pa.list_(pa.string()))))
    assert arrow_schema(ITEM, found).names == list(ITEM.names)  # closed: the rest is left out


def test_times_are_utc_to_the_microsecond():
    assert str(arrow_schema(EVENT).field("event_time").type) == "timestamp[us, tz=UTC]"


def test_a_pseudonym_is_hex_stable_and_needs_a_real_key():
    key = bytes(32)
    assert pseudonym("1811", key) == pseudonym("1811", key) != pseudonym("1812", key)
    assert len(bytes.fromhex(pseudonym("", key))) == 32
    with pytest.raises(InputRejected, match="has 3 bytes, it needs 32"):
        pseudonym("1811", b"abc")
