"""The part of PromQL that our alert rules use. What it does not know, it refuses when it parses.

tests/unit/test_promql.py holds it against promtool where that is installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.local.promql_operators import (
    AGGREGATE,
    COMPARE,
    OVER_RANGE,
    Run,
    Value,
    combined,
    only,
    quantiles,
    ranged,
    scalar,
    vector,
)
from infra.local.promql_samples import LOOK_BACK_S, Labels, Samples, Selector, Vector
from tasks.domain.errors import InputRejected

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
TOKEN = re.compile(
    r"\s*(?:(?P<duration>\d+(?:ms|[smhdw])(?![\w.]))|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)|(?P<word>[a-zA-Z_:][\w:]*)"
    r'|(?P<string>"[^"]*")|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/(){}\[\],><=]))'
)
STRENGTH = {"or": 1, "and": 2, "unless": 2} | dict.fromkeys(COMPARE, 3) | {"+": 4, "-": 4, "*": 5, "/": 5}


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
            left = combined(sign, left, self.binary(STRENGTH[sign]), on)
        return left

    def _unary(self) -> Run:
        if self._peek() == "-":
            self._next()
            return combined("*", lambda samples, at: -1.0, self._unary(), None)
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
            for labels, value in vector(inner(samples, at)).items():
                groups.setdefault(only(labels, by), []).append(value)
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
            return lambda samples, at: ranged(function, samples.over(selector, at), selector, at)
        if name == "histogram_quantile":
            q = self.binary(0)
            self._expect(",")
            inner = self.binary(0)
            self._expect(")")
            return lambda samples, at: quantiles(scalar(q(samples, at)), vector(inner(samples, at)))
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
