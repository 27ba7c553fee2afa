"""The pictures of a decision as inline SVG: bounds against their limit, the compression front, calibration, latencies.

Units are pixels at a phone's width, so that text keeps its size there; the page sets how wide a picture may become.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tasks.domain.creep import RISE, Levels
from tasks.page import BAD, CHAMPION, COLOURS, GOOD, QUIET, UNSURE, chart

ROUND = (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
WIDTH, EDGE = 340.0, 8.0
INK = {"candidate": GOOD, "champion": CHAMPION, "weights": GOOD, "state": UNSURE, "bootstrap": GOOD}


class Axis:
    """Values between `low` and `high` -> pixels between two edges; what lies outside is cut at the edge."""

    def __init__(self, low: float, high: float, start: float = EDGE, end: float = WIDTH - EDGE) -> None:
        spare = (high - low or abs(high) or 1.0) * 0.06
        self.low, self.high, self.start, self.end = low - spare, high + spare, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to six round numbers inside."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 3))
        step = next(step * times for times in (1, 2, 5, 10) if (self.high - self.low) / (step * times) <= 5.5)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def bound_plot(finding: dict[str, Any], bounds: dict[str, Any], axis: Axis) -> str:
    """Estimate and both bounds of one finding; red where it may not be, the bound that decides drawn heavily."""
    ratio, limit = bounds["of"] == "ratio", finding["margin"]
    allowed, equal = (limit, 1.0) if ratio else (-limit, 0.0)
    ink, middle = COLOURS[finding["outcome"]], 15
    low, at, high = axis(bounds["low"]), axis(bounds["at"]), axis(bounds["high"])
    wall = axis(allowed)
    shapes = [*_wall(wall, axis.end)] if ratio else [*_wall(axis.start, wall)]
    shapes += [
        _line(axis(equal), 2, axis(equal), 28, "currentColor", 1),
        _line(low, middle, high, middle, ink, 3),
        _line(low, middle - 5, low, middle + 5, ink, 2),
        _line(high, middle - 5, high, middle + 5, ink, 2),
        f"<circle cx='{at:.1f}' cy='{middle}' r='5' fill='{ink}'/>",
    ]
    if finding["bound"] is not None:
        held = axis(finding["bound"])
        shapes.append(_line(held, middle - 9, held, middle + 9, ink, 4))
    names = [(wall, f"{allowed:.4g}" if ratio else f"{allowed:+.4g}"), (axis(equal), "1" if ratio else "0")]
    shapes += [_text(min(max(x, 24), WIDTH - 24), 41, told) for x, told in _apart(names)]
    label = (
        f"estimate {bounds['at']:+.4f}, between {bounds['low']:+.4f} and {bounds['high']:+.4f}, limit {allowed:+.4f}"
    )
    return chart(WIDTH, 45, label, shapes)


def _wall(start: float, end: float) -> list[str]:
    """Where a bound may not be, and the limit at its inner side."""
    inner = end if start <= EDGE else start
    return [
        f"<rect x='{start:.1f}' y='4' width='{max(end - start, 0):.1f}' height='22' fill='{BAD}' opacity='.16'/>",
        _line(inner, 2, inner, 28, BAD, 2),
    ]


def axis_of(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Axis:
    """One axis for (finding, its bounds) that are compared by eye. A slice of few slates is cut: it must not squeeze others."""
    ratio = rows[0][1]["of"] == "ratio"
    walls = [one["margin"] if ratio else -one["margin"] for one, _ in rows] + [1.0 if ratio else 0.0]
    widths = sorted(b["high"] - b["low"] for _, b in rows)
    usual = widths[len(widths) // 2] * 3
    lows = [max(b["low"], b["at"] - usual) for _, b in rows]
    highs = [min(b["high"], b["at"] + usual) for _, b in rows]
    return Axis(min(*lows, *walls), max(*highs, *walls))


def value_plot(value: float, limit: float, ok: bool, name: str) -> str:
    """A fact and its limit on one line."""
    axis, ink = Axis(min(value, limit, 0.0), max(value, limit)), GOOD if ok else BAD
    shapes = [
        _line(axis.start, 15, axis.end, 15, QUIET, 1),
        _line(axis(limit), 2, axis(limit), 28, BAD, 2),
        f"<circle cx='{axis(value):.1f}' cy='15' r='6' fill='{ink}'/>",
        _text(min(max(axis(limit), 30), WIDTH - 30), 41, f"limit {limit:g}"),
    ]
    return chart(WIDTH, 45, f"{name}: {value:g}, limit {limit:g}", shapes)


def front_plot(
    variants: Sequence[dict[str, Any]], chosen: str, quality: str, cost: str, unit: str, scale: float
) -> str:
    """Quality upwards, cost to the right; the chosen variant is filled, one that may not serve is red."""
    height, floor = 196.0, 160.0
    costs, marks = [v["cost"][cost] / scale for v in variants], [v["quality"][quality] for v in variants]
    parent = variants[0]["parent"][quality]
    x, y = Axis(0.0, max(costs), 52, WIDTH - 14), Axis(min(*marks, parent), max(*marks, parent), floor, 12)
    shapes = [_line(52, floor, WIDTH, floor, "currentColor", 1), _line(52, 8, 52, floor, "currentColor", 1)]
    shapes += [_text(x(tick), floor + 14, f"{tick:g}") for tick in x.ticks() if tick >= 0]
    shapes += [_text(48, y(tick) + 4, f"{tick:.3f}", "end") for tick in y.ticks()]
    shapes.append(_line(52, y(parent), WIDTH, y(parent), QUIET, 1, "4"))
    shapes.append(_text(56, y(parent) - 4, "fp32 parent", "start"))
    for variant, at, good in zip(variants, costs, marks, strict=True):
        ink = BAD if variant["reason"] else GOOD
        fill = ink if variant["name"] == chosen else "none"
        shapes.append(
            f"<circle cx='{x(at):.1f}' cy='{y(good):.1f}' r='6' fill='{fill}' stroke='{ink}' stroke-width='2'/>"
        )
        left = x(at) > WIDTH * 0.6
        shapes.append(_text(x(at) + (-10 if left else 10), y(good) + 4, variant["name"], "end" if left else "start"))
    shapes.append(_text((52 + WIDTH) / 2, height - 5, unit))
    return chart(WIDTH, height, f"validation quality against {unit} of {len(variants)} variants", shapes)


def curves_plot(systems: dict[str, dict[str, Any]], requests: int) -> str:
    """How many requests were answered within so many milliseconds, by system; the slowest 2 % are off the picture."""
    height, floor = 200.0, 165.0
    last = len(next(iter(systems.values()))["curve"]) - 1
    shown = last - 1  # the last quantile is the maximum of one request
    x = Axis(0.0, max(one["curve"][shown] for one in systems.values()), 36, WIDTH - 10)
    y = Axis(0.0, 1.0, floor, 10)
    shapes = [_line(36, y(0), WIDTH, y(0), "currentColor", 1)]
    shapes += [_text(x(tick), floor + 14, f"{tick:g}") for tick in x.ticks() if tick >= 0]
    for share in (0.5, 0.95):
        shapes += [_line(36, y(share), WIDTH, y(share), QUIET, 1, "3"), _text(33, y(share) + 4, f"{share:.0%}", "end")]
    for name, one in systems.items():
        points = " ".join(f"{x(ms):.1f},{y(n / last):.1f}" for n, ms in enumerate(one["curve"][: shown + 1]))
        ink = INK.get(name, QUIET)
        shapes.append(f"<polyline points='{points}' fill='none' stroke='{ink}' stroke-width='2.5'/>")
    shapes.append(_text((36 + WIDTH) / 2, height - 4, f"ms, {requests:,} requests"))
    return chart(WIDTH, height, "share of requests answered within so many milliseconds", shapes)


def history_plot(name: str, days: Sequence[str], values: Sequence[float], found: Levels) -> str:
    """A dot a bench, a step a level; the last level is red where it rose enough for a warning."""
    height, floor, left = 150.0, 118.0, 44.0
    x = Axis(0.0, len(values) - 1.0, left, WIDTH - EDGE)
    y = Axis(min(values), max(values), floor, 12)
    shapes = [_text(left - 4, y(tick) + 4, f"{tick:.4g}", "end") for tick in y.ticks()]
    shapes += [f"<circle cx='{x(n):.1f}' cy='{y(value):.1f}' r='2' fill='{QUIET}'/>" for n, value in enumerate(values)]
    for begin, end, mean in zip(found.begins, (*found.begins[1:], len(values)), found.means, strict=True):
        risen = begin >= found.since > 0 and found.rise >= RISE
        shapes.append(_line(x(begin), y(mean), x(end - 1), y(mean), BAD if risen else GOOD, 3))
    shapes += [_text(left, floor + 15, days[0], "start"), _text(WIDTH - EDGE, floor + 15, days[-1], "end")]
    shapes.append(_text((left + WIDTH) / 2, height - 4, f"{name} of the champion, in yardsticks"))
    return chart(
        WIDTH, height, f"{name} of the champion over {len(values)} benches, {found.rise:+.0%} since its lowest", shapes
    )


def reliability_plot(systems: Mapping[str, Sequence[tuple[float, float, float]]]) -> str:
    """Predicted against observed, a dot a bin, as large as the bin; the diagonal is perfect calibration.

    `systems`: name -> rows of (mean predicted probability, observed share, count).
    """
    size, floor = 240.0, 205.0
    top = max((max(p, o) for rows in systems.values() for p, o, _ in rows), default=1.0) or 1.0
    across, up = Axis(0.0, math.sqrt(top), 44, 44 + floor - 12), Axis(0.0, math.sqrt(top), floor, 12)

    def x(value: float) -> float:  # purchases are rare: by square root, small probabilities can be told apart
        return across(math.sqrt(value))

    def y(value: float) -> float:
        return up(math.sqrt(value))

    shapes = [_line(x(0), y(0), x(top), y(top), QUIET, 1, "4")]
    for tick in (one for one in ROUND if one <= top):
        shapes += [_text(x(tick), floor + 14, f"{tick:g}"), _text(40, y(tick) + 4, f"{tick:g}", "end")]
    for name, rows in systems.items():
        most, ink = max((count for _, _, count in rows), default=1) or 1, INK.get(name, QUIET)
        line = " ".join(f"{x(p):.1f},{y(o):.1f}" for p, o, _ in rows)
        shapes.append(f"<polyline points='{line}' fill='none' stroke='{ink}' stroke-width='1.5'/>")
        shapes += [
            f"<circle cx='{x(p):.1f}' cy='{y(o):.1f}' r='{2.5 + 2 * math.sqrt(n / most):.1f}' fill='{ink}'/>"
            for p, o, n in rows
        ]
    shapes.append(_text(44 + floor / 2, size - 4, "predicted, against observed upwards"))
    return chart(WIDTH, size, "reliability diagram", shapes)


def legend(names: Iterable[str]) -> str:
    return (
        "<p class='legend'>"
        + "".join(f"<span><i style='background:{INK.get(name, QUIET)}'></i>{escape(name)}</span>" for name in names)
        + "</p>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, ink: str, wide: float, dashes: str = "") -> str:
    dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{ink}' stroke-width='{wide:g}'{dashed}/>"


def _text(x: float, y: float, told: str, anchor: str = "middle") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(told)}</text>"


def _apart(labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Two labels moved from each other where they would touch."""
    (one, first), (two, second) = sorted(labels)
    close = max(0.0, 46 - (two - one)) / 2
    return [(one - close, first), (two + close, second)]
