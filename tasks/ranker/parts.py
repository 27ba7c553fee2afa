"""How alike the parts of a dataset are: each feature's distribution and the share of positives, training against later.

Numbers for a person and for the data policy; nothing here decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.domain.manifest import Record
from tasks.ranker.arrays import Floats, Halves
from tasks.ranker.rows import Rows

Shares = NDArray[np.float64]
BINS = 10  # of equal count in training; an unknown value has one of its own
FLOOR = 1e-4  # share of an empty bin: else one missing value would be infinitely surprising
GROWS = ("trips", "distinct_share")  # with every day of the log, in sound data too: told, but never the worst
SAMPLED_ROWS = 20_000  # of a part


class Part(Record):
    """Class balance of one part. Shares are over the candidates that the rows stand for."""

    days: int
    slates: int
    rows: int
    positives: int
    positive_share: float
    positives_a_slate: float
    grades: dict[str, int]


class Shift(Record):
    """Distance of one feature's distribution from training's; 0 is the same."""

    psi: float
    js: float  # Jensen-Shannon divergence in bits: 1 where nothing is shared


class Parts(Record):
    """parts.json: what differs between training and what comes after it."""

    parts: dict[str, Part]
    against: str  # the part that training was compared with
    drift: dict[str, Shift]  # by feature
    unknown_share: dict[str, float]  # of the later part's positives whose category training never saw, by level

    @property
    def worst(self) -> tuple[str, Shift]:
        steady = [(name, shift) for name, shift in self.drift.items() if name not in GROWS]
        return max(steady, key=lambda item: item[1].psi, default=("", Shift(psi=0, js=0)))

    @property
    def balance_shift(self) -> float:
        """How many times more (or less) often a candidate is a positive than in training; 1 is as often, never below."""
        train, later = self.parts["train"].positive_share, self.parts[self.against].positive_share
        return max(train, later) / max(min(train, later), 1e-9) if train or later else 1.0


@dataclass(slots=True)
class Tally:
    """Counts over the rows of one part, day by day, and a sample of their features."""

    expected_days: int
    days: int = 0
    slates: int = 0
    rows: int = 0
    positives: int = 0
    weight: float = 0.0
    grades: NDArray[np.int64] | int = 0
    sample: list[Halves] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        self.days += 1
        self.slates += len(rows.ptr) - 1
        self.rows += len(rows.label)
        self.positives += int(rows.label.sum())
        self.weight += float(rows.weight.sum())
        self.grades = self.grades + np.bincount(rows.grade, minlength=4)
        kept = SAMPLED_ROWS // self.expected_days
        self.sample.append(rows.x[:: max(1, len(rows.x) // max(kept, 1))].copy())

    @property
    def part(self) -> Part:
        return Part(
            days=self.days,
            slates=self.slates,
            rows=self.rows,
            positives=self.positives,
            positive_share=self.positives / max(self.weight, 1e-9),
            positives_a_slate=self.positives / max(self.slates, 1),
            grades={str(grade): int(count) for grade, count in enumerate(np.atleast_1d(self.grades)) if count},
        )

    @property
    def x(self) -> Floats:
        return np.concatenate(self.sample).astype(np.float32)


def drift(names: tuple[str, ...], train: Floats, later: Floats) -> dict[str, Shift]:
    """Shift of each feature, over bins that hold equal shares of training."""
    shifts = {}
    for column, name in enumerate(names):
        edges = np.unique(np.nanquantile(train[:, column], np.linspace(0, 1, BINS + 1)[1:-1]))
        shifts[name] = shift(_shares(train[:, column], edges), _shares(later[:, column], edges))
    return shifts


def shift(expected: Shares, found: Shares) -> Shift:
    """Population stability index and Jensen-Shannon divergence of two lists of shares."""
    expected, found = (np.maximum(shares, FLOOR) for shares in (expected, found))
    expected, found = expected / expected.sum(), found / found.sum()
    middle = (expected + found) / 2
    js = (expected * np.log2(expected / middle) + found * np.log2(found / middle)).sum() / 2
    return Shift(psi=float(((found - expected) * np.log(found / expected)).sum()), js=float(js))


def _shares(values: Floats, edges: Floats) -> Shares:
    """Share of the values in each bin, the last one of those that are unknown."""
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    shares: Shares = np.append(counts, len(values) - len(known)) / max(len(values), 1)
    return shares
