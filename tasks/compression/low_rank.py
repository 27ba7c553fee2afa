"""Feature head with its first layer factorised: two thin products in place of one, by truncated SVD."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tasks.ranker.model import Ranker


def with_low_rank_head(model: Ranker, rank: int) -> tuple[Ranker, float]:
    """A copy whose first head layer has `rank`, and the share of that layer's energy that is kept."""
    thin = copy.deepcopy(model)
    layer = thin.trunk[0]
    assert isinstance(layer, nn.Linear)
    u, s, v = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    rank = min(rank, len(s))
    down = nn.Linear(layer.in_features, rank, bias=False)
    up = nn.Linear(rank, layer.out_features)
    with torch.no_grad():
        root = s[:rank].sqrt()
        down.weight.copy_((root[:, None] * v[:rank]).float())
        up.weight.copy_((u[:, :rank] * root).float())
        up.bias.copy_(layer.bias)
    thin.trunk[0] = nn.Sequential(down, up)
    return thin.eval(), float((s[:rank] ** 2).sum() / (s**2).sum())
