"""The part of PromQL that our alert rules use, over samples in memory. What it does not know, it refuses when it parses.

Follows Prometheus: staleness markers, five minutes of look-back, left-open ranges, counter resets, extrapolated rates,
interpolated histogram quantiles. tests/unit/test_promql.py holds it against promtool where that is installed.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from tasks.domain.errors import InputRejected

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Value = float | Vector
STALE = None  # a series that its target no longer shows
LOOK_BACK_S = 300.0
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
NAME = "__name__"


class Samples:
    """Series -> [(time, value)], oldest first. A value of STALE ends a series until it is seen again."""

    def __init__(self, keep_s: float = math.inf) -> None:
        self.keep_s = keep_s
        self._series: dict[Labels, tuple[list[float], list[float | None]]] = {}

    def add(self, labels: Mapping[str, str], at: float, value: float | None) -> None:
        times, values = self._series.setdefault(frozenset(labels.items()), ([], []))
        times.append(at)
        values.append(value)
        if len(times) > 64 and times[0] < at - self.keep_s:
            first = bisect_right(times, at - self.keep_s)
            del times[:first], values[:first]

    def forget(self, before: float) -> None:
        """Drop series that ended before then."""
        for labels in [labels for labels, (times, _) in self._series.items() if times[-1] < before]:
            del self._series[labels]

    def at(self, selector: Selector, moment: float) -> Vector:
        moment -= selector.offset_s
        found: Vector = {}
        for labels, (times, values) in self._matching(selector):
            place = bisect_right(times, moment) - 1
            value = values[place] if place >= 0 and times[place] > moment - LOOK_BACK_S else None
            if value is not None:
                found[labels] = value
        return found

    def over(self, selector: Selector, moment: float) -> dict[Labels, list[tuple[float, float]]]:
        """The samples of (moment - range, moment], shifted by the offset."""
        moment -= selector.offset_s
        found: dict[Labels, list[tuple[float, float]]] = {}
        for labels, (times, values) in self._matching(selector):
            part = slice(bisect_right(times, moment - selector.range_s), bisect_right(times, moment))
            pairs = [(t, v) for t, v in zip(times[part], values[part], strict=True) if v is not None]
            if pairs:
                found[labels] = pairs
        return found

    def _matching(self, selector: Selector) -> Iterator[tuple[Labels, tuple[list[float], list[float | None]]]]:
        for labels, series in self._series.items():
            told = dict(labels)
            if told.get(NAME) == selector.name and all(
                match(told.get(label, "")) for label, match in selector.matchers
            ):
                yield labels, series


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[tuple[str, Callable[[str], bool]], ...] = ()
    range_s: float = 0.0
    offset_s: float = 0.0


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `selectors` is what it reads, for whoever must keep or check it."""

    text: str
    run: Callable[[Samples, float], Value] = field(repr=False)
    selectors: tuple[Selector, ...] = ()

    def at(self, samples: Samples, moment: float) -> Vector:
        """The vector at a moment; a scalar is one element without labels."""
        value = self.run(samples, moment)
        return value if isinstance(value, dict) else {frozenset(): value}

    @property
    def reach_s(self) -> float:
        """How far back it looks."""
        return max((s.range_s + s.offset_s + LOOK_BACK_S for s in self.selectors), default=0.0)


def parse(text: str) -> Expression:
    """Raises InputRejected for what is no PromQL, or PromQL that this does not know."""
    parser = _Parser(text)
    run = parser.binary(0)
    parser.done()
    return Expression(text, run, tuple(parser.selectors))


Run = Callable[[Samples, float], Value]
TOKEN = re.compile(
    r"\s*(?:(?P<duration>\d+(?:ms|[smhdw])(?![\w.]))|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)|(?P<word>[a-zA-Z_:][\w:]*)"
    r'|(?P<string>"[^"]*")|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/(){}\[\],><=]))'
)
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, ">": lambda a, b: a > b,
    "<": lambda a, b: a < b, ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else (math.nan if not a or math.isnan(a) else math.copysign(math.inf, a)),
}  # fmt: skip
STRENGTH = {"or": 1, "and": 2, "unless": 2} | dict.fromkeys(COMPARE, 3) | {"+": 4, "-": 4, "*": 5, "/": 5}
AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum, "max": max, "min": min, "count": len, "avg": lambda v: math.fsum(v) / len(v),
}  # fmt: skip


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.place, self.selectors = text, 0, list[Selector]()
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            found = TOKEN.match(text, at)
            if not found:
                raise self._wrong(f"cannot read {text[at : at + 20]!r}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()

    def done(self) -> None:
        if self.place < len(self.tokens):
            raise self._wrong(f"cannot go on at {self.tokens[self.place][1]!r}")

    def binary(self, weakest: int) -> Run:
        left = self._unary()
        while (sign := self._peek()) in STRENGTH and STRENGTH[sign] > weakest:
            self._next()
            on = self._matching()
            left = _combined(sign, left, self.binary(STRENGTH[sign]), on)
        return left

    def _unary(self) -> Run:
        if self._peek() == "-":
            self._next()
            return _combined("*", lambda samples, at: -1.0, self._unary(), None)
        return self._primary()

    def _primary(self) -> Run:
        kind, word = self._next()
        if word == "(":
            inner = self.binary(0)
            self._expect(")")
            return inner
        if kind == "number":
            return lambda samples, at, value=float(word): value  # type: ignore[misc]
        if kind != "word":
            raise self._wrong(f"did not expect {word!r}")
        if word in AGGREGATE:
            return self._aggregate(word)
        if self._peek() == "(":
            return self._call(word)
        selector = self._selector(word)
        if selector.range_s:
            raise self._wrong("a range stands outside a function")
        return lambda samples, at: samples.at(selector, at)

    def _aggregate(self, name: str) -> Run:
        by = self._by()
        self._expect("(")
        inner = self.binary(0)
        self._expect(")")
        by = by if by is not None else self._by() or ()

        def run(samples: Samples, at: float) -> Value:
            groups: dict[Labels, list[float]] = {}
            for labels, value in _vector(inner(samples, at)).items():
                groups.setdefault(_only(labels, by), []).append(value)
            return {labels: float(AGGREGATE[name](values)) for labels, values in groups.items()}

        return run

    def _call(self, name: str) -> Run:
        self._expect("(")
        if name == "time":
            self._expect(")")
            return lambda samples, at: at
        if name in OVER_RANGE:
            selector = self._selector(self._next()[1])
            self._expect(")")
            if not selector.range_s:
                raise self._wrong(f"{name} needs a range such as [5m]")
            function = OVER_RANGE[name]
            return lambda samples, at: _ranged(function, samples.over(selector, at), selector, at)
        if name == "histogram_quantile":
            q = self.binary(0)
            self._expect(",")
            inner = self.binary(0)
            self._expect(")")
            return lambda samples, at: _quantiles(_scalar(q(samples, at)), _vector(inner(samples, at)))
        if name == "absent":
            inner = self.binary(0)
            self._expect(")")
            return lambda samples, at: {} if inner(samples, at) else {frozenset(): 1.0}
        raise self._wrong(f"does not know the function {name}")

    def _selector(self, name: str) -> Selector:
        matchers, range_s, offset_s = [], 0.0, 0.0
        if self._peek() == "{":
            self._next()
            while self._peek() != "}":
                label, sign, text = self._next()[1], self._next()[1], self._next()[1].strip('"')
                if sign not in ("=", "!=", "=~", "!~"):
                    raise self._wrong(f"{sign!r} compares no label")
                matchers.append((label, _matcher(sign, text)))
                if self._peek() == ",":
                    self._next()
            self._next()
        if self._peek() == "[":
            self._next()
            range_s = self._duration()
            self._expect("]")
        if self._peek() == "offset":
            self._next()
            offset_s = self._duration()
        self.selectors.append(Selector(name, tuple(matchers), range_s, offset_s))
        return self.selectors[-1]

    def _by(self) -> tuple[str, ...] | None:
        if self._peek() == "without":
            raise self._wrong("does not know without; name the labels with by")
        return self._names("by")

    def _matching(self) -> tuple[str, ...] | None:
        if self._peek() in ("ignoring", "bool", "group_left", "group_right"):
            raise self._wrong(f"does not know {self._peek()}")
        return self._names("on")

    def _names(self, word: str) -> tuple[str, ...] | None:
        if self._peek() != word:
            return None
        self._next()
        self._expect("(")
        names = []
        while self._peek() != ")":
            names.append(self._next()[1])
            if self._peek() == ",":
                self._next()
        self._next()
        return tuple(names)

    def _duration(self) -> float:
        kind, word = self._next()
        if kind != "duration":
            raise self._wrong(f"{word!r} is no duration")
        unit = word.lstrip("0123456789")
        return int(word.removesuffix(unit)) * UNITS[unit]

    def _peek(self) -> str:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    def _next(self) -> tuple[str, str]:
        if self.place == len(self.tokens):
            raise self._wrong("ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def _expect(self, word: str) -> None:
        if (found := self._next()[1]) != word:
            raise self._wrong(f"expected {word!r}, found {found!r}")

    def _wrong(self, said: str) -> InputRejected:
        return InputRejected(f"the expression {self.text.strip()!r} {said}")


def _matcher(sign: str, text: str) -> Callable[[str], bool]:
    pattern = re.compile(text)
    return {
        "=": lambda value: value == text,
        "!=": lambda value: value != text,
        "=~": lambda value: bool(pattern.fullmatch(value)),
        "!~": lambda value: not pattern.fullmatch(value),
    }[sign]


def _combined(sign: str, left: Run, right: Run, on: tuple[str, ...] | None) -> Run:
    def run(samples: Samples, at: float) -> Value:
        a, b = left(samples, at), right(samples, at)
        if sign in ("and", "or", "unless"):
            return _set(sign, _vector(a), _vector(b), on)
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
        return {labels: x for labels, x in a.items() if holds(x, _scalar(b))}
    if isinstance(b, dict):
        return {labels: y for labels, y in b.items() if holds(_scalar(a), y)}
    raise InputRejected("two numbers are compared; one side must be a series")


def _calculated(made: Callable[[float, float], float], a: Value, b: Value, on: tuple[str, ...] | None) -> Value:
    if isinstance(a, dict) and isinstance(b, dict):
        return {_without_name(labels): made(x, y) for labels, x, y in _pairs(a, b, on)}
    if isinstance(a, dict):
        return {_without_name(labels): made(x, _scalar(b)) for labels, x in a.items()}
    if isinstance(b, dict):
        return {_without_name(labels): made(_scalar(a), y) for labels, y in b.items()}
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
    return _without_name(labels) if on is None else _only(labels, on)


def _only(labels: Labels, names: Iterable[str]) -> Labels:
    wanted = set(names)
    return frozenset(pair for pair in labels if pair[0] in wanted)


def _without_name(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != NAME)


def _vector(value: Value) -> Vector:
    if isinstance(value, dict):
        return value
    raise InputRejected(f"the number {value:g} stands where a series should")


def _scalar(value: Value) -> float:
    if isinstance(value, dict):
        raise InputRejected("a series stands where a number should")
    return value


Ranged = Callable[[list[tuple[float, float]], Selector, float], float | None]


def _ranged(function: Ranged, found: dict[Labels, list[tuple[float, float]]], selector: Selector, at: float) -> Vector:
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


def _quantiles(q: float, buckets: Vector) -> Vector:
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
