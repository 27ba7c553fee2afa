"""Samples of metrics in memory, as Prometheus keeps them: staleness markers, five minutes of look-back, left-open ranges."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
STALE = None  # a series that its target no longer shows
LOOK_BACK_S = 300.0
NAME = "__name__"


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[tuple[str, Callable[[str], bool]], ...] = ()
    range_s: float = 0.0
    offset_s: float = 0.0


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
