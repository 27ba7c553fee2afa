"""How good one ranked slate is. Each function takes relevance in ranked order, best place first.

Binary gain, except for value-weighted NDCG. A positive that was not retrieved counts as not found: it lowers NDCG,
recall and hit rate, and MRR is 0 when no positive was retrieved at all. What is a mean over slates is here, because the
gate compares it pair by pair; what is a property of many lists together is in list_metrics.py.

Higher is better for every metric but `logloss`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

K = 10
CLIP = 1e-7
METRICS = (*("ndcg_at_10", "dcg_at_10", "recall_at_10", "precision_at_10", "f1_at_10", "hit_rate_at_10", "mrr"),)
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
    hits = int(top.sum())
    return {
        "ndcg_at_10": gain / float(_DISCOUNT[: min(K, positives)].sum()),
        "dcg_at_10": gain,
        "recall_at_10": hits / positives,
        "precision_at_10": hits / K,
        "f1_at_10": 2 * hits / (K + positives),  # harmonic mean of the two above
        "hit_rate_at_10": float(hits > 0),
        "mrr": 1.0 / (first + 1) if first >= 0 else 0.0,
    }


def logloss(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood of the labels, the scores read as logits; probabilities clipped at 1e-7."""
    probability = 1.0 / (1.0 + np.exp(-np.asarray(scores, np.float64)))
    likelihood = np.where(relevant, probability, 1.0 - probability)
    return float(-np.log(np.clip(likelihood, CLIP, 1.0)).mean())


def auc(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float | None:
    """Chance that a positive scores above a negative, ties counting half (Mann and Whitney, 1947); None without both.

    Args:
        scores: [n], best first, never rising.
        relevant: [n] bool, in the same order.
    """
    found, n = np.flatnonzero(relevant), len(relevant)
    positives, negatives = len(found), n - len(found)
    if not positives or not negatives:
        return None
    rising = scores[::-1]
    wanted = scores[found]
    below = np.searchsorted(rising, wanted, "left")
    level = (np.searchsorted(rising, wanted, "right") - below).astype(np.float64)
    ranks = below + (level + 1) / 2  # mean rank of each tie, from 1 for the worst
    return float((ranks.sum() - positives * (positives + 1) / 2) / (positives * negatives))


def accuracy(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """Share of the candidates where "at least even chance" is what happened; the scores read as logits."""
    return float(((scores >= 0) == relevant).mean())


def value_ndcg(found: NDArray[np.float64], values: NDArray[np.float64]) -> float | None:
    """NDCG@10 with the money paid as the gain (Jarvelin and Kekalainen, TOIS 2002, with graded gain).

    Args:
        found: [n], what was paid for each ranked item, 0 for what was not bought.
        values: [positives], what was paid for each thing bought, retrieved or not.

    Returns:
        None where nothing was paid for anything: the slate says nothing about money.
    """
    ideal = np.sort(np.maximum(values, 0))[::-1][:K]
    best = float((ideal * _DISCOUNT[: len(ideal)]).sum())
    top = np.maximum(found[:K], 0)
    return float((top * _DISCOUNT[: len(top)]).sum()) / best if best > 0 else None


def diversity(vectors: NDArray[np.float32]) -> float | None:
    """Mean of 1 - cosine over all pairs of a list (Ziegler et al., WWW 2005). None for fewer than two items.

    Args:
        vectors: [items, width], unit length; leave out what has no vector.
    """
    n = len(vectors)
    if n < 2:
        return None
    total = vectors.sum(axis=0, dtype=np.float64)
    pairs = float(total @ total) - float(np.einsum("ij,ij->", vectors, vectors, dtype=np.float64))
    return 1 - pairs / (n * (n - 1))


def novelty(share: NDArray[np.float64]) -> float | None:
    """Mean self-information in bits of a list's items (Zhou et al., PNAS 2010). None for an empty list.

    Args:
        share: [items], each item's share of all recent purchases, above 0.
    """
    return float(-np.log2(share).mean()) if len(share) else None
