"""Item vectors in fewer numbers of one byte each: turned to their main directions, the rest left out, a scale an item.

A query is turned the same way, so that cosines stay cosines. What is lost is measured by who compresses, never assumed.
"""

from __future__ import annotations

import numpy as np

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.search.vectors import SmallVectors


def small_vectors(vectors: Floats, kept: int) -> SmallVectors:
    """The `kept` main directions of the vectors as they lie about zero (their mean is told by the first), in int8.

    Raises:
        InputRejected: a vector is not finite; int8 would turn it into a plausible one.
    """
    if not np.isfinite(vectors).all():
        wrong = int((~np.isfinite(vectors).all(1)).sum())
        raise InputRejected(f"{wrong} of {len(vectors)} item vectors are not finite; they were not written as int8")
    _, axes = np.linalg.eigh(vectors.astype(np.float64).T @ vectors.astype(np.float64))
    basis = axes[:, ::-1][:, : min(kept, vectors.shape[1])].astype(np.float16)
    turned = vectors.astype(np.float32) @ basis.astype(np.float32)
    scales = np.maximum(np.abs(turned).max(1, keepdims=True) / 127, 1e-6).astype(np.float16)
    codes = np.clip(np.rint(turned / scales.astype(np.float32)), -127, 127).astype(np.int8)
    return SmallVectors(codes, scales, basis)
