"""How good one ranked slate is. Each function takes relevance in ranked order, best place first.

Binary gain. A positive that was not retrieved counts as not found: it lowers NDCG, recall and hit rate, and MRR is 0
when no positive was retrieved at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

K = 10
CLIP = 1e-7
METRICS = ("ndcg_at_10", "recall_at_10", "hit_rate_at_10", "mrr")
_DISCOUNT = 1.0 / np.log2(np.arange(2, K + 2))


def ranked_metrics(relevant: Sequence[bool] | NDArray[np.bool_], positives: int) -> dict[str, float]:
    """All METRICS of one slate with `positives` things to find, retrieved or not.

    Raises:
        ValueError: there is nothing to find, so no metric is defined.
    """
    found = np.asarray(relevant, bool)
    if positives < 1 or found.sum() > positives:
        ranked = int(found.sum())
        raise ValueError(f"a slate has at least one positive and ranks each once; got {positives}, {ranked} ranked")
    top = found[:K]
    gain = float((top * _DISCOUNT[: len(top)]).sum())
    first = int(np.argmax(found)) if found.any() else -1
    return {
        "ndcg_at_10": gain / float(_DISCOUNT[: min(K, positives)].sum()),
        "recall_at_10": float(top.sum()) / positives,
        "hit_rate_at_10": float(top.any()),
        "mrr": 1.0 / (first + 1) if first >= 0 else 0.0,
    }


def logloss(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood of the labels, the scores read as logits; probabilities clipped at 1e-7."""
    probability = 1.0 / (1.0 + np.exp(-np.asarray(scores, np.float64)))
    likelihood = np.where(relevant, probability, 1.0 - probability)
    return float(-np.log(np.clip(likelihood, CLIP, 1.0)).mean())


def lower_bound(
    difference: NDArray[np.float64], cluster: NDArray[np.int64], *, confidence: float = 0.95, draws: int = 1_000
) -> float:
    """One-sided lower bound of the mean of paired differences, resampling whole clusters (users)."""
    _, at = np.unique(cluster, return_inverse=True)
    sums, counts = np.bincount(at, difference), np.bincount(at)
    clusters = len(counts)
    drawn = np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    return float(np.quantile((drawn @ sums) / (drawn @ counts), 1 - confidence))
