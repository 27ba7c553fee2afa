"""How good many lists are together: properties of a system that no single slate has. Reported, not gated pair by pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of like size: their mean, what came true, and how many there were. One dot of a reliability diagram."""

    predicted: float
    observed: float
    count: int


def grouped_auc(
    scores: NDArray[np.float32], relevant: NDArray[np.bool_], group: NDArray[np.int64]
) -> tuple[float, int] | None:
    """(GAUC, groups): AUC within each group, weighted by its number of scores (Zhu et al., KDD 2017).

    Args:
        scores, relevant, group: [n]; a group is a user. Groups with only one kind of label are left out.

    Returns:
        None where no group has both kinds.
    """
    if not len(scores):
        return None
    order = np.lexsort((scores, group))
    score, label, of = scores[order], relevant[order].astype(np.float64), group[order]
    first = np.flatnonzero(np.diff(of, prepend=of[0] - 1))
    sizes = np.diff(np.append(first, len(of)))
    within = np.arange(1, len(of) + 1) - np.repeat(first, sizes)
    # equal scores of one group share the mean of their ranks
    tied = np.flatnonzero((np.diff(of, prepend=of[0] - 1) != 0) | (np.diff(score, prepend=np.nan) != 0))
    lengths = np.diff(np.append(tied, len(of)))
    ranks = np.repeat(np.add.reduceat(within, tied) / lengths, lengths)
    positives = np.add.reduceat(label, first)
    negatives = sizes - positives
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None
    above = np.add.reduceat(ranks * label, first) - positives * (positives + 1) / 2
    areas = above[both] / (positives * negatives)[both]
    return float(np.average(areas, weights=sizes[both])), int(both.sum())


def total_auc(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float | None:
    """AUC over all scores as one group."""
    found = grouped_auc(scores, relevant, np.zeros(len(scores), np.int64))
    return found[0] if found else None


def reliability(scores: NDArray[np.float32], relevant: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Predictions in bins of equal count, smallest first; the scores read as logits.

    Equal count and not equal width: purchases are rare, and of equal widths all but one bin would be empty
    (Nguyen and O'Connor, EMNLP 2015).
    """
    if not len(scores):
        return []
    order = np.argsort(scores, kind="stable")
    probability = 1.0 / (1.0 + np.exp(-scores[order].astype(np.float64)))
    label = relevant[order].astype(np.float64)
    edges = np.unique(np.linspace(0, len(order), bins + 1).astype(int))
    sizes = np.diff(edges)
    predicted, observed = np.add.reduceat(probability, edges[:-1]), np.add.reduceat(label, edges[:-1])
    return [Bin(float(p / n), float(o / n), int(n)) for p, o, n in zip(predicted, observed, sizes, strict=True)]


def calibration_error(bins: list[Bin]) -> float:
    """ECE: mean distance of prediction and outcome over the bins, weighted by count (Naeini et al., AAAI 2015)."""
    total = sum(one.count for one in bins)
    if not total:
        raise ValueError("there is no prediction, so there is no calibration error")
    return sum(one.count * abs(one.predicted - one.observed) for one in bins) / total


def gini(exposure: NDArray[np.int64]) -> float:
    """Inequality of how often each catalogue item was shown: 0 all alike, towards 1 one item has it all.

    Args:
        exposure: [catalogue items] counts, zeros included.
    """
    counts = np.sort(np.asarray(exposure, np.float64))
    n, total = len(counts), counts.sum()
    if n == 0 or total == 0:
        raise ValueError("nothing was shown, so exposure has no inequality")
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * total))


def coverage(exposure: NDArray[np.int64]) -> float:
    """Share of the catalogue that was shown at least once."""
    if not len(exposure):
        raise ValueError("the catalogue is empty, so there is nothing to cover")
    return float((np.asarray(exposure) > 0).mean())
