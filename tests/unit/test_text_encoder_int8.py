"""The query encoder in int8, and that it stays as it was where int8 moves its vectors too far."""

from __future__ import annotations

import pytest
import torch
from search_builders import TITLES, films, tiny_bert

from tasks.compression import text_encoder
from tasks.compression.search_encoders import export_encoder
from tasks.compression.text_encoder import query_encoder
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


def test_int8_far_from_the_original_is_refused(encoder, tmp_path, monkeypatch):
    torch.manual_seed(5)
    other = SentenceEncoder(tiny_bert(tmp_path / "other"))

    def ruined(graph, samples, exact):
        import openvino

        export_encoder(other, other.tokenizer, [], tmp_path / "ruined")
        return openvino.Core().read_model(tmp_path / "ruined" / "encoder.xml")

    monkeypatch.setattr(text_encoder, "to_int8", ruined)
    told = query_encoder(TEXTS, 8, tmp_path / "cache", tmp_path / "out")
    assert told["precision"] == "fp32" and told["mean_cosine"] < 0.98 and told["bytes"] == told["original_bytes"]
    assert (QueryEncoder(tmp_path / "out").encode("heat") == QueryEncoder(encoder).encode("heat")).all()
