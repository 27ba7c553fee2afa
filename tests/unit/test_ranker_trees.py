"""The ensemble member: kept as text, blended row by row, calibrated on what was validated."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tasks.domain.recipe import Trees
from tasks.ranker.trees import Blend, Member, calibrate, fit_trees, tree_scores

PLAN = Trees(rounds=5, leaves=4, least_rows=5)
SLATES, ROWS = 30, 10
DRAW = np.random.default_rng(5)
X = DRAW.normal(size=(SLATES * ROWS, 3)).astype(np.float32)
LABEL = (X[:, 0] + 0.3 * DRAW.normal(size=len(X)) > 1).astype(np.uint8)


@pytest.fixture(scope="module", params=["lambdarank", "binary"])
def booster(request):
    plan = PLAN.model_copy(update={"objective": request.param})
    return fit_trees(X, LABEL, [ROWS] * SLATES, plan, seed=1, weight=np.ones(len(X), np.float32))


def test_the_trees_find_what_decides(booster):
    scores = tree_scores(booster, X)
    assert scores[LABEL == 1].mean() > scores[LABEL == 0].mean()


def test_what_is_kept_on_disk_scores_the_same_and_is_text(booster, tmp_path):
    member = Member(booster, Blend(share=0.5, temperature=1.2, bias=-0.1))
    member.save(tmp_path)
    loaded = Member.load(tmp_path)
    network = DRAW.normal(size=len(X)).astype(np.float32)
    np.testing.assert_array_equal(loaded.added_to(network, X), member.added_to(network, X))
    assert json.loads((tmp_path / "trees.json").read_text())["lightgbm"].startswith("tree\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blend.json", "trees.json"]


def test_a_directory_without_trees_has_no_member(tmp_path):
    assert Member.load(tmp_path) is None


def test_the_blend_is_made_row_by_row(booster):
    member = Member(booster, Blend(share=0.5, temperature=2.0, bias=1.0))
    network = DRAW.normal(size=len(X)).astype(np.float32)
    together = member.added_to(network, X)
    np.testing.assert_allclose(together, 2 * (network + 0.5 * tree_scores(booster, X)) + 1, rtol=1e-5)
    alone = np.concatenate([member.added_to(network[n : n + 1], X[n : n + 1]) for n in range(20)])
    np.testing.assert_array_equal(alone, together[:20])


def test_features_behind_those_of_the_trees_are_left_out(booster):
    wider = np.hstack([X, np.full((len(X), 2), 1e6, np.float32)])
    np.testing.assert_array_equal(tree_scores(booster, wider), tree_scores(booster, X))


def test_the_same_seed_grows_the_same_trees():
    one, other = (fit_trees(X, LABEL, [ROWS] * SLATES, PLAN, seed=3).model_to_string() for _ in range(2))
    assert one == other


def test_calibration_finds_scale_and_offset():
    scores = DRAW.normal(size=40_000)
    found = DRAW.random(len(scores)) < 1 / (1 + np.exp(-(0.5 * scores - 1)))
    temperature, bias = calibrate(scores, found)
    assert temperature == pytest.approx(0.5, abs=0.05) and bias == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0), (30, 5), (1, -300), (1, 300)])
def test_calibration_arrives_from_afar(scale, offset):
    """Newton's whole steps do not: they end at temperatures of 1e8."""
    scores = DRAW.normal(size=20_000)
    found = DRAW.random(len(scores)) < 1 / (1 + np.exp(-(scores - 3)))
    temperature, bias = calibrate(scale * scores + offset, found)
    assert temperature * scale == pytest.approx(1, abs=0.1)
    assert bias + temperature * offset == pytest.approx(-3, abs=0.2)


def test_calibration_without_a_positive_is_finite():
    assert np.isfinite(calibrate(np.zeros(10), np.zeros(10, bool))).all()
