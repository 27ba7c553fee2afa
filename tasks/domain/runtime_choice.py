"""Which runtime serves a release: the default, unless another is shown to be cheaper on the host where it is packaged. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from tasks.domain.manifest import Record

DEFAULT = "openvino"
SAVED = 0.10  # of the CPU time that another runtime must save: for less, a second engine in the image is not worth it
ERROR = 0.05  # chance to call a runtime cheaper by that much that is not


class Trial(Record):
    """What a runtime needed for the golden requests; without times where it may not serve."""

    name: str
    cpu_ms: float | None = None  # median over rounds, of all requests of a round
    ratio: float | None = None  # to the default, median over rounds
    reason: str = ""  # why it was not chosen; empty for the one that was


def choose(rounds: Mapping[str, Sequence[float]], refused: Mapping[str, str]) -> tuple[str, list[Trial]]:
    """The runtime's name, and what became of each.

    Args:
        rounds: name -> CPU ms of each round; runtimes took turns, so the n-th of all are of the same moment.
        refused: name -> why it may not serve, whatever it takes.

    A sign test over rounds: no distribution is assumed, and a busy moment hits one round of all.
    """
    base = rounds[DEFAULT]
    ratios = {name: [a / b for a, b in zip(spent, base, strict=True)] for name, spent in rounds.items()}
    shown = [name for name in rounds if name != DEFAULT and _is_cheaper(ratios[name])]
    best = min(shown, key=lambda name: (median(ratios[name]), name), default=DEFAULT)
    trials = [
        Trial(
            name=name,
            cpu_ms=round(median(rounds[name]), 3),
            ratio=round(median(ratios[name]), 4),
            reason="" if name == best else _why_not(name, ratios[name], best),
        )
        for name in rounds
    ]
    return best, [*trials, *(Trial(name=name, reason=reason) for name, reason in refused.items())]


def _is_cheaper(ratios: Sequence[float]) -> bool:
    """P(as many rounds or more below 1 - SAVED, were half of them above) <= ERROR."""
    count, won = len(ratios), sum(ratio < 1 - SAVED for ratio in ratios)
    return sum(math.comb(count, n) for n in range(won, count + 1)) / 2**count <= ERROR


def _why_not(name: str, ratios: Sequence[float], best: str) -> str:
    if name == DEFAULT:
        return f"{best} is shown to save {SAVED:.0%} of the CPU time or more"
    return f"takes {median(ratios):.2f} times the CPU time of {DEFAULT}; it would have to save {SAVED:.0%}"
