"""Cutting the graph at the text changes when something is computed, and no score."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from openvino import Core

from tasks.compression.quantise import save_graph
from tasks.ranker.features import FEATURES
from tasks.ranker.head_parts import PartsScorer, cut_at_text, openvino_scorer
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Slate, rank_slate
from tasks.ranker.runtime import OpenVinoScorer, in_bf16, is_bf16
from tasks.ranker.tokens import MAX_TOKENS, TOKEN
from tasks.serving.engine import Engine
from tasks.serving.release import verify
from tests.serving_builders import WIDTH, a_morning, a_release, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "model"
    write_model(directory)
    return directory


def test_scores_are_those_of_the_whole_graph(model: Path) -> None:
    rng = np.random.default_rng(1)
    n = 70
    x, vectors = (rng.normal(size=(n, width)).astype(np.float32) for width in (len(FEATURES), WIDTH))
    tokens = rng.normal(size=(n, MAX_TOKENS, len(TOKEN))).astype(np.float32)
    mask = (rng.random((n, MAX_TOKENS)) < 0.5).astype(np.float32)
    whole, cut = OpenVinoScorer(model), openvino_scorer(model)
    assert isinstance(cut, PartsScorer)
    parts = cut.parts_of(vectors)
    assert parts.shape[1] < 10, "what is kept of a text is small"
    for given in (vectors, parts):
        np.testing.assert_allclose(cut.base(x, given), whole.base(x, vectors), atol=1e-5)
        np.testing.assert_allclose(cut.full(x, given, tokens, mask), whole.full(x, vectors, tokens, mask), atol=1e-5)


def test_a_list_is_ranked_as_by_the_whole_graph(model: Path) -> None:
    morning = a_morning()
    items, user = morning.items, next(iter(morning.histories.values()))
    cut = openvino_scorer(model)
    assert isinstance(cut, PartsScorer)
    profile, rows = Profile(items, user, items.day), np.array([3, -1, 7, 40, 11], np.int32)
    ours = rank_slate(cut, Slate(profile, rows, cut.parts_of_items(items)))
    theirs = rank_slate(OpenVinoScorer(model), Slate(profile, rows))
    assert ours.order.tolist() == theirs.order.tolist()
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_the_engine_computes_them_when_a_release_is_opened(tmp_path: Path) -> None:
    src, view = a_release(tmp_path)
    engine = Engine.open(verify(src), view)
    assert engine._parts is not None
    assert len(engine._parts) == len(engine._items.text_vectors) + 1


def test_a_graph_marked_for_bf16_stays_so_on_both_sides_of_the_cut(model: Path, tmp_path: Path) -> None:
    whole = {stage: Core().read_model(model / f"{stage}.xml") for stage in ("base", "full")}
    for stage, graph in whole.items():
        save_graph(in_bf16(graph), tmp_path / f"{stage}.xml")
        assert (tmp_path / f"{stage}.bin").stat().st_size <= 0.6 * (model / f"{stage}.bin").stat().st_size
    shutil.copyfile(model / "config.json", tmp_path / "config.json")
    for stage in whole:
        cut = cut_at_text(tmp_path / f"{stage}.xml")
        assert cut is not None and is_bf16(cut[0]) and is_bf16(cut[1])
        assert not is_bf16(Core().read_model(model / f"{stage}.xml"))
    morning = a_morning()
    user, rows = next(iter(morning.histories.values())), np.arange(20, dtype=np.int32)
    profile = Profile(morning.items, user, morning.items.day)
    small, exact = (rank_slate(openvino_scorer(of), Slate(profile, rows)) for of in (tmp_path, model))
    np.testing.assert_allclose(small.scores, exact.scores, atol=0.1)
