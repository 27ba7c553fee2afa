"""The change to histories that raises the loss most (fast gradient method; Miyato et al. 2016, arXiv 1605.07725)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def with_worst(loss_of: Callable[[Tensor], Tensor], tokens: Tensor, row: Tensor, rows: int, radius: float) -> Tensor:
    """Mean of the loss of `tokens` and that of the same tokens, those of each row moved `radius` along their gradient.

    The inputs are moved, not the weights, so there are none to put back. The change is taken as given: no gradient
    flows through it.

    Args:
        tokens, row: [tokens, width] of all rows, and the row of each.
    """
    tokens = tokens.detach().requires_grad_()
    loss = loss_of(tokens)
    (gradient,) = torch.autograd.grad(loss, tokens, retain_graph=True)
    return (loss + loss_of(tokens.detach() + worst(gradient, row, rows, radius))) / 2


def worst(gradient: Tensor, row: Tensor, rows: int, radius: float) -> Tensor:
    """[tokens, width] `radius` long over all tokens of a row; 0 where the loss does not feel a row's history."""
    squares = torch.zeros(rows, device=gradient.device).index_add(0, row, gradient.float().square().sum(1))
    scale = torch.where(squares > 0, radius * squares.rsqrt(), 0)
    return gradient * scale[row, None]
