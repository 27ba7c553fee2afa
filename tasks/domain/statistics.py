"""Paired comparisons with honest bounds. Slates of one user are not independent, so users are resampled, not slates.

Cluster bootstrap: Field and Welsh, "Bootstrapping clustered data", JRSS B 2007; percentile bounds.
Holm's step-down correction: Holm, Scandinavian Journal of Statistics 1979.
Two one-sided tests of equivalence: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 1987.

The same numbers, order of users and seed give the same bytes, on any number of threads and any processor: values are
rounded to multiples of a power of two that is small enough for a product of resamples and sums to be exact in float64
(docs/adr/0013). What is left of rounding is below 1e-9 of a metric between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
BLOCK_CELLS = 1 << 22  # resamples drawn at once x users: bounds memory at 64 MiB
EXACT_BITS = 52


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


def paired_differences(
    user: NDArray[np.int64],
    champion: Floats,
    candidate: Floats,
    *,
    seed: int,
    allowed_loss: Sequence[float],
    resamples: int = RESAMPLES,
) -> list[PairedDifference]:
    """Compare two systems on the same slates, in every column at once: all columns see the same resamples of users.

    Args:
        user: [slates] int, who each slate belongs to; the unit that is resampled.
        champion, candidate: [slates, columns] float; a column is one metric of one slice. NaN under both systems: the
            slate is not in the slice.
        allowed_loss: [columns], what `p_harm` tests against.

    Raises:
        ValueError: the shapes differ, a column is empty, or a number is infinite or NaN under one system only.
    """
    if not (len(user) == len(champion) == len(candidate) and champion.shape == candidate.shape):
        raise ValueError(
            f"lengths differ: {len(user)} users, {champion.shape} champion, {candidate.shape} candidate slates"
        )
    absent = np.isnan(champion) & np.isnan(candidate)
    counts = np.count_nonzero(~absent, axis=0)
    if len(user) == 0 or not counts.all():
        raise ValueError("no slates to compare")
    if not (np.isfinite(champion) | absent).all() or not (np.isfinite(candidate) | absent).all():
        raise ValueError("a metric is NaN or infinite")
    _, cluster = np.unique(user, return_inverse=True)
    clusters = int(cluster.max()) + 1
    sums, scale = _exact_sums(cluster, clusters, np.where(absent, 0.0, candidate - champion))
    members = np.column_stack([np.bincount(cluster, here, minlength=clusters) for here in (~absent).T]).astype(
        np.float64
    )
    means = resampled_means(sums, members, seed=seed, resamples=resamples) * scale
    lower, upper = np.quantile(means, (0.05, 0.95), axis=0)
    return [
        PairedDifference(
            champion=_mean(champion[~absent[:, n], n]),
            candidate=_mean(candidate[~absent[:, n], n]),
            difference=float(sums[:, n].sum() * scale[n] / counts[n]),
            lower=float(lower[n]),
            upper=float(upper[n]),
            standard_error=deviation(means[:, n]),
            p_harm=float((np.count_nonzero(means[:, n] >= -allowed_loss[n]) + 1) / (resamples + 1)),
            slates=int(counts[n]),
            users=int(np.count_nonzero(members[:, n])),
        )
        for n in range(champion.shape[1])
    ]


def paired_difference(
    user: NDArray[np.int64],
    champion: Floats,
    candidate: Floats,
    *,
    seed: int,
    allowed_loss: float = 0.0,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """One column: [slates] float twice. Every number must be finite."""
    if len(user) != len(champion) or not (np.isfinite(champion).all() and np.isfinite(candidate).all()):
        raise ValueError(f"{len(user)} users, {len(champion)} and {len(candidate)} slates: lengths differ or a NaN")
    return paired_differences(
        user, champion[:, None], candidate[:, None], seed=seed, allowed_loss=[allowed_loss], resamples=resamples
    )[0]


def resampled_means(sums: Floats, counts: Floats, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Ratio of resampled sums to resampled counts: [users, columns] twice -> [resamples, columns].

    One matrix product a block, no loop over resamples: how often each user was drawn, times what the user adds. Both
    tables hold whole numbers, so that the products are exact. A resample in which a column has no slate counts as 0.
    """
    users, columns = sums.shape
    distinct, which = np.unique(counts, axis=1, return_inverse=True)  # metrics of one slice share their counts
    table = np.column_stack([sums, distinct])
    draws = np.random.default_rng(seed)
    means = np.empty((resamples, columns))
    block = max(1, BLOCK_CELLS // users)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = draws.integers(0, users, size=(size, users), dtype=np.int32).astype(np.int64)
        drawn += np.arange(size)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(np.float64)
        product = times @ table
        means[start : start + size] = product[:, :columns] / np.maximum(product[:, columns:], 1.0)[:, which.ravel()]
    return means


def _exact_sums(cluster: NDArray[np.int64], clusters: int, difference: Floats) -> tuple[Floats, Floats]:
    """([users, columns] whole numbers, [columns] what one of them is worth): no sum of a resample exceeds 2^52."""
    columns = difference.shape[1]
    size = np.column_stack([np.bincount(cluster, column, minlength=clusters) for column in np.abs(difference).T])
    largest = np.maximum(size.max(axis=0) * clusters, np.finfo(float).tiny)
    bits = np.minimum(EXACT_BITS - 1 - np.ceil(np.log2(largest)), 60.0)
    whole = np.rint(difference * np.exp2(bits))
    sums = np.column_stack([np.bincount(cluster, whole[:, n], minlength=clusters) for n in range(columns)])
    return sums.astype(np.float64), np.exp2(-bits)


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)


def deviation(values: Floats) -> float:
    """Standard deviation with exactly rounded sums: the order of a vectorised sum would depend on the processor."""
    centred = values - _mean(values)
    return math.sqrt(math.fsum((centred * centred).tolist()) / (len(values) - 1))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values: comparing each with 5 % keeps the chance of any false alarm at 5 %."""
    adjusted: dict[str, float] = {}
    running, remaining = 0.0, len(p_values)
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        running = max(running, min(1.0, p * remaining))
        adjusted[name] = running
        remaining -= 1
    return adjusted
