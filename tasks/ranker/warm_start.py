"""Training that goes on from a champion's fp32 weights: shrink and perturb (Ash and Adams 2020, arXiv 1910.08475)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tasks.domain.recipe import WarmStart
from tasks.ranker.model import Ranker
from tasks.ranker.runtime import PARENT


def start_from(model: Ranker, champion: Path, warm: WarmStart) -> None:
    """Give a freshly drawn `model` the weights shrink x the champion's + perturb x its own.

    Mean and scale of the features come along: with others the same weights would be another function.

    Args:
        champion: a model directory with the unquantised parent.
    """
    theirs = load_file(champion / PARENT)
    with torch.no_grad():
        for name, own in model.named_parameters():
            own.mul_(warm.perturb).add_(theirs[name].to(own.device), alpha=warm.shrink)
        for name, buffer in model.named_buffers():
            if name in theirs:
                buffer.copy_(theirs[name])
