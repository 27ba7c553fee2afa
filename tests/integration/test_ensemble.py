"""What serves is what was measured: several networks and trees go from training into a release that an engine opens."""

from __future__ import annotations

import shutil
from itertools import combinations

import numpy as np
import pytest

from tasks.build_dataset import build_dataset
from tasks.compression.variants import calibration_inputs, make_variant
from tasks.domain.recipe import Trees, load_recipe
from tasks.finetune import finetune
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import Dataset
from tasks.ranker.head_parts import openvino_scorer
from tasks.ranker.judge import prepare
from tasks.ranker.model import load_model
from tasks.ranker.rank import rank_slate
from tasks.ranker.runtime import BLEND, TREES, TorchScorer, inputs_of, read_config
from tasks.ranker.state import View
from tasks.serving.engine import Engine
from tasks.serving.release import seal, seal_view, verify
from tests.shop import LAST, open_shop

TINY = load_recipe("tiny")
RECIPE = TINY.model_copy(
    update={
        "network": TINY.network.model_copy(update={"members": 2}),
        "training": TINY.training.model_copy(update={"epochs": 1}),
        "trees": Trees(rounds=5, leaves=7, least_rows=20),
    }
)
PARTITION = "2017-06-16"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("ensemble")


@pytest.fixture(scope="module")
def dataset(home):
    shop, out = open_shop(home / "shop", last=LAST), home / "dataset"
    out.mkdir()
    build_dataset(shop.accepted, shop.plans, shop.catalogue, PARTITION, RECIPE, home / "cache", out, None)
    return out


@pytest.fixture(scope="module")
def model(dataset, home):
    (home / "model").mkdir()
    finetune(dataset, RECIPE, home, home / "model", seed=1, threads=1)
    return home / "model"


@pytest.fixture(scope="module")
def slate(dataset):
    data = Dataset.open(dataset)
    return prepare(data.mornings(data.split.validation_days))[0].ranked


def released(name, model, dataset, src):
    """The engine of a sealed release of one variant: seal refuses what it does not know, verify what is not sealed."""
    data = Dataset.open(dataset)
    calibration = calibration_inputs(Corpus(data), 4)
    make_variant(name, model, calibration, 4, src / "release/model")
    shutil.copytree(dataset / "items", src / "release/items")
    view = shutil.copytree(dataset / "view", src.parent / f"view-{name}")
    (view / "view.json").unlink(missing_ok=True)
    (src / "release/golden.json").write_text("[]")
    facts = {"kind": "bootstrap", "partition": PARTITION, "created": PARTITION, "key_id": "k1"}
    seal(src, {**facts, "view": seal_view(view, len(View(view).user_ids))})
    return Engine.open(verify(src), view)


def test_a_release_ranks_as_its_parent_did(model, dataset, slate, tmp_path):
    released("fp32", model, dataset, tmp_path / "src")
    parent = rank_slate(TorchScorer.load(model), slate)
    served = rank_slate(openvino_scorer(tmp_path / "src/release/model"), slate)
    np.testing.assert_allclose(served.scores, parent.scores, atol=2e-3)
    assert served.order[:10].tolist() == parent.order[:10].tolist()


def test_a_small_variant_keeps_every_member_and_the_trees(model, dataset, slate, tmp_path):
    released("int8-low-rank", model, dataset, tmp_path / "src")
    directory = tmp_path / "src/release/model"
    assert {TREES, BLEND} <= {path.name for path in directory.iterdir()}
    parent = rank_slate(TorchScorer.load(model), slate)
    served = rank_slate(openvino_scorer(directory), slate)
    assert np.corrcoef(served.scores[np.argsort(served.order)], parent.scores[np.argsort(parent.order)])[0, 1] > 0.98


def test_every_member_and_the_trees_have_a_say(model, slate):
    network = load_model(model)  # the mean of both; the first member has no scores of its own
    inputs = inputs_of(read_config(model))
    scores = [rank_slate(TorchScorer(scorer, inputs), slate).scores for scorer in (network.members[1], network)]
    for these, those in combinations([*scores, rank_slate(TorchScorer.load(model), slate).scores], 2):
        assert not np.allclose(these, those, atol=1e-3)
