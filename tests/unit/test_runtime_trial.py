"""Runtimes of one release on its golden requests: another one must give the same answers before its time counts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tasks import runtime_trial
from tasks.compression.variants import make_variant
from tasks.domain.errors import InputRejected
from tasks.ranker.device import ByLength, open_scorer
from tasks.ranker.head_parts import openvino_scorer
from tasks.ranker.runtime import PARENT, TorchScorer
from tasks.runtime_trial import try_runtimes
from tasks.serving.engine import Engine
from tasks.serving.golden import record
from tasks.serving.release import seal, verify
from tests.serving_builders import a_network, a_release, golden_requests, rows_to_score


@pytest.fixture(scope="module")
def src(tmp_path_factory):
    """A release whose model is a network, so that torch can run it too."""
    root = tmp_path_factory.mktemp("runtimes")
    src, _ = a_release(root)
    release, parent = src / "release", root / "parent"
    a_network(parent)
    shutil.rmtree(release / "model")
    make_variant("fp32", parent, [rows_to_score(8)], 4, release / "model")
    items = Engine.open(verify_again(src), None)._items
    engine = Engine(items, openvino_scorer(release / "model"))
    requests = [request for request in golden_requests() if request["surface"] == "recommendation"]
    (release / "golden.json").write_bytes(record(engine, requests))
    return src


def verify_again(src, **notes):
    facts = json.loads((src / "release/release.json").read_text())
    seal(src, {name: facts[name] for name in ("kind", "partition", "created", "view")} | {"notes": notes})
    return verify(src)


def test_histories_of_like_length_together_score_as_all_padded(src):
    model, given = src / "release" / "model", rows_to_score(40)
    plain = TorchScorer.load(model)
    np.testing.assert_allclose(ByLength(plain).full(*given), plain.full(*given), atol=1e-6)


def test_a_runtime_that_gives_the_golden_answers_is_timed(src, monkeypatch):
    monkeypatch.setattr(runtime_trial, "ROUNDS", 3)
    chosen, trials = try_runtimes(src / "release")
    assert [trial.name for trial in trials] == ["openvino", "torch"]
    assert all(trial.cpu_ms for trial in trials)
    assert [trial.name for trial in trials if not trial.reason] == [chosen]


def test_a_runtime_with_other_answers_may_not_serve_however_fast(src, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_trial, "ROUNDS", 1)
    release = tmp_path / "release"
    shutil.copytree(src / "release", release)
    weights = load_file(release / "model" / PARENT)
    save_file({name: 1.5 * value for name, value in weights.items()}, release / "model" / PARENT)
    chosen, (_, refused) = try_runtimes(release)
    assert chosen == "openvino" and refused.cpu_ms is None
    assert refused.reason.startswith("golden request") and "expected" in refused.reason


def test_torch_is_not_even_opened_where_a_quantised_model_was_judged(src, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_trial, "ROUNDS", 1)
    monkeypatch.delattr(TorchScorer, "load")
    release = tmp_path / "release"
    shutil.copytree(src / "release", release)
    config = json.loads((release / "model" / "config.json").read_text())
    (release / "model" / "config.json").write_text(json.dumps(config | {"variant": {"name": "int8"}}))
    chosen, (_, refused) = try_runtimes(release)
    assert chosen == "openvino" and "another model than int8, which was judged" in refused.reason


def test_a_runtime_that_is_not_installed_is_no_choice(src, monkeypatch):
    def absent(directory):
        raise ImportError("No module named 'torch'")

    monkeypatch.setattr(runtime_trial, "ROUNDS", 1)
    monkeypatch.setattr(TorchScorer, "load", absent)
    chosen, (_, refused) = try_runtimes(src / "release")
    assert chosen == "openvino" and "this machine has none" in refused.reason
    with pytest.raises(InputRejected, match="serves by torch and this machine has none"):
        open_scorer(src / "release" / "model", runtime="torch")


def test_a_release_is_served_by_the_runtime_that_it_names(src, tmp_path):
    shutil.copytree(src, tmp_path / "src")
    by_torch = Engine.open(verify_again(tmp_path / "src", runtime="torch"), None)
    assert isinstance(by_torch._scorer._scorer, ByLength)
    with pytest.raises(InputRejected, match="serves by 'abacus'"):
        Engine.open(verify_again(tmp_path / "src", runtime="abacus"), None)
