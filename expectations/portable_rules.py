"""The rules about rows that ask for no past, and the contract's suite, as expressions that Polars and Apache Spark both run.

The same meaning as expectations/row_rules.py and expectations/profile.py, which are faster where a day fits into memory; tests
hold both against each other row for row. Narwhals translates: a frame here is never looked into, only described.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from typing import Any

import narwhals as nw

from expectations.row_rules import ACTIONS, ANSWERS, NUMBERS, midnight
from expectations.suites import EVENTS, Expectation
from tasks.domain.data_policy import DataPolicy

ROW, TIME = "row", "time_us"  # number of the row in its file; event_time in microseconds since 1970, UTC
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
ACT = ("user_id", "item_id", "event_type")
ORDER = [TIME, ROW]


@dataclass(frozen=True, slots=True)
class Engine:
    """What differs between engines: how a pattern is written that Python reads with \\Z and Unicode spaces."""

    pattern: Callable[[str], str]


POLARS = Engine(lambda regex: regex.replace(r"\Z", r"\z"))
SPARK = Engine(lambda regex: "(?U)" + regex.replace(r"\Z", r"\z"))  # else Java knows the spaces of ASCII only


def caught(events: nw.LazyFrame[Any], items: nw.LazyFrame[Any], day: str, policy: DataPolicy, engine: Engine) -> Any:
    """A lazy frame of the rows that any rule catches: `row`, and for each rule whether it is the one.

    Args:
        events: ROW, TIME and the columns of the contract.
        items: item_id, of the day's item table.
    """
    counted = events.select(rows=nw.len(), shown=(nw.col("event_type") == "impression").cast(nw.Int64).sum()).collect()
    rows, shown = int(counted["rows"][0]), int(counted["shown"][0] or 0)
    masks = dict(_contract(engine)) | {
        name: mask for name, mask in _rules(day, policy, rows, shown > 0) if policy.rows[name].action != "off"
    }
    prepared = _prepared(events, items, policy)
    told = prepared.select(ROW, **{name: mask.fill_null(False) for name, mask in masks.items()})
    return told.filter(reduce(lambda one, other: one | other, (nw.col(name) for name in masks)))


def _prepared(events: Any, items: Any, policy: DataPolicy) -> Any:
    """The events with what rules ask of other rows."""
    known = reduce(lambda one, other: one & other, (~nw.col(name).is_null() for name in ACT))
    events = events.with_columns(alike=known & (nw.len().over(*ACT) > 1))
    events = events.with_columns(
        first_of_id=nw.col(ROW).min().over("event_id"),
        first_alike=nw.col(ROW).min().over("event_id", "alike"),
        gap=nw.col(TIME).diff().over(*ACT, order_by=ORDER),
        value_before=nw.col("value").shift(1).over(*ACT, order_by=ORDER),
        request_before=nw.col("request_id").shift(1).over(*ACT, order_by=ORDER),
        number=nw.col(ROW).cum_count().over("user_id", order_by=ORDER),
        of_user=nw.len().over("user_id"),
    )
    first = nw.col("alike") & (nw.col(ROW) == nw.col("first_alike"))
    events = events.with_columns(counts=nw.when(first).then(nw.col(ROW)))
    events = events.with_columns(first_of_moment=nw.col("counts").min().over(*ACT, TIME))
    items = items.select("item_id").filter(~nw.col("item_id").is_null()).unique("item_id")
    events = events.join(items.with_columns(is_item=nw.lit(True)), on="item_id", how="left")
    shown = (
        events.filter((nw.col("event_type") == "impression") & ~nw.col("request_id").is_null())
        .group_by("request_id", "item_id")
        .agg(shown_at=nw.col(TIME).min())
        .with_columns(was_shown=nw.lit(True))
    )
    events = events.join(shown, on=["request_id", "item_id"], how="left")
    return events.join(_fast(events, policy), on="user_id", how="left")


def _fast(events: Any, policy: DataPolicy) -> Any:
    """user_id, and how often the user acts again within `gap_s`; several lines of one moment are one act."""
    acts = events.filter(nw.col("event_type").is_in(ACTIONS) & ~nw.col("user_id").is_null())
    acts = acts.select("user_id", TIME).unique(["user_id", TIME])
    acts = acts.with_columns(act_gap=nw.col(TIME).diff().over("user_id", order_by=TIME))
    again = (nw.col("act_gap") / 1e6 < policy.rows["superhuman"].settings["gap_s"]).fill_null(False)
    return acts.with_columns(again=again.cast(nw.Int64)).group_by("user_id").agg(fast=nw.col("again").sum())


def _rules(day: str, policy: DataPolicy, rows: int, are_shown: bool) -> Iterator[tuple[str, nw.Expr]]:
    def told(rule: str, setting: str) -> float:
        return policy.rows[rule].settings[setting]

    def is_same(name: str, before: str) -> nw.Expr:
        both_absent = nw.col(name).is_null() & nw.col(before).is_null()
        return (nw.col(name) == nw.col(before)).fill_null(False) | both_absent

    time, answers = nw.col(TIME), nw.col("event_type").is_in(ANSWERS)
    none = nw.col(ROW) < 0
    yield "duplicate", (nw.col(ROW) > nw.col("first_of_id")) & ~nw.col("event_id").is_null()
    again = nw.col("alike") & (nw.col("gap") > 0) & (nw.col("gap") / 1e6 <= told("retry", "seconds"))
    yield "retry", again & is_same("value", "value_before") & is_same("request_id", "request_before")
    yield "same_moment", nw.col("counts") > nw.col("first_of_moment")
    yield "unknown_item", nw.col("is_item").is_null() & ~nw.col("item_id").is_null()
    yield "not_finite", reduce(lambda a, b: a | b, ((~nw.col(name).is_finite()).fill_null(False) for name in NUMBERS))
    yield "wrong_day", time >= _us(midnight(day, 1))
    yield "late", time < _us(midnight(day, 0))
    yield "stale", time < _us(midnight(day, -int(told("stale", "days"))))
    most = max(told("user_flood", "share") * rows, told("user_flood", "at_least_rows"))
    has_user = ~nw.col("user_id").is_null()
    yield "user_flood", (nw.col("of_user") > most) & has_user
    yield "superhuman", (nw.col("fast") >= told("superhuman", "times"))
    yield "over_cap", (nw.col("number") > told("over_cap", "rows")) & has_user
    early = (nw.col("shown_at") - time) > told("click_before_impression", "seconds") * 1e6
    yield "click_before_impression", answers & early if are_shown else none
    yield "orphan_click", answers & nw.col("was_shown").is_null() if are_shown else none


def _contract(engine: Engine) -> Iterator[tuple[str, nw.Expr]]:
    floats = frozenset(NUMBERS)
    for one in EVENTS.expectations:
        (name,) = one.columns
        column = TIME if name == "event_time" else name
        value = nw.col(column)
        absent = value.is_null() | value.is_nan().fill_null(False) if name in floats else value.is_null()
        breaks = absent if one.kind == "ExpectColumnValuesToNotBeNull" else _breaks(one, value, engine) & ~absent
        yield one.name, breaks


def _breaks(one: Expectation, value: nw.Expr, engine: Engine) -> nw.Expr:
    told = one.arguments
    if one.kind == "ExpectColumnValuesToBeInSet":
        return ~value.is_in(told["value_set"])
    if one.kind == "ExpectColumnValuesToMatchRegex":
        return ~value.str.contains(engine.pattern(told["regex"]))
    if one.kind == "ExpectColumnValueLengthsToBeBetween":
        value = value.str.len_chars()
    elif one.kind != "ExpectColumnValuesToBeBetween":
        raise ValueError(f"{one.name}: no portable form of {one.kind}; write one in expectations/portable_rules.py")
    low, high = (
        _us(bound) if isinstance(bound, datetime) else bound for bound in map(told.get, ("min_value", "max_value"))
    )
    under = value < (-math.inf if low is None else low)
    return under if high is None else under | (value > high)


def _us(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)
