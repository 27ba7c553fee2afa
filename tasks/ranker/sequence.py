"""One vector of a history whose tokens are read one after the other: of the item, of its type, of days; each oldest first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNEL = 3  # tokens that a convolution sees at once


class LastState(nn.Module):
    """Where a GRU is after the last token: [n, length, width] and mask [n, length] -> [n, width]; 0 without tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.gru(tokens)[0]
        last = mask - torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)  # 1 at the last token
        return (states * last[:, :, None]).sum(1)


class Neighbourhoods(nn.Module):
    """The mean of what a convolution makes of each token and its neighbours, shapes as above."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        seen = self.convolution((tokens * mask[:, :, None]).transpose(1, 2)).transpose(1, 2)
        return mean_of(nn.functional.gelu(seen), mask)


def mean_of(tokens: Tensor, mask: Tensor) -> Tensor:
    """[n, length, width] and mask [n, length] -> [n, width]; 0 without tokens."""
    return (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
