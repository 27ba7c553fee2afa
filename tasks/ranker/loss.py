"""What training minimises: find the slate's positives among its candidates, with scores that read as log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tasks.domain.recipe import Training

LIMIT = 20.0  # of scores inside the softmax


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of each row, [rows] each."""

    label: Tensor  # 1 where something came of it
    gain: Tensor  # how much that is worth
    weight: Tensor  # candidates that the row stands for
    odds_weight: Tensor  # the same, answers corrected for where they were given
    slate: Tensor  # 0..slates-1
    slates: int

    def to(self, device: torch.device) -> Answers:
        names = ("label", "gain", "weight", "odds_weight", "slate")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return Answers(**moved, slates=self.slates)


def training_loss(base: Tensor, full: Tensor, answers: Answers, training: Training) -> Tensor:
    """Both losses of stage 2's scores, and a share of those of stage 1's."""
    losses = [
        training.listwise_weight * slate_softmax(scores, answers.gain, answers.weight, answers.slate, answers.slates)
        + training.calibration_weight * log_odds(scores, answers.label, answers.odds_weight)
        for scores in (full, base)
    ]
    return losses[0] + training.base_weight * losses[1]


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
