"""What a CUDA device runs, on the CPU up to the device: the parent's numbers, in bf16 nearly so, each row by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tasks import benchmark
from tasks.compression.variants import make_variant
from tasks.domain.errors import InputRejected
from tasks.ranker.cuda import BASE_ROWS, FULL_ROWS, WEIGHTS, CudaScorer
from tasks.ranker.device import CPU, CUDA, is_here, open_scorer, reference_scorer
from tasks.ranker.rank import RESCORED
from tasks.ranker.runtime import PARENT, TorchScorer
from tasks.serving.engine import Engine
from tasks.serving.golden import TOLERANCE_OF_CUDA, record, replay
from tasks.serving.guarded import Guarded
from tasks.serving.launch import launch_environment
from tests.serving_builders import a_morning, a_network, golden_requests, rows_to_score

without_a_device = pytest.mark.skipif(is_here(CUDA), reason="this machine has a CUDA device")


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """By name the model directories that compress makes for a CUDA device, and their parent."""
    root = tmp_path_factory.mktemp("cuda")
    a_network(root / "parent")
    for name in ("fp32", "bf16"):
        make_variant(name, root / "parent", [], 4, root / name, CUDA)
    return {name: root / name for name in ("parent", "fp32", "bf16")}


@pytest.fixture(scope="module")
def scorers(variants):
    return {name: CudaScorer.load(variants[name], CPU) for name in ("fp32", "bf16")}


def test_what_the_device_holds_is_the_parent_or_half_of_it(variants):
    whole, half = (load_file(variants[name] / WEIGHTS) for name in ("fp32", "bf16"))
    assert {str(value.dtype) for value in whole.values()} == {"torch.float32"}
    exact = {name for name, value in half.items() if str(value.dtype) == "torch.float32"}
    assert "skip.weight" in exact and "base_out.weight" in exact and "trunk.0.weight" not in exact
    assert whole.keys() == half.keys() == load_file(variants["bf16"] / PARENT).keys()
    config = json.loads((variants["bf16"] / "config.json").read_bytes())
    assert (config["device"], config["precision"]) == ("cuda", "bf16")


@pytest.mark.parametrize(("name", "apart"), [("fp32", 1e-6), ("bf16", 0.02)])
def test_scores_are_those_of_the_parent(variants, scorers, name, apart):
    given, parent = rows_to_score(BASE_ROWS + 44), TorchScorer.load(variants["parent"])
    base, full = scorers[name].base(*given[:2]), scorers[name].full(*given)
    np.testing.assert_allclose(base, parent.base(*given[:2]), atol=apart)
    np.testing.assert_allclose(full, parent.full(*given), atol=apart)
    assert full.dtype == np.float32 and len(np.unique(full)) > 295, "bf16 scores would lie on few steps"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_no_row_depends_on_what_is_scored_beside_or_was_scored_before_it(scorers, name):
    given = rows_to_score(2 * FULL_ROWS + 10)
    full, base = scorers[name].full(*given), scorers[name].base(*given[:2])
    for n in range(0, len(full), 67):
        one = [part[n : n + 1] for part in given]
        assert scorers[name].full(*one)[0] == full[n] and scorers[name].base(*one[:2])[0] == base[n]
    assert len(scorers[name].base(*(part[:0] for part in given[:2]))) == 0


def test_short_histories_may_come_unpadded_and_one_call_holds_a_request(scorers):
    x, item_vec, tokens, mask = rows_to_score(30)
    mask[:, 6:], tokens[:, 6:] = 0, 0
    padded = scorers["bf16"].full(x, item_vec, tokens, mask)
    assert (scorers["bf16"].full(x, item_vec, tokens[:, :6], mask[:, :6]) == padded).all()
    assert FULL_ROWS >= RESCORED


def test_graphs_are_prepared_before_the_first_request(variants):
    scorer = CudaScorer.load(variants["bf16"], CPU)
    Guarded(scorer).prepare()
    assert set(scorer._stages) == {"base", "full"}


def test_a_cuda_release_with_other_weights_is_refused_by_its_golden_requests(variants, scorers, tmp_path):
    items = a_morning().items
    requests = [request for request in golden_requests() if request["surface"] == "recommendation"]
    (tmp_path / "golden.json").write_bytes(record(Engine(items, scorers["bf16"]), requests, TOLERANCE_OF_CUDA))
    assert replay(Engine(items, CudaScorer.load(variants["bf16"], CPU)), tmp_path / "golden.json") == len(requests)
    wrong = tmp_path / "model"
    shutil.copytree(variants["bf16"], wrong)
    save_file({name: 1.5 * value for name, value in load_file(wrong / WEIGHTS).items()}, wrong / WEIGHTS)
    with pytest.raises(InputRejected, match="golden request 0 .* does not compute what was packaged"):
        replay(Engine(items, CudaScorer.load(wrong, CPU)), tmp_path / "golden.json")


@without_a_device
def test_without_the_device_a_model_is_judged_and_neither_served_nor_timed(variants):
    assert isinstance(reference_scorer(variants["bf16"]), CudaScorer)
    with pytest.raises(InputRejected, match="is for a CUDA device and this machine shows none"):
        open_scorer(variants["bf16"])
    parts = benchmark.Parts(variants["bf16"], Path("items"), Path("view"))
    with pytest.raises(InputRejected, match="is for a CUDA device and this machine shows none"):
        benchmark.loading(parts, 1)


def test_int8_is_no_variant_of_a_cuda_device(variants, tmp_path):
    with pytest.raises(InputRejected, match="int8 is made for CPUs; a release for a CUDA device is one of fp32, bf16"):
        make_variant("int8", variants["parent"], [], 4, tmp_path, CUDA)


def test_lost_weights_are_said_by_name(variants, tmp_path):
    shutil.copytree(variants["fp32"], tmp_path / "model", ignore=shutil.ignore_patterns(WEIGHTS))
    with pytest.raises(InputRejected, match=f"holds no {WEIGHTS}; run compress"):
        CudaScorer.load(tmp_path / "model", CPU)


def test_a_replica_computes_on_the_cards_that_its_launcher_was_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert launch_environment()["CUDA_VISIBLE_DEVICES"] == "1"
