"""Slow creep that no single comparison sees: where the level of a series of benches changed, and by how much it rose since. Pure.

Change points of the mean by PELT (Killick, Fearnhead and Eckley, JASA 2012), as ruptures computes it (Truong, Oudre and Vayatis,
Signal Processing 2020); a steady creep comes out as a staircase. Practised on nightly benchmarks by Daly et al., ICPE 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BENCHES = 100  # looked back on
FEWEST = 20  # with fewer nothing is said
SHORTEST = 5  # benches of one level
PENALTY = 4.0  # times variance x log n, for each change; chosen by simulation: docs/adr/0032
RISE = 0.05  # a smaller one is not worth a person's time


@dataclass(frozen=True, slots=True)
class Levels:
    """Where each level begins, its mean, and the rise from the lowest level to the last."""

    begins: tuple[int, ...]
    means: tuple[float, ...]

    @property
    def rise(self) -> float:
        return self.means[-1] / min(self.means) - 1

    @property
    def since(self) -> int:
        """The first bench that is above the lowest level for good; 0 where the last level is the lowest."""
        lowest = self.means.index(min(self.means)) + 1
        return self.begins[lowest] if lowest < len(self.begins) else 0


def levels(values: Sequence[float]) -> Levels:
    """Cut a series of positive numbers where its mean changes. The noise is taken from neighbours, so creep is not noise."""
    import ruptures

    logs = np.log(np.asarray(values, float))
    noise = float(np.median(np.abs(np.diff(logs)))) / (0.6745 * math.sqrt(2))
    penalty = PENALTY * noise**2 * math.log(len(logs)) + 1e-12
    ends = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST).fit(logs[:, None]).predict(pen=penalty)
    begins = [0, *ends[:-1]]
    means = [float(np.exp(logs[a:b].mean())) for a, b in zip(begins, ends, strict=True)]
    return Levels(tuple(begins), tuple(means))


def crept(values: Sequence[float]) -> Levels | None:
    """The levels, where the last one is worth a warning."""
    if len(values) < FEWEST:
        return None
    found = levels(values)
    return found if found.rise >= RISE else None
