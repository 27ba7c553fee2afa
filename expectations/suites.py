"""Suites as code, one reason per expectation. The contract's columns yield most of them; the rest stand below.

An expectation here is a value; expectations/judge.py turns it into one of Great Expectations when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.domain.contract import EVENT, ITEM, PLAN, Contract


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that must hold for every row, and why."""

    name: str
    kind: str  # class of great_expectations.expectations
    arguments: dict[str, Any]
    reason: str

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads, in its own order."""
        return tuple(self.arguments.get("column_list", ())) or (self.arguments["column"],)


@dataclass(frozen=True, slots=True)
class Suite:
    name: str
    columns: tuple[str, ...]  # what the suite reads
    expectations: tuple[Expectation, ...]


def from_contract(contract: Contract) -> Iterator[Expectation]:
    """Not null, in set, pattern and range, as the contract's columns say. Uniqueness is left to the suites."""
    for column in contract.columns:
        name, of = column.name, {"column": column.name}
        if column.required:
            yield Expectation(f"{name}_not_null", "ExpectColumnValuesToNotBeNull", of, column.reason)
        if column.values:
            values = {"value_set": list(column.values)}
            yield Expectation(f"{name}_in_set", "ExpectColumnValuesToBeInSet", of | values, column.reason)
        if column.pattern:
            # \Z: with $, Python lets a last line break pass
            pattern = {"regex": re.sub(r"\$$", r"\\Z", column.pattern)}
            yield Expectation(f"{name}_matches", "ExpectColumnValuesToMatchRegex", of | pattern, column.reason)
        if column.minimum is not None or column.maximum is not None:
            bounds = {"min_value": column.minimum, "max_value": column.maximum}
            yield Expectation(f"{name}_in_range", "ExpectColumnValuesToBeBetween", of | bounds, column.reason)


def _suite(name: str, contract: Contract, *more: Expectation) -> Suite:
    return _of(name, *from_contract(contract), *more)


def _of(name: str, *expectations: Expectation) -> Suite:
    return Suite(name, tuple(sorted({column for one in expectations for column in one.columns})), expectations)


# Event ids are checked by the rule `duplicate`, which keeps the first of each: expectations/rules.py.
EVENTS = _suite("events", EVENT)
PLANS = _suite(  # several days are judged in one run, hence the pair
    "plan",
    PLAN,
    Expectation(
        "item_id_unique",
        "ExpectCompoundColumnsToBeUnique",
        {"column_list": ["partition", "item_id"]},
        "two plans for one item contradict each other",
    ),
)
ITEMS = _suite(
    "items",
    ITEM,
    Expectation(
        "item_id_unique",
        "ExpectColumnValuesToBeUnique",
        {"column": "item_id"},
        "two rows for one item: its text would depend on their order",
    ),
    Expectation(
        "text_length",
        "ExpectColumnValueLengthsToBeBetween",
        {"column": "text", "min_value": 1, "max_value": 20_000},
        "an endless text stalls the tokenizer",
    ),
    Expectation(
        "title_length",
        "ExpectColumnValueLengthsToBeBetween",
        {"column": "title", "min_value": 1, "max_value": 500},
        "a blank title cannot be shown",
    ),
)
SUITES = (EVENTS, PLANS, ITEMS)
