"""The benchmark of a CUDA device, run on the CPU up to the device; without one it measures and writes nothing."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest

from benchmarks import serving_gpu
from tasks.compression.variants import make_variant
from tasks.domain.requests import RequestRefused
from tasks.ranker.cuda import CudaScorer
from tasks.ranker.device import CPU, CUDA
from tasks.serving.engine import Engine
from tests.serving_builders import a_morning, a_network


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    root, items = tmp_path_factory.mktemp("gpu"), a_morning().items
    a_network(root / "parent")
    make_variant("bf16", root / "parent", [], 4, root / "model", CUDA)
    return Engine(items, CudaScorer.load(root / "model", CPU))


def test_a_batch_is_ranked_whole_and_timed(engine, monkeypatch):
    clock = count(step=0.004)
    monkeypatch.setattr(serving_gpu, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    requests = serving_gpu.requests_of(a_morning().items, 12)
    assert len({len(one.history) for one in requests}) == 12 and {len(one.candidates) for one in requests} == {60}
    told = serving_gpu.taken(engine, requests, 8, 3, CPU)
    assert told.p50_ms == pytest.approx(4) == told.p99_ms and told.device_mib is None
    assert told.per_second == pytest.approx(8 / 0.004)


def test_a_request_that_is_refused_is_no_fast_request(engine):
    search = serving_gpu.convert_rank({"surface": "search", "query": "milk"})
    with pytest.raises(RequestRefused, match="answers no search"):
        serving_gpu.taken(engine, [search], 1, 3, CPU)


def test_without_a_device_nothing_is_measured_and_nothing_written(monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("written")

    monkeypatch.setattr(serving_gpu, "is_here", lambda device: False)
    monkeypatch.setattr(serving_gpu, "publish", never)
    monkeypatch.setattr("sys.argv", ["serving_gpu"])
    assert serving_gpu.main() == 0
    assert capsys.readouterr().out == "not measured: no CUDA device\n"
