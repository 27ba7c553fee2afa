"""Item vectors in int8 and features that may go: what is lost is known, and what is not finite is refused."""

from __future__ import annotations

import numpy as np
import pytest
from search_builders import titles_asked

from tasks.compression.feature_selection import worth_of_features
from tasks.compression.item_vectors import small_vectors
from tasks.compression.quantise import to_int8
from tasks.domain.errors import InputRejected
from tasks.ranker.search.inputs import Inputs
from tasks.ranker.search.vectors import load_vectors, save_vectors


def unit(draws, rows, width, rank):
    vectors = draws.normal(size=(rows, rank)) @ draws.normal(size=(rank, width)) + 0.3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_vectors_with_few_directions_keep_their_cosines_in_an_eighth_of_the_bytes():
    vectors = unit(np.random.default_rng(0), 2_000, 64, 12)
    small = small_vectors(vectors, 16)
    assert small.codes.dtype == np.int8 and small.nbytes < vectors.nbytes / 8
    assert np.abs(small.restored() @ vectors[:50].T - vectors @ vectors[:50].T).max() < 0.02


def test_directions_that_are_left_out_cost_what_they_held():
    vectors = unit(np.random.default_rng(1), 500, 32, 32)
    near = [np.abs(small_vectors(vectors, kept).restored() - vectors).mean() for kept in (4, 16, 32)]
    assert near[0] > near[1] > near[2] and near[2] < 0.005


def test_a_file_gives_back_both_kinds_of_tables(tmp_path):
    vectors = unit(np.random.default_rng(4), 300, 64, 12)
    small = small_vectors(vectors, 16)
    save_vectors(tmp_path / "vectors.safetensors", {"whole": vectors, "small": small})
    whole, read = (load_vectors(tmp_path / "vectors.safetensors", name) for name in ("whole", "small"))
    assert np.array_equal(whole, vectors.astype(np.float16).astype(np.float32)) and np.array_equal(
        read, small.restored()
    )
    assert whole.dtype == read.dtype == np.float32 and small.nbytes < vectors.astype(np.float16).nbytes / 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_never_becomes_a_plausible_byte(bad):
    vectors = unit(np.random.default_rng(2), 10, 8, 8)
    vectors[3, 1] = bad
    with pytest.raises(InputRejected, match="1 of 10 item vectors are not finite"):
        small_vectors(vectors, 4)
    with pytest.raises(InputRejected, match="calibration sample 1 of 2"):
        to_int8(None, [(vectors[:1],), (vectors[3:4],)])


def test_a_feature_that_decides_goes_last_and_one_of_a_pair_is_cheap():
    lists = titles_asked()
    pairs, draws = len(lists.rows), np.random.default_rng(3)
    answer = lists.grade + 0.01 * draws.normal(size=pairs)
    x = np.stack([draws.normal(size=pairs), answer, answer, draws.normal(size=pairs)], 1).astype(np.float32)

    def quality(inputs):
        """A head that trusts both copies of the answer equally."""
        return -float(np.square(np.maximum(inputs.x[:, 1], inputs.x[:, 2]) - answer).mean())

    vectors = np.zeros((len(lists), 2), np.float32)
    worth = worth_of_features(("noise", "one", "other", "more noise"), Inputs(lists, x, vectors, vectors), quality)
    assert set(list(worth)[:2]) == {"noise", "more noise"}
    assert list(worth.values())[2] < list(worth.values())[3] / 2
