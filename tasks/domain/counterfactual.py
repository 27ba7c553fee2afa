"""What a policy would have earned, from the log of another one that wrote down its chances: SNIPS, and doubly robust.

Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NeurIPS 2015; Dudik, Langford and Li,
"Doubly robust policy evaluation and learning", ICML 2011; effective sample by Kish, "Survey sampling", 1965.
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
    nothing = np.zeros(len(reward))
    return doubly_robust(reward, target, propensity, nothing, nothing, least_effective=least_effective)


def doubly_robust(
    reward: NDArray[np.float64],
    target: NDArray[np.float64],
    propensity: NDArray[np.float64],
    predicted_logged: NDArray[np.float64],
    predicted_target: NDArray[np.float64],
    *,
    least_effective: float = LEAST_EFFECTIVE,
) -> Estimate:
    """What a reward model predicts for the target policy, corrected by the self-normalised error that it makes on the log.

    Right where either the predictions or the propensities are; with predictions of 0 it is SNIPS. Refuses as SNIPS does.

    Args:
        predicted_logged: [events], the reward that is predicted for the logged action.
        predicted_target: [events], and, in the mean, for what the target policy does there.
    """
    predictions = (predicted_logged, predicted_target)
    if len({len(reward), len(target), len(propensity), *map(len, predictions)}) > 1:
        raise ValueError(f"lengths differ: {len(reward)} rewards, {len(target)} target, {len(propensity)} propensities")
    if not ((propensity > 0) & (propensity <= 1)).all() or not ((target >= 0) & (target <= 1)).all():
        raise ValueError("a propensity is not in (0, 1], or a target chance not in [0, 1]")
    if not all(np.isfinite(values).all() for values in (reward, *predictions)):
        raise ValueError("a reward, or one that is predicted, is NaN or infinite")
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
    missed = reward - predicted_logged
    correction, predicted = float(weight @ missed) / total, float(predicted_target.mean())
    noise = float((weight**2 * (missed - correction) ** 2).sum()) / total**2
    error = float(np.sqrt(noise + predicted_target.var() / events))
    value = predicted + correction
    sentence = f"{value:.5f} (standard error {error:.5f}) from {events} logged events worth {effective:.0f}"
    return Estimate(value, error, effective, events, sentence)
