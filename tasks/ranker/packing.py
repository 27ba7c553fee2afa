"""Histories of unequal length side by side in blocks of one size: training neither pads them much nor runs many small products.

A row is a candidate and its tokens. Rows of up to BLOCK tokens share blocks (a token sees only its own row), longer ones have one
each, and candidates without history none: packing of sequences as in Krell et al. 2021 (arXiv 2107.02027).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.ranker.arrays import ranges
from tasks.ranker.tokens import MAX_TOKENS

# floats of one AVX-512 vector
BLOCK = 16
MOST_ROWS = 5  # of a block
BLOCKED = -1e4


@dataclass(frozen=True, slots=True)
class Segment:
    """Blocks of one size that lie behind each other."""

    blocks: int
    size: int  # tokens of a block
    rows: int  # room for rows in a block
    among: Tensor  # [blocks, size, size], 0 between tokens of one row and BLOCKED elsewhere
    asked: Tensor  # [blocks, rows, size], the same between a row and tokens


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each candidate and each token lies, and which block a candidate asks. What lies in a free slot is read by nobody."""

    candidates: int
    source: Tensor  # [slots] place among (candidates, tokens); 0 where nothing lies
    slot: Tensor  # [candidates + tokens]
    row: Tensor  # [tokens] the candidate that it belongs to
    asker: Tensor  # [room for rows in all blocks] candidate; 0 where nobody asks
    answer: Tensor  # [candidates] place in `asker`
    segments: tuple[Segment, ...]

    @property
    def sizes(self) -> list[int]:
        """Slots of each segment."""
        return [one.blocks * one.size for one in self.segments]

    @property
    def rooms(self) -> list[int]:
        """Room for rows in each segment."""
        return [one.blocks * one.rows for one in self.segments]

    def to(self, device: torch.device) -> Layout:
        moved = {name: getattr(self, name).to(device) for name in ("source", "slot", "row", "asker", "answer")}
        segments = tuple(
            Segment(one.blocks, one.size, one.rows, one.among.to(device), one.asked.to(device)) for one in self.segments
        )
        return Layout(self.candidates, **moved, segments=segments)


class _Rearranged(torch.autograd.Function):
    """Rows of a table in another order; the gradient goes back by the inverse order, not by adding up."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return table.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return gradient.index_select(0, place), None, None


class _Chosen(torch.autograd.Function):
    """Rows of a table, each at most once."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.size = table.shape
        return table.index_select(0, chosen)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (chosen,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.size).index_copy_(0, chosen, gradient), None


def rearranged(table: Tensor, source: Tensor, place: Tensor) -> Tensor:
    """table[source], each row of the table at its `place`. Other places hold row 0, and must be read by nobody."""
    moved: Tensor = _Rearranged.apply(table, source, place)
    return moved


def chosen(table: Tensor, rows: Tensor) -> Tensor:
    """table[rows], no row twice."""
    found: Tensor = _Chosen.apply(table, rows)
    return found


def padded(tokens: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """[tokens, width] of packed rows -> ([candidates, MAX_TOKENS, width], mask), as serving gives them."""
    lengths = torch.bincount(layout.row, minlength=layout.candidates)
    valid = torch.arange(MAX_TOKENS, device=tokens.device) < lengths[:, None]
    table = tokens.new_zeros(*valid.shape, tokens.shape[1])
    table[valid] = tokens
    return table, valid.to(tokens.dtype)


def pack(lengths: NDArray[Any]) -> Layout:
    """A place for candidates with so many tokens each; the tokens of all lie behind each other in the order of candidates."""
    size = 1 + lengths.astype(np.int64)
    alone, longer = size == 1, size > BLOCK
    start = np.zeros(len(size), np.int64)  # slot of the candidate; its tokens follow
    answer = np.zeros(len(size), np.int64)
    segments, slots, room = [], 0, 0
    for group, width in ((alone, 1), (~alone & ~longer, BLOCK), (longer, MAX_TOKENS + 1)):
        rows = np.flatnonzero(group)
        if not len(rows):
            continue
        block, place, order, blocks = _shared(size[rows], width, MOST_ROWS)
        most = int(order.max()) + 1
        start[rows] = slots + block * width + place
        answer[rows] = room + block * most + order
        segments.append(_segment(blocks, width, most, size[rows], block * width + place, block * most + order))
        slots, room = slots + blocks * width, room + blocks * most
    slot = np.concatenate([start, ranges(start + 1, lengths.astype(np.int64))])
    return Layout(
        candidates=len(size),
        source=torch.from_numpy(_inverse(slot, slots)),
        slot=torch.from_numpy(slot),
        row=torch.from_numpy(np.repeat(np.arange(len(size)), lengths)),
        asker=torch.from_numpy(_inverse(answer, room)),
        answer=torch.from_numpy(answer),
        segments=tuple(segments),
    )


def _shared(
    size: NDArray[np.int64], width: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """(block, place in it, number in it) of each row, and the number of blocks. Long rows first, short ones where there is room."""
    queue = np.argsort(size, kind="stable")
    left = np.bincount(size, minlength=width + 1).tolist()
    first = np.cumsum([0, *left]).tolist()  # of each size in the queue
    found = np.zeros((3, len(size)), np.int64)
    blocks = 0
    while any(left):
        pattern: list[int] = []  # blocks of one pattern are made all at once
        room = width
        for one in range(width, 0, -1):
            count = min(left[one], room // one, most - len(pattern))
            pattern += [one] * count
            room -= one * count
        same = min(left[one] // pattern.count(one) for one in pattern)
        place = 0
        for number, one in enumerate(pattern):
            taken = queue[first[one] : first[one] + same]
            found[:, taken] = np.arange(blocks, blocks + same), np.full(same, place), np.full(same, number)
            first[one] += same
            left[one] -= same
            place += one
        blocks += same
    return found[0], found[1], found[2], blocks


def _segment(
    blocks: int, width: int, most: int, size: NDArray[np.int64], start: NDArray[np.int64], asks: NDArray[np.int64]
) -> Segment:
    owner = np.full(blocks * width, -1)
    owner[ranges(start, size)] = np.repeat(np.arange(len(size)), size)
    asking = np.full(blocks * most, -2)  # nobody is no token's owner
    asking[asks] = np.arange(len(size))
    of, by = (torch.from_numpy(names).float().view(blocks, -1) for names in (owner, asking))  # exact up to 2^24 rows
    return Segment(blocks, width, most, _blocked(of, of), _blocked(by, of))


def _blocked(asking: Tensor, asked: Tensor) -> Tensor:
    """[blocks, asking, asked] BLOCKED between names that differ, 0 elsewhere; in floats all along, five times as fast."""
    differ = asked.new_empty(len(asked), asking.shape[1], asked.shape[1])
    return torch.ne(asking[:, :, None], asked[:, None, :], out=differ).mul_(BLOCKED)


def _inverse(place: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    inverse = np.zeros(size, np.int64)
    inverse[place] = np.arange(len(place))
    return inverse
