"""An encoder with fewer layers and narrower feed-forward parts, cut from a larger one. A cut encoder must be distilled.

Layers go first: half of them is twice the speed, half of the feed-forward width a fifth (notes/performance.md, 2c).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.ranker.search.encoder import SentenceEncoder

SAMPLE = 512  # texts that say which units matter


def with_layers(encoder: SentenceEncoder, kept: Sequence[int]) -> SentenceEncoder:
    """A copy with these layers alone, in this order."""
    cut = copy.deepcopy(encoder)
    cut.body.encoder.layer = nn.ModuleList([cut.body.encoder.layer[at] for at in kept])
    cut.body.config.num_hidden_layers = len(kept)
    return cut


def spread_layers(had: int, kept: int) -> tuple[int, ...]:
    """`kept` of `had` layers from first to last: the ends matter most (DistilBERT takes every other, arXiv 1910.01108)."""
    return tuple(torch.linspace(0, had - 1, kept).round().int().tolist()) if kept > 1 else (had - 1,)


@torch.inference_mode()
def with_feed_forward(encoder: SentenceEncoder, width: int, words: Sequence[Sequence[int]]) -> SentenceEncoder:
    """A copy whose feed-forward parts keep `width` units, those that add most to the output on `words`.

    A unit adds its mean absolute activation x the length of its output column.
    """
    cut, sums = copy.deepcopy(encoder), dict[int, Tensor]()

    def counted(at: int) -> Any:
        def hook(module: nn.Module, given: Any, out: Tensor) -> None:
            sums[at] = sums.get(at, torch.zeros(out.shape[-1])) + out.abs().float().sum((0, 1))

        return hook

    hooks = [layer.intermediate.register_forward_hook(counted(at)) for at, layer in enumerate(cut.body.encoder.layer)]
    cut.embed(words[:: max(1, len(words) // SAMPLE)][:SAMPLE])
    for hook in hooks:
        hook.remove()
    for at, layer in enumerate(cut.body.encoder.layer):
        into, out = layer.intermediate.dense, layer.output.dense
        best = (sums[at] * out.weight.norm(dim=0)).topk(width).indices.sort().values
        layer.intermediate.dense = _linear(into.weight[best], into.bias[best])
        layer.output.dense = _linear(out.weight[:, best], out.bias)
    cut.body.config.intermediate_size = width
    return cut


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer
