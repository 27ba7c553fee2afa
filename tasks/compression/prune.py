"""An encoder with fewer layers, attention heads and feed-forward units, cut from a larger one. A cut encoder must be distilled.

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
HEADS_SAMPLE = 128  # texts that say which heads matter: each head is silenced once for all of them
Heads = tuple[tuple[int, ...], ...]  # of each layer, those that stay


def with_layers(encoder: SentenceEncoder, kept: Sequence[int]) -> SentenceEncoder:
    """A copy with these layers alone, in this order."""
    cut = copy.deepcopy(encoder)
    cut.body.encoder.layer = nn.ModuleList([cut.body.encoder.layer[at] for at in kept])
    cut.body.config.num_hidden_layers = len(kept)
    return cut


@torch.no_grad()
def with_one_layer(encoder: SentenceEncoder) -> SentenceEncoder:
    """A copy whose layers are one and the same, the mean of them all: bytes are saved, no time (ALBERT, arXiv 1909.11942)."""
    one = copy.deepcopy(encoder)
    layers = list(one.body.encoder.layer)
    for same in zip(*(layer.parameters() for layer in layers), strict=True):
        same[0].copy_(torch.stack(same).mean(0))
    one.body.encoder.layer = nn.ModuleList(layers[:1] * len(layers))
    return one


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
    cut.embed(_sample(words, SAMPLE))
    for hook in hooks:
        hook.remove()
    for at, layer in enumerate(cut.body.encoder.layer):
        into, out = layer.intermediate.dense, layer.output.dense
        best = (sums[at] * out.weight.norm(dim=0)).topk(width).indices.sort().values
        layer.intermediate.dense = _linear(into.weight[best], into.bias[best])
        layer.output.dense = _linear(out.weight[:, best], out.bias)
    cut.body.config.intermediate_size = width
    return cut


@torch.inference_mode()
def important_heads(encoder: SentenceEncoder, kept: int, words: Sequence[Sequence[int]]) -> Heads:
    """Of each layer the `kept` heads without which the vectors of `words` would turn most, each silenced alone.

    Michel et al. 2019, arXiv 1905.10650, where a gradient stands for this: with few layers the thing itself is affordable.
    """
    texts, told = _sample(words, HEADS_SAMPLE), []
    before = encoder.embed(texts)
    for layer in encoder.body.encoder.layer:
        width, turned = layer.attention.self.attention_head_size, []
        for head in range(layer.attention.self.query.out_features // width):

            def silence(module: nn.Module, given: tuple[Tensor], at: int = head * width, of: int = width) -> Any:
                silent = given[0].clone()
                silent[..., at : at + of] = 0
                return (silent,)

            hook = layer.attention.output.dense.register_forward_pre_hook(silence)
            turned.append(1 - (encoder.embed(texts) * before).sum(-1).mean())
            hook.remove()
        told.append(tuple(torch.stack(turned).topk(min(kept, len(turned))).indices.sort().values.tolist()))
    return tuple(told)


def with_heads(encoder: SentenceEncoder, heads: Heads) -> SentenceEncoder:
    """A copy with these attention heads alone. Its shape has no config: it lives in memory and as a graph."""
    cut = copy.deepcopy(encoder)
    for layer, kept in zip(cut.body.encoder.layer, heads, strict=True):
        attention, out, width = layer.attention.self, layer.attention.output, layer.attention.self.attention_head_size
        units = torch.cat([torch.arange(head * width, (head + 1) * width) for head in kept])
        for name in ("query", "key", "value"):
            into = getattr(attention, name)
            setattr(attention, name, _linear(into.weight[units], into.bias[units]))
        out.dense = _linear(out.dense.weight[:, units], out.dense.bias)
        attention.num_attention_heads, attention.all_head_size = len(kept), len(units)
    return cut


def _sample(words: Sequence[Sequence[int]], most: int) -> Sequence[Sequence[int]]:
    return words[:: max(1, len(words) // most)][:most]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return layer
