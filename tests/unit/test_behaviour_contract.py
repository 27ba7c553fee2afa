"""The contract: its page lists it, its schema follows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.domain.behaviour import pseudonym
from tasks.domain.contract import CONTRACTS, EVENT, arrow_schema
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


def test_times_are_utc_to_the_microsecond():
    assert str(arrow_schema(EVENT).field("event_time").type) == "timestamp[us, tz=UTC]"


def test_a_pseudonym_is_hex_stable_and_needs_a_real_key():
    key = bytes(32)
    assert pseudonym("1811", key) == pseudonym("1811", key) != pseudonym("1812", key)
    assert len(bytes.fromhex(pseudonym("", key))) == 32
    with pytest.raises(InputRejected, match="has 3 bytes, it needs 32"):
        pseudonym("1811", b"abc")
