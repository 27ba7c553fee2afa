"""Texts of like length run together: every row once, in its own place, and little padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.ranker.text import BATCH, LEAST, buckets, encode_rows


class Graph:
    """An encoder whose vector is the row's first id, its words, and how long the padded row was."""

    def __init__(self):
        self.padded = 0

    def infer(self, inputs):
        ids, mask = inputs
        self.padded += ids.size
        self.told = np.stack([ids[:, 0], mask.sum(1), (ids * mask).sum(1)], 1).astype(np.float32)

    def get_output_tensor(self, at):
        return type("Told", (), {"data": self.told})()


@given(st.lists(st.integers(1, 80), max_size=300))
def test_every_row_has_its_own_vector_whatever_it_runs_with(lengths):
    rows = [[n + 1, *range(1, length)] for n, length in enumerate(lengths)]
    seen = []
    told = encode_rows(Graph(), rows, lambda done, total: seen.append((done, total)))
    assert len(told) == len(rows)
    for n, row in enumerate(rows):
        assert told[n].tolist() == [n + 1, len(row), sum(row)]
    assert seen[-1:] == ([(len(rows), len(rows))] if rows else [])


@given(st.lists(st.integers(1, 80), min_size=1, max_size=300))
def test_a_bucket_is_never_too_large_and_rarely_small(lengths):
    told = buckets(np.array(lengths))
    assert sorted(np.concatenate(told).tolist()) == list(range(len(lengths)))
    assert max(map(len, told)) <= BATCH
    assert sum(len(one) < LEAST for one in told) <= 1 + len(lengths) // BATCH


def test_mixed_lengths_cost_little_padding():
    lengths = np.random.default_rng(0).lognormal(np.log(44), 0.45, 1_000).round().clip(17, 96).astype(int)
    graph = Graph()
    encode_rows(graph, [[1] * length for length in lengths.tolist()])
    assert graph.padded < 1.1 * lengths.sum() < 96 * len(lengths) / 1.5
