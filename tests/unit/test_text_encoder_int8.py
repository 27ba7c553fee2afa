"""The query encoder in int8, and what is shipped where int8 moves its vectors too far or cannot be made."""

from __future__ import annotations

import os

import pytest
import torch
from search_builders import TITLES, films, tiny_bert

from tasks.compression import text_encoder
from tasks.compression.search_encoders import export_encoder
from tasks.compression.text_encoder import query_encoder
from tasks.copies import take_away
from tasks.domain.errors import InputRejected
from tasks.ranker.search.encoder import SentenceEncoder
from tasks.ranker.text import QueryEncoder

TEXTS = [*TITLES, *films().written]


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    small, folder = SentenceEncoder(tiny_bert(tmp_path / "bert")), tmp_path / "original"
    export_encoder(small, small.tokenizer, [], folder)
    monkeypatch.setattr(text_encoder, "encoder_folder", lambda: folder)
    monkeypatch.setattr(text_encoder, "convert_encoder", lambda cache: folder / "encoder.xml")
    monkeypatch.setattr(text_encoder, "encoder_digest", lambda: "0" * 64)
    return folder


def test_int8_near_the_original_is_kept_and_made_once(encoder, tmp_path, monkeypatch):
    told = query_encoder(TEXTS, 8, tmp_path / "cache", tmp_path / "out")
    assert told["precision"] == "int8" and told["mean_cosine"] > 0.98 and told["bytes"] < told["original_bytes"]
    monkeypatch.setattr(text_encoder, "to_int8", None)
    assert query_encoder(TEXTS, 8, tmp_path / "cache", tmp_path / "again") == told


def test_an_encoder_that_is_used_is_not_pruned(encoder, tmp_path):
    root = tmp_path / "cache" / "text"
    query_encoder(TEXTS, 8, root.parent, tmp_path / "out")
    (made,) = root.glob("*/int8-*")
    for path in (*made.iterdir(), made):
        os.utime(path, (0, 0))
    query_encoder(TEXTS, 8, root.parent, tmp_path / "again")
    assert not take_away(made, root, unused_since=1.0)


def test_the_same_texts_make_the_same_bytes_whatever_was_made_here_before(encoder, tmp_path):
    here, there = tmp_path / "cache", tmp_path / "another machine's"
    query_encoder(TEXTS[:9], 8, here, tmp_path / "last week's")
    query_encoder(TEXTS, 8, here, tmp_path / "ours")
    query_encoder(TEXTS[::-1], 8, there, tmp_path / "theirs")
    for name in text_encoder.PARTS:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    assert (tmp_path / "ours" / "config.json").read_bytes() != (tmp_path / "last week's" / "config.json").read_bytes()


def test_int8_far_from_the_original_is_refused(encoder, tmp_path, monkeypatch):
    torch.manual_seed(5)
    other = SentenceEncoder(tiny_bert(tmp_path / "other"))

    def ruined(graph, samples, exact):
        import openvino

        export_encoder(other, other.tokenizer, [], tmp_path / "ruined")
        return openvino.Core().read_model(tmp_path / "ruined" / "encoder.xml")

    monkeypatch.setattr(text_encoder, "to_int8", ruined)
    told = query_encoder(TEXTS, 8, tmp_path / "cache", tmp_path / "out")
    assert told["precision"] == "bf16" and told["mean_cosine"] > 0.99 and "mean cosine" in told["refused"]["int8"]
    assert told["bytes"] <= 0.6 * told["original_bytes"]
    ours, original = QueryEncoder(tmp_path / "out"), QueryEncoder(encoder)
    assert ours.encode("heat") @ original.encode("heat") > 0.99


@pytest.mark.parametrize("works", ["bf16", "fp32", None])
def test_what_cannot_be_made_here_is_left_out_with_a_reason(encoder, tmp_path, monkeypatch, works):
    def unsupported(*graph, **given):
        raise RuntimeError("operator Frobnicate is not supported")

    monkeypatch.setattr(text_encoder, "to_int8", unsupported)
    if works != "bf16":
        monkeypatch.setattr(text_encoder, "in_bf16", unsupported)
    if works is None:
        monkeypatch.setattr(text_encoder, "save_graph", unsupported)
        with pytest.raises(InputRejected, match="Frobnicate"):
            query_encoder(TEXTS, 8, tmp_path / "cache", tmp_path / "out")
        return
    told = query_encoder(TEXTS, 8, tmp_path / "cache", tmp_path / "out")
    assert told["precision"] == works and "Frobnicate" in told["refused"]["int8"]
