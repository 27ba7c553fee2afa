"""Histories side by side in blocks: every token in a place of its own, no row cut in two, little room wasted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.ranker.packing import BLOCK, BLOCKED, chosen, pack, rearranged
from tasks.ranker.tokens import MAX_TOKENS


def lengths_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows) < 0.25, 0, rng.integers(1, MAX_TOKENS + 1, rows)).astype(np.uint8)


CASES = [lengths_of(300), lengths_of(1), np.zeros(5, np.uint8), np.full(7, MAX_TOKENS), np.arange(1, MAX_TOKENS + 1)]


@pytest.mark.parametrize("lengths", CASES)
def test_each_candidate_is_followed_by_its_tokens(lengths):
    layout, total = pack(lengths), int(lengths.sum())
    owner = torch.cat([torch.arange(len(lengths)), layout.row])
    assert sorted(layout.slot.tolist()) == sorted(set(layout.slot.tolist())) and len(layout.slot) == len(owner)
    assert layout.row.tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()
    lying = owner[layout.source]
    for row, length in enumerate(lengths.tolist()):
        start = int(layout.slot[row])
        assert layout.source[start] == row
        assert lying[start : start + 1 + length].tolist() == [row] * (1 + length)
    assert layout.source[layout.slot].tolist() == list(range(len(lengths) + total))
    assert layout.asker[layout.answer].tolist() == list(range(len(lengths)))


@pytest.mark.parametrize("lengths", CASES)
def test_tokens_see_the_tokens_of_their_row_and_no_others(lengths):
    layout = pack(lengths)
    owner, asker = torch.full((sum(layout.sizes),), -1), torch.full((sum(layout.rooms),), -2)
    owner[layout.slot] = torch.cat([torch.arange(len(lengths)), layout.row])
    asker[layout.answer] = torch.arange(len(lengths))
    for one, of, by in zip(layout.segments, owner.split(layout.sizes), asker.split(layout.rooms), strict=True):
        of, by = of.view(one.blocks, one.size), by.view(one.blocks, one.rows)
        assert torch.equal(one.among == 0, of[:, :, None] == of[:, None, :])
        assert torch.equal(one.asked == 0, by[:, :, None] == of[:, None, :])
        assert set(one.among.unique().tolist()) <= {0.0, BLOCKED}


def test_little_room_is_wasted():
    lengths = lengths_of(2_000)
    short = lengths[(lengths > 0) & (lengths < BLOCK)]
    blocks = next(one.blocks for one in pack(lengths).segments if one.size == BLOCK)
    assert (len(short) + short.sum()) / (blocks * BLOCK) > 0.9


def test_gradients_go_back_to_where_the_rows_came_from():
    table = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    source, place = torch.tensor([2, 0, 0, 3, 1, 0]), torch.tensor([2, 4, 0, 3])  # places 1 and 5 are free
    assert torch.autograd.gradcheck(lambda t: rearranged(t, source, place)[[0, 2, 3, 4]], table)
    assert torch.autograd.gradcheck(lambda t: chosen(t, torch.tensor([3, 1])), table)
