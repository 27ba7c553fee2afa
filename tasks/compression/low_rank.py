"""Feature head with its first layer factorised: two thin products in place of one, by truncated SVD."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tasks.ranker.model import Ranker


def with_low_rank_head(model: Ranker, rank: int) -> tuple[Ranker, float]:
    """A copy whose first head layer has `rank`, and the share of that layer's energy that is kept, in the worst member."""
    thin = copy.deepcopy(model)
    kept = []
    for member in thin.members:
        layer = member.trunk[0]
        assert isinstance(layer, nn.Linear)
        member.trunk[0], energy = _factorised(layer, rank)
        kept.append(energy)
    return thin.eval(), min(kept)


def _factorised(layer: nn.Linear, rank: int) -> tuple[nn.Sequential, float]:
    u, s, v = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    rank = min(rank, len(s))
    down = nn.Linear(layer.in_features, rank, bias=False)
    up = nn.Linear(rank, layer.out_features)
    with torch.no_grad():
        root = s[:rank].sqrt()
        down.weight.copy_((root[:, None] * v[:rank]).float())
        up.weight.copy_((u[:, :rank] * root).float())
        up.bias.copy_(layer.bias)
    return nn.Sequential(down, up), float((s[:rank] ** 2).sum() / (s**2).sum())
