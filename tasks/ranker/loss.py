"""What training minimises: find the slate's positives among its candidates, with scores that read as log-odds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LIMIT = 20.0  # of scores inside the softmax


def slate_softmax(scores: Tensor, gain: Tensor, weight: Tensor, slate: Tensor, slates: int) -> Tensor:
    """Mean over positives of -log(their share of the slate) by gain, rows standing for `weight` candidates each.

    A slate's positives count 1 / sqrt(their gains): big baskets matter more than small ones, but less so.
    """
    bounded = scores.float().clamp(-LIMIT, LIMIT)
    total = torch.zeros(slates, device=scores.device).index_add(0, slate, weight * bounded.exp())
    positives = torch.zeros(slates, device=scores.device).index_add(0, slate, gain)
    share = gain / positives.clamp(min=1).sqrt()[slate]
    return (share * (total.log()[slate] - bounded)).sum() / share.sum().clamp(min=1e-6)


def log_odds(scores: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean binary cross-entropy: keeps the scores calibrated over the candidates that the rows stand for."""
    return (weight * binary_cross_entropy_with_logits(scores.float(), label, reduction="none")).sum() / weight.sum()
