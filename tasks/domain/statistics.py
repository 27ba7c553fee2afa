"""Paired comparisons with honest bounds. Slates of one user are not independent, so users are resampled, not slates.

Cluster bootstrap: Field and Welsh, "Bootstrapping clustered data", JRSS B 2007; percentile bounds.
Holm's step-down correction: Holm, Scandinavian Journal of Statistics 1979.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
BLOCK = 1_000  # resamples drawn at once: bounds memory at BLOCK x users


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of candidate - champion over slates, with one-sided 95 % bounds from resampled users."""

    champion: float
    candidate: float
    difference: float
    lower: float
    upper: float
    standard_error: float
    p_harm: float  # p-value of 'the loss is within the allowance': small = worse than allowed, significantly
    slates: int
    users: int

    @property
    def smallest_detectable(self) -> float:
        """The drop that a test of this size sees with 80 % power (one-sided 5 %): 2.49 standard errors."""
        return 2.49 * self.standard_error


def paired_difference(
    user: NDArray[np.int64],
    champion: Floats,
    candidate: Floats,
    *,
    seed: int,
    allowed_loss: float = 0.0,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Compare two systems on the same slates.

    Args:
        user: [slates] int, who each slate belongs to; the unit that is resampled.
        champion, candidate: [slates] float, a metric of the same slates under each system. Must be finite.
        allowed_loss: what `p_harm` tests against.

    Raises:
        ValueError: the arrays differ in length, are empty or hold a non-finite number.
    """
    if not len(user) == len(champion) == len(candidate):
        raise ValueError(
            f"lengths differ: {len(user)} users, {len(champion)} champion, {len(candidate)} candidate slates"
        )
    if len(user) == 0:
        raise ValueError("no slates to compare")
    if not (np.isfinite(champion).all() and np.isfinite(candidate).all()):
        raise ValueError("a metric is NaN or infinite")
    _, cluster = np.unique(user, return_inverse=True)
    clusters = int(cluster.max()) + 1
    difference = candidate - champion
    sums = np.bincount(cluster, difference, minlength=clusters)
    counts = np.bincount(cluster, minlength=clusters)
    means = resampled_means(
        sums[:, None].astype(np.float64), counts[:, None].astype(np.float64), seed=seed, resamples=resamples
    )[:, 0]
    return PairedDifference(
        champion=float(champion.mean()),
        candidate=float(candidate.mean()),
        difference=float(difference.mean()),
        lower=float(np.quantile(means, 0.05)),
        upper=float(np.quantile(means, 0.95)),
        standard_error=float(means.std(ddof=1)),
        p_harm=float((np.count_nonzero(means >= -allowed_loss) + 1) / (resamples + 1)),
        slates=len(user),
        users=clusters,
    )


def resampled_means(sums: Floats, counts: Floats, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Ratio of resampled sums to resampled counts: [users, columns] twice -> [resamples, columns].

    One matrix product a block, no loop over resamples. A resample in which a column has no slate at all counts as 0.
    """
    users = len(sums)
    draws = np.random.default_rng(seed)
    blocks = []
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        weight = draws.multinomial(users, np.full(users, 1 / users), size=size).astype(np.float64)
        blocks.append((weight @ sums) / np.maximum(weight @ counts, 1e-12))
    return np.concatenate(blocks)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values: comparing each with 5 % keeps the chance of any false alarm at 5 %."""
    adjusted: dict[str, float] = {}
    running, remaining = 0.0, len(p_values)
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        running = max(running, min(1.0, p * remaining))
        adjusted[name] = running
        remaining -= 1
    return adjusted


def quantile_ratio(
    champion: Floats, candidate: Floats, quantile: float, *, seed: int, resamples: int = 2_000
) -> tuple[float, float, float]:
    """Ratio candidate / champion of one latency quantile with one-sided 95 % bounds: (ratio, lower, upper).

    Args:
        champion, candidate: [pairs] float, milliseconds of the same requests, measured interleaved. Pairs are resampled.
    """
    draws = np.random.default_rng(seed)
    pick = draws.integers(0, len(champion), size=(resamples, len(champion)))
    ratios = np.quantile(candidate[pick], quantile, axis=1) / np.quantile(champion[pick], quantile, axis=1)
    point = float(np.quantile(candidate, quantile) / np.quantile(champion, quantile))
    return point, float(np.quantile(ratios, 0.05)), float(np.quantile(ratios, 0.95))
