"""What a policy would have earned, from the log of another one that wrote down its chances: SNIPS.

Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NeurIPS 2015; effective sample by
Kish, "Survey sampling", 1965.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_EFFECTIVE = 100.0  # below, a handful of events decides the estimate and its own error is not to be trusted


@dataclass(frozen=True, slots=True)
class Estimate:
    """`value` is None where the log says too little; the sentence says why, and never calls that a good sign."""

    value: float | None
    standard_error: float | None
    effective_sample: float
    events: int
    sentence: str


def snips(
    reward: NDArray[np.float64],
    target: NDArray[np.float64],
    propensity: NDArray[np.float64],
    *,
    least_effective: float = LEAST_EFFECTIVE,
) -> Estimate:
    """Mean reward of a target policy, self-normalised.

    Args:
        reward: [events], what came of each logged action.
        target: [events], chance in [0, 1] that the target policy takes that action there.
        propensity: [events], chance in (0, 1] with which the logging policy took it.

    Raises:
        ValueError: a chance is none, or the arrays differ in length.
    """
    if not len(reward) == len(target) == len(propensity):
        raise ValueError(f"lengths differ: {len(reward)} rewards, {len(target)} target, {len(propensity)} propensities")
    if not ((propensity > 0) & (propensity <= 1)).all() or not ((target >= 0) & (target <= 1)).all():
        raise ValueError("a propensity is not in (0, 1], or a target chance not in [0, 1]")
    if not np.isfinite(reward).all():
        raise ValueError("a reward is NaN or infinite")
    weight = target / propensity
    total, squares = float(weight.sum()), float((weight**2).sum())
    effective = total**2 / squares if squares else 0.0
    events = len(reward)
    if effective < least_effective:
        return Estimate(
            None,
            None,
            effective,
            events,
            f"inconclusive: {events} logged events are worth {effective:.0f} for this policy, {least_effective:.0f} are needed",
        )
    value = float(weight @ reward) / total
    error = float(np.sqrt((weight**2 * (reward - value) ** 2).sum())) / total
    sentence = f"{value:.5f} (standard error {error:.5f}) from {events} logged events worth {effective:.0f}"
    return Estimate(value, error, effective, events, sentence)
