"""Attention inside the blocks of packing.Layout, forward and backward written out as products of small matrices.

The same function as torch's scaled_dot_product_attention, whose kernel for the CPU takes longer on matrices as small as these.
The gradients of all blocks land in one table instead of being put together again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tasks.ranker.packing import Layout


class _Among(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, layout: Layout, heads: int) -> Tensor:
        width = projected.shape[1] // 3
        each = width // heads
        seen, shares = projected.new_empty(len(projected), width), []
        parts = zip(layout.segments, projected.split(layout.sizes), seen.split(layout.sizes), strict=True)
        for one, part, into in parts:
            if one.size == 1:  # the only key gets all attention
                into.copy_(part[:, 2 * width :])
                continue
            of = part.view(one.blocks, one.size, 3, heads, each)
            to = into.view(one.blocks, one.size, heads, each)
            for head in range(heads):
                query, key, value = of[:, :, :, head].unbind(2)
                share = _shares(one.among, query, key, each**-0.5)
                to[:, :, head] = torch.bmm(share, value)
                shares.append(share)
        ctx.save_for_backward(projected, *shares)
        ctx.layout, ctx.heads = layout, heads
        return seen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        projected, *shares = ctx.saved_tensors
        layout, heads, width = ctx.layout, ctx.heads, gradient.shape[1]
        each, share_of = width // heads, iter(shares)
        found = torch.empty_like(projected)
        tables = (projected, found, gradient)
        for one, part, into, told in zip(
            layout.segments, *(table.split(layout.sizes) for table in tables), strict=True
        ):
            if one.size == 1:
                into[:, : 2 * width] = 0
                into[:, 2 * width :] = told
                continue
            of, to = (table.view(one.blocks, one.size, 3, heads, each) for table in (part, into))
            by = told.view(one.blocks, one.size, heads, each)
            for head in range(heads):
                query, key, value = of[:, :, :, head].unbind(2)
                share, towards = next(share_of), by[:, :, head]
                scored = _of_scores(share, torch.bmm(towards, value.mT), each**-0.5)
                to[:, :, 0, head] = torch.bmm(scored, key)
                to[:, :, 1, head] = torch.bmm(scored.mT, query)
                to[:, :, 2, head] = torch.bmm(share.mT, towards)
        return found, None, None


class _Asked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, asking: Tensor, tokens: Tensor, layout: Layout, heads: int, scale: float) -> Tensor:
        width = tokens.shape[1]
        found, shares = torch.empty_like(asking), []
        tables = zip(
            layout.segments,
            asking.split(layout.rooms),
            tokens.split(layout.sizes),
            found.split(layout.rooms),
            strict=True,
        )
        for one, by, of, into in tables:
            if one.size == 1:
                into.view(-1, heads, width).copy_(of[:, None])
                continue
            of = of.view(one.blocks, one.size, width)
            mask = one.asked[:, :, None].expand(-1, -1, heads, -1).reshape(one.blocks, -1, one.size)
            share = _shares(mask, by.view(one.blocks, -1, width), of, scale)
            torch.bmm(share, of, out=into.view(one.blocks, -1, width))
            shares.append(share)
        ctx.save_for_backward(asking, tokens, *shares)
        ctx.layout, ctx.heads, ctx.scale = layout, heads, scale
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        asking, tokens, *shares = ctx.saved_tensors
        layout, width, share_of = ctx.layout, tokens.shape[1], iter(shares)
        of_asking, of_tokens = torch.empty_like(asking), torch.empty_like(tokens)
        rooms = (table.split(layout.rooms) for table in (asking, of_asking, gradient))
        slots = (table.split(layout.sizes) for table in (tokens, of_tokens))
        for one, by, to_by, told, of, to_of in zip(layout.segments, *rooms, *slots, strict=True):
            if one.size == 1:
                to_by.zero_()
                to_of.copy_(told.view(-1, ctx.heads, width).sum(1))
                continue
            share = next(share_of)
            by, to_by, told = (table.view(one.blocks, -1, width) for table in (by, to_by, told))
            of, to_of = (table.view(one.blocks, one.size, width) for table in (of, to_of))
            scored = _of_scores(share, torch.bmm(told, of.mT), ctx.scale)
            torch.bmm(scored, of, out=to_by)
            torch.bmm(share.mT, told, out=to_of)
            to_of.baddbmm_(scored.mT, by)
        return of_asking, of_tokens, None, None, None


def _shares(mask: Tensor, query: Tensor, key: Tensor, scale: float) -> Tensor:
    """[blocks, queries, keys] how much of its attention each query gives to each key."""
    scores = torch.baddbmm(mask.to(query.dtype), query, key.mT, alpha=scale)
    return torch.softmax(scores, -1, torch.float32).to(query.dtype)


def _of_scores(shares: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """The gradient of products of queries and keys from that of the shares."""
    scored: Tensor = torch._softmax_backward_data(gradient, shares, -1, shares.dtype)
    return scored.mul_(scale)


def among(projected: Tensor, layout: Layout, heads: int) -> Tensor:
    """What each token finds among those of its row: [slots, queries | keys | values of all heads] -> [slots, width]."""
    seen: Tensor = _Among.apply(projected, layout, heads)
    return seen


def asked(asking: Tensor, tokens: Tensor, layout: Layout, heads: int, scale: float) -> Tensor:
    """What rows find among their tokens, which are keys and values in one.

    [rooms, heads * width] and [slots, width] -> [rooms, heads * width]; rooms are Layout.asker's.
    """
    found: Tensor = _Asked.apply(asking, tokens, layout, heads, scale)
    return found
