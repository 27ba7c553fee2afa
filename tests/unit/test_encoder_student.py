"""A small encoder made of large ones: cut layers and units, a shorter vocabulary, and what distillation brings back."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from search_builders import TITLES, films, tiny_bert, titles_asked

from tasks.compression.distil import Student, batches, distance, distil, distil_lists, student_vectors
from tasks.compression.low_rank import with_factorised_words
from tasks.compression.prune import (
    important_heads,
    spread_layers,
    with_feed_forward,
    with_heads,
    with_layers,
    with_one_layer,
)
from tasks.compression.search_encoders import export_encoder
from tasks.compression.search_student import cut_encoder, narrow
from tasks.compression.vocabulary import kept_pieces, with_vocabulary
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import SearchStudent
from tasks.ranker.search.encoder import SentenceEncoder, vectors_of
from tasks.ranker.search.inputs import make_inputs
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.match import TextMatch


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    return SentenceEncoder(tiny_bert(tmp_path_factory.mktemp("bert"), layers=3))


@pytest.fixture(scope="module")
def words(encoder):
    return encoder.words([*TITLES, *films().written], 16)


@pytest.mark.parametrize(
    ("had", "kept", "expected"), [(6, 3, (0, 2, 5)), (6, 2, (0, 5)), (6, 6, tuple(range(6))), (6, 1, (5,))]
)
def test_layers_are_kept_from_both_ends(had, kept, expected):
    assert spread_layers(had, kept) == expected


def test_cutting_leaves_the_original_as_it_was(encoder, words):
    before = vectors_of(encoder, TITLES, 16)
    cut = with_feed_forward(with_layers(encoder, (0, 2)), 8, words)
    assert len(cut.body.encoder.layer) == 2 and cut.body.config.intermediate_size == 8
    assert np.array_equal(vectors_of(encoder, TITLES, 16), before)
    assert not np.allclose(vectors_of(cut, TITLES, 16), before, atol=1e-3)


def test_units_that_are_always_silent_go_first_and_cost_nothing(encoder, words):
    silenced = with_layers(encoder, (0, 1, 2))
    for layer in silenced.body.encoder.layer:
        layer.output.dense.weight.data[:, ::2] = 0
    half = with_feed_forward(silenced, silenced.body.config.intermediate_size // 2, words)
    assert np.allclose(vectors_of(half, TITLES, 16), vectors_of(silenced, TITLES, 16), atol=1e-6)


def test_heads_that_say_nothing_go_first_and_cost_nothing(encoder, words):
    silenced = with_layers(encoder, (0, 1, 2))
    layers = silenced.body.encoder.layer
    width = layers[0].attention.self.attention_head_size
    for layer, mute in zip(layers, (0, 1, 0), strict=True):
        layer.attention.output.dense.weight.data[:, mute * width : (mute + 1) * width] = 0
    heads = important_heads(silenced, 1, words)
    assert heads == ((1,), (0,), (1,))
    half = with_heads(silenced, heads)
    assert half.body.encoder.layer[1].attention.self.query.weight.shape == (width, encoder.width)
    assert np.allclose(vectors_of(half, TITLES, 16), vectors_of(silenced, TITLES, 16), atol=1e-6)
    assert not np.allclose(
        vectors_of(with_heads(silenced, ((0,), (1,), (0,))), TITLES, 16), vectors_of(half, TITLES, 16)
    )
    assert layers[0].attention.self.query.weight.shape == (encoder.width, encoder.width)  # the original is as it was


def test_word_vectors_of_low_rank_are_looked_up_as_they_were(encoder):
    low = with_layers(encoder, (0, 1, 2))
    table = low.body.embeddings.word_embeddings.weight
    table.data = table.data[:, :4] @ torch.randn(4, encoder.width)
    thin, energy = with_factorised_words(low, 4)
    assert energy == pytest.approx(1) and thin.body.embeddings.word_embeddings[0].weight.shape == (len(table), 4)
    assert np.allclose(vectors_of(thin, TITLES, 16), vectors_of(low, TITLES, 16), atol=5e-3)  # in bfloat16
    assert with_factorised_words(encoder, 4)[1] < 0.9


def test_layers_of_the_same_weights_have_the_mean_of_theirs_and_are_stored_once(tmp_path, encoder):
    two = with_layers(encoder, (0, 2))
    before = [layer.intermediate.dense.weight.clone() for layer in two.body.encoder.layer]
    one = with_one_layer(two)
    mean = one.body.encoder.layer[1].intermediate.dense.weight.clone()
    assert torch.allclose(mean, (before[0] + before[1]) / 2)
    assert torch.equal(two.body.encoder.layer[0].intermediate.dense.weight, before[0])  # the original is as it was
    for name, of in (("two", two), ("one", one)):
        export_encoder(Student(of, 1), of.tokenizer, [], tmp_path / name)
    two_layers, one_layer = ((tmp_path / name / "encoder.bin").stat().st_size for name in ("two", "one"))
    first, second = one.body.encoder.layer
    assert two_layers - one_layer >= sum(value.nbytes for value in first.parameters() if value.dim() == 2)
    distil(Student(one, 1), one.words(TITLES, 16), vectors_of(encoder, TITLES, 16)[:, None], 1, 0)
    assert first is second and not torch.equal(first.intermediate.dense.weight, mean)


def test_what_a_learned_student_is_narrowed_to_still_learns_in_all_its_parts(tmp_path, encoder, words):
    shape = SearchStudent(layers=2, feed_forward=8, heads=1, pieces=100, piece_width=6)
    student = cut_encoder(encoder, shape, words, tmp_path / "cut")
    asked = student.encoder.words(TITLES, 16)
    narrow(student, shape, asked)
    assert student.encoder.body.encoder.layer[1].attention.self.num_attention_heads == 1
    before = student_vectors(student, asked)
    distil(student, asked, np.repeat(vectors_of(encoder, TITLES, 16)[:, None], 2, 1), 3, 0)
    assert all(one.grad is not None for one in student.parameters())
    assert np.abs(student_vectors(student, asked) - before).max() > 1e-3


def test_a_cut_encoder_can_be_saved_and_read_again(tmp_path, encoder, words):
    cut = with_feed_forward(with_layers(encoder, (0, 2)), 8, words)
    cut.save(tmp_path / "cut")
    assert np.array_equal(vectors_of(SentenceEncoder(tmp_path / "cut"), TITLES, 16), vectors_of(cut, TITLES, 16))


def test_texts_whose_pieces_all_stay_have_the_vectors_they_had(tmp_path, encoder, words):
    assert with_vocabulary(encoder, words, 10**6, tmp_path / "small") == len(encoder.tokenizer)
    small = SentenceEncoder(tmp_path / "small")
    assert np.allclose(vectors_of(small, TITLES, 16), vectors_of(encoder, TITLES, 16), atol=1e-6)


def test_a_dropped_word_is_spelled_with_its_letters():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "a": 2, "##a": 3, "heat": 4, "##ing": 5, "rare": 6}
    assert kept_pieces(vocabulary, [0, 1], [[4, 4, 5], [6]], most=6) == [0, 1, 2, 3, 4, 5]
    assert kept_pieces(vocabulary, [0, 1], [], most=0) == [0, 1, 2, 3]  # letters and special pieces never go


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    class Bytes:
        def to_str(self):
            return json.dumps({"model": {"type": "BPE"}})

    other = SimpleNamespace(tokenizer=SimpleNamespace(backend_tokenizer=Bytes()))
    with pytest.raises(InputRejected, match="is BPE, not WordPiece"):
        with_vocabulary(other, [], 100, tmp_path / "small")


def test_distillation_brings_a_cut_encoder_back_to_both_teachers(encoder, words, monkeypatch):
    monkeypatch.setattr("tasks.compression.distil.RATE", 5e-3)  # a tiny encoder bears it, and learns in a second
    torch.manual_seed(1)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(encoder.width, encoder.width)))[0].astype(np.float32)
    one = vectors_of(encoder, [*TITLES, *films().written], 16)
    targets = np.stack([one, one @ turned], 1)
    student = Student(with_layers(encoder, (2,)), 2)

    def cosine():
        return (student_vectors(student, words) * targets).sum(-1).mean(0)

    before, losses = cosine(), distil(student, words, targets, epochs=60, seed=0)
    assert losses[-1] < losses[0] / 2
    assert before[1] < 0.5 and cosine().min() > 0.95


def test_the_second_map_learns_the_order_of_a_teacher_and_the_first_keeps_the_vectors(encoder, monkeypatch):
    monkeypatch.setattr("tasks.compression.distil.RATE", 3e-3)
    documents, lists = films(), titles_asked()
    asked, item = encoder.words(lists.queries, 8), encoder.words(documents.written, 16)
    query, title, written = (
        vectors_of(encoder, of, 16) for of in (lists.queries, [*TITLES, ""], [*documents.written, ""])
    )
    inputs = make_inputs(TextMatch(documents), lists, query, title, written)
    scores = np.where(lists.grade > 0, 3.0, -3.0).astype(np.float32) + np.float32(0.1)
    torch.manual_seed(2)
    student, hard = Student(with_layers(encoder, (0, 1, 2)), 2), np.zeros(len(scores), np.float32)

    def quality():
        q, i = student_vectors(student, asked), student_vectors(student, item)
        told = (q[lists.owner][:, 1] * np.vstack([i, np.zeros_like(i[:1])])[lists.rows][:, 1]).sum(1)
        return ndcg(lists, told).mean(), (q[:, 0] * query).sum(1).mean()

    before = quality()[0]
    for turn in range(12):
        distil_lists(student, asked, item, inputs, scores, hard, 8, turn)
    after, cosine = quality()
    assert after > before + 0.05 and cosine > 0.9


def test_a_target_that_is_not_finite_stops_distillation(encoder, words):
    targets = np.full((len(words), 1, encoder.width), np.nan, np.float32)
    with pytest.raises(InputRejected, match="the loss of distillation became nan"):
        distil(Student(with_layers(encoder, (0,)), 1), words, targets, epochs=1, seed=0)


def test_the_loss_of_equal_vectors_is_zero_and_every_text_is_met_once_an_epoch():
    vectors = torch.nn.functional.normalize(torch.randn(5, 2, 8), dim=-1)
    assert distance(vectors, vectors).item() == pytest.approx(0, abs=1e-5)
    told = batches([n % 7 for n in range(3_000)], np.random.default_rng(0))
    assert sorted(np.concatenate(told).tolist()) == list(range(3_000))
