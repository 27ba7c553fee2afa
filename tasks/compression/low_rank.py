"""One wide matrix -> two thin ones by truncated SVD: the first layer of a feature head, and the word vectors of an encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tasks.ranker.model import Ranker
from tasks.ranker.search.encoder import SentenceEncoder


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


def with_factorised_words(encoder: SentenceEncoder, inner: int) -> tuple[SentenceEncoder, float]:
    """A copy that looks a word piece up in `inner` numbers and maps them to its width; the share of energy that is kept.

    As in ALBERT (arXiv 1909.11942). Its shape has no config: it lives in memory and as a graph. It must be distilled.
    """
    thin = copy.deepcopy(encoder)
    table = thin.body.embeddings.word_embeddings
    down, up, energy = _factors(table.weight, inner)
    pieces = nn.Embedding.from_pretrained(down, freeze=False, padding_idx=table.padding_idx)
    wider = nn.Linear(up.shape[1], up.shape[0], bias=False)
    wider.weight.data.copy_(up)
    thin.body.embeddings.word_embeddings = nn.Sequential(pieces, wider)
    return thin, energy


def _factorised(layer: nn.Linear, rank: int) -> tuple[nn.Sequential, float]:
    wide, thin, energy = _factors(layer.weight, rank)
    down = nn.Linear(layer.in_features, len(thin.T), bias=False)
    up = nn.Linear(len(thin.T), layer.out_features)
    with torch.no_grad():
        down.weight.copy_(thin.T)
        up.weight.copy_(wide)
        up.bias.copy_(layer.bias)
    return nn.Sequential(down, up), energy


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """a [rows, rank], b [columns, rank] float32 with a b' nearest to the matrix, and the share of energy that is kept."""
    u, s, v = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    parts = (u[:, :rank] * root, v[:rank].T * root)
    a, b = (part.float().contiguous() for part in parts)  # LAPACK's order is columns first, and a file wants rows
    return a, b, float((s[:rank] ** 2).sum() / (s**2).sum())
