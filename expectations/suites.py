"""Suites as code, one reason per expectation. The contract's columns yield most of them; the rest stand below.

An expectation here is a value; expectations/judge.py turns it into one of Great Expectations when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.domain.contract import EARLIEST, EVENT, ITEM, LATEST, PLAN, USER, Contract


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


NOT_BLANK = {"regex": r"[^\s\x1c-\x1f]"}  # Python counts these four as space, Rust does not
LARGEST_NUMBER = 1e300
CLOCK = {"min_value": datetime.fromisoformat(EARLIEST), "max_value": datetime.fromisoformat(LATEST)}


def from_contract(contract: Contract) -> Iterator[Expectation]:
    """Everything that the contract says of single values. Uniqueness is left to the suites, finiteness to the rules."""
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
        elif column.required and column.type == "string" and not column.values:
            yield Expectation(f"{name}_not_blank", "ExpectColumnValuesToMatchRegex", of | NOT_BLANK, column.reason)
        if column.longest:
            length = {"max_value": column.longest}
            yield Expectation(f"{name}_length", "ExpectColumnValueLengthsToBeBetween", of | length, column.reason)
        if column.minimum is not None or column.maximum is not None:
            bounds = {"min_value": column.minimum, "max_value": column.maximum}
            yield Expectation(f"{name}_in_range", "ExpectColumnValuesToBeBetween", of | bounds, column.reason)
        if column.type == "timestamp":
            yield Expectation(f"{name}_in_range", "ExpectColumnValuesToBeBetween", of | CLOCK, column.reason)


def _suite(name: str, *expectations: Expectation) -> Suite:
    return Suite(name, tuple(sorted({column for one in expectations for column in one.columns})), expectations)


def _within(column: str, low: float | None, high: float | None, reason: str) -> Expectation:
    bounds = {"column": column, "min_value": low, "max_value": high}
    return Expectation(f"{column}_in_range", "ExpectColumnValuesToBeBetween", bounds, reason)


def _there(column: str, reason: str) -> Expectation:
    """Neither null nor NaN."""
    return Expectation(f"{column}_not_null", "ExpectColumnValuesToNotBeNull", {"column": column}, reason)


def _unique(column: str, reason: str) -> Expectation:
    return Expectation(f"{column}_unique", "ExpectColumnValuesToBeUnique", {"column": column}, reason)


# Event ids are checked by the rule `duplicate`, which keeps the first of each: expectations/row_rules.py.
EVENTS = _suite("events", *from_contract(EVENT))
PLANS = _suite("plan", *from_contract(PLAN), _unique("item_id", "two plans for one item contradict each other"))
ITEMS = _suite(
    "items",
    *from_contract(ITEM),
    _unique("item_id", "two rows for one item: its text would depend on their order"),
)


def users_suite(numbers: Iterable[str] = ()) -> Suite:
    """For a user table whose further columns `numbers` are numbers."""
    return _suite(
        "users",
        *from_contract(USER),
        _unique("user_id", "two rows for one user: the features would depend on their order"),
        *(_within(name, -LARGEST_NUMBER, LARGEST_NUMBER, "an infinity spoils every mean") for name in sorted(numbers)),
    )


USERS = users_suite()
# One row is one training slate: what its rows have in common. tables.training_slates makes it.
TRAINING_SET = _suite(
    "training_set",
    _within("rows", 2, None, "a slate is a choice between things"),
    Expectation(
        "positives_in_range",
        "ExpectColumnValuesToBeBetween",
        {"column": "positives", "min_value": 1, "max_value": None, "mostly": 0.8},
        "a slate where nothing was found to be bought teaches no order; retrieval misses everything of few (7% on demo)",
    ),
    _within("negatives", 1, None, "a slate where everything was bought teaches no order"),
    _within("label_lowest", 0, None, "a label is a grade, none is below 0"),
    _within("label_highest", None, 1, "bought or not: the loss reads the label as a probability"),
    _there("weight_lowest", "one NaN weight makes the whole loss NaN"),
    _within(
        "weight_lowest", 1e-6, None, "a row of no weight is not there, one of negative weight teaches the opposite"
    ),
    _within("weight_highest", None, 1e4, "a row that stands for ten thousand drowns all others"),
    _there("input_largest", "one NaN input makes every gradient NaN"),
    _within("input_largest", 0, 6e4, "inputs are stored as float16, which ends at 65504; int8 hides an infinity"),
)
# One row is one slate as one system ranked it. tables.Predictions makes it.
PREDICTIONS = _suite(
    "predictions",
    Expectation(
        "slate_unique",
        "ExpectCompoundColumnsToBeUnique",
        {"column_list": ["kind", "system", "day", "user"]},
        "a slate that is judged twice counts twice",
    ),
    _within("candidates", 2, None, "there is no ranking of one thing"),
    _within("unranked", 0, 0, "a ranking has each candidate once; what is lost is never shown"),
    _within("rises", 0, 0, "a higher score stands earlier, else the list is not what the model said"),
    _there("score_lowest", "NaN compares with nothing: its place in the list is chance"),
    _within("score_lowest", -40, None, "lower than what an unknown item gets"),
    _there("score_highest", "NaN compares with nothing: its place in the list is chance"),
    _within("score_highest", None, 40, "scores are logits: as a probability this is exactly 1, which no model knows"),
    _within("scores", 2, None, "one score for the whole slate: the model is silent and the order is chance"),
)
SUITES = (EVENTS, PLANS, ITEMS, USERS, TRAINING_SET, PREDICTIONS)
