"""What PromQL's operators and functions make of vectors: matching by labels, counter resets, extrapolation, quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from infra.local.promql_samples import NAME, Labels, Samples, Selector, Vector
from tasks.domain.errors import InputRejected

Value = float | Vector
Run = Callable[[Samples, float], Value]
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, ">": lambda a, b: a > b,
    "<": lambda a, b: a < b, ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else (math.nan if not a or math.isnan(a) else math.copysign(math.inf, a)),
}  # fmt: skip
AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum, "max": max, "min": min, "count": len, "avg": lambda v: math.fsum(v) / len(v),
}  # fmt: skip


def combined(sign: str, left: Run, right: Run, on: tuple[str, ...] | None) -> Run:
    def run(samples: Samples, at: float) -> Value:
        a, b = left(samples, at), right(samples, at)
        if sign in ("and", "or", "unless"):
            return _set(sign, vector(a), vector(b), on)
        if sign in COMPARE:
            return _compared(COMPARE[sign], a, b, on)
        return _calculated(ARITHMETIC[sign], a, b, on)

    return run


def _set(sign: str, a: Vector, b: Vector, on: tuple[str, ...] | None) -> Vector:
    theirs = {_key(labels, on) for labels in b}
    if sign == "or":
        ours = {_key(labels, on) for labels in a}
        return a | {labels: value for labels, value in b.items() if _key(labels, on) not in ours}
    return {labels: value for labels, value in a.items() if (_key(labels, on) in theirs) == (sign == "and")}


def _compared(holds: Callable[[float, float], bool], a: Value, b: Value, on: tuple[str, ...] | None) -> Vector:
    if isinstance(a, dict) and isinstance(b, dict):
        return {labels: x for labels, x, y in _pairs(a, b, on) if holds(x, y)}
    if isinstance(a, dict):
        return {labels: x for labels, x in a.items() if holds(x, scalar(b))}
    if isinstance(b, dict):
        return {labels: y for labels, y in b.items() if holds(scalar(a), y)}
    raise InputRejected("two numbers are compared; one side must be a series")


def _calculated(made: Callable[[float, float], float], a: Value, b: Value, on: tuple[str, ...] | None) -> Value:
    if isinstance(a, dict) and isinstance(b, dict):
        return {_without_name(labels): made(x, y) for labels, x, y in _pairs(a, b, on)}
    if isinstance(a, dict):
        return {_without_name(labels): made(x, scalar(b)) for labels, x in a.items()}
    if isinstance(b, dict):
        return {_without_name(labels): made(scalar(a), y) for labels, y in b.items()}
    return made(a, b)


def _pairs(a: Vector, b: Vector, on: tuple[str, ...] | None) -> Iterator[tuple[Labels, float, float]]:
    theirs: dict[Labels, float] = {}
    for labels, value in b.items():
        if _key(labels, on) in theirs:
            raise InputRejected(f"several series on the right match {dict(_key(labels, on))}")
        theirs[_key(labels, on)] = value
    for labels, value in a.items():
        if (key := _key(labels, on)) in theirs:
            yield (key if on is not None else labels), value, theirs[key]


def _key(labels: Labels, on: tuple[str, ...] | None) -> Labels:
    return _without_name(labels) if on is None else only(labels, on)


def only(labels: Labels, names: Iterable[str]) -> Labels:
    wanted = set(names)
    return frozenset(pair for pair in labels if pair[0] in wanted)


def _without_name(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != NAME)


def vector(value: Value) -> Vector:
    if isinstance(value, dict):
        return value
    raise InputRejected(f"the number {value:g} stands where a series should")


def scalar(value: Value) -> float:
    if isinstance(value, dict):
        raise InputRejected("a series stands where a number should")
    return value


Ranged = Callable[[list[tuple[float, float]], Selector, float], float | None]


def ranged(function: Ranged, found: dict[Labels, list[tuple[float, float]]], selector: Selector, at: float) -> Vector:
    values = {_without_name(labels): function(pairs, selector, at) for labels, pairs in found.items()}
    return {labels: value for labels, value in values.items() if value is not None}


def _grown(pairs: list[tuple[float, float]], selector: Selector, at: float, per_s: float = 1.0) -> float | None:
    """As Prometheus: the growth between the samples, stretched to the edges of the range unless the samples end far before."""
    if len(pairs) < 2:
        return None
    (first_at, first), (last_at, last) = pairs[0], pairs[-1]
    grown = last - first + sum(a for (_, a), (_, b) in pairwise(pairs) if b < a)
    end = at - selector.offset_s
    to_start, to_end = first_at - (end - selector.range_s), end - last_at
    sampled = last_at - first_at
    usual = sampled / (len(pairs) - 1)
    near = usual * 1.1
    to_start = to_start if to_start < near else usual / 2
    if grown > 0 and first >= 0:
        to_start = min(to_start, sampled * first / grown)  # a counter never was below zero
    to_end = to_end if to_end < near else usual / 2
    return grown * ((sampled + to_start + to_end) / sampled / per_s)


OVER_RANGE: dict[str, Ranged] = {
    "increase": _grown,
    "rate": lambda pairs, selector, at: _grown(pairs, selector, at, selector.range_s),
    "max_over_time": lambda pairs, selector, at: max(value for _, value in pairs),
    "min_over_time": lambda pairs, selector, at: min(value for _, value in pairs),
}


def quantiles(q: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        bound = dict(labels).get("le")
        if bound is not None:
            rest = frozenset(pair for pair in labels if pair[0] not in ("le", NAME))
            groups.setdefault(rest, []).append((math.inf if bound == "+Inf" else float(bound), count))
    return {labels: _quantile(q, sorted(found)) for labels, found in groups.items()}


def _quantile(q: float, buckets: list[tuple[float, float]]) -> float:
    total = buckets[-1][1]
    if len(buckets) < 2 or not math.isinf(buckets[-1][0]) or not total:
        return math.nan
    rank = q * total
    place = next(place for place, (_, count) in enumerate(buckets) if count >= rank)
    if place == len(buckets) - 1:
        return buckets[-2][0]
    bound, count = buckets[place]
    below, before = buckets[place - 1] if place else (min(bound, 0.0) if bound <= 0 else 0.0, 0.0)
    if not place and bound <= 0:
        return bound
    return below + (bound - below) * (rank - before) / (count - before)
