"""What int8 can hide or leak, shown on real graphs: the reasons for two of compress's refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from tasks.compression.quantise import to_int8, to_openvino
from tasks.domain.recipe import load_recipe
from tasks.ranker.features import FEATURES
from tasks.ranker.model import Ranker
from tasks.ranker.runtime import compiled_model
from tasks.ranker.text import WIDTH


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Ranker(load_recipe("tiny").network).eval()


def rows(count, spread=1.0):
    draws = np.random.default_rng(1)
    vectors = draws.normal(size=(count, WIDTH))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return spread * draws.normal(size=(count, len(FEATURES))).astype(np.float32), unit.astype(np.float32)


@pytest.fixture(scope="module")
def by_static(model):
    x, vectors = rows(64)
    graph = to_int8(to_openvino(model, "base", (x[:8], vectors[:8])), [(x, vectors)])
    request = compiled_model(graph, 1).create_infer_request()

    def score(*inputs):
        request.infer([np.ascontiguousarray(part) for part in inputs])
        return np.array(request.get_output_tensor(0).data).reshape(-1)

    return score


def alone_and_together(score):
    """The largest change of a row's score when a row 30 times as large joins the batch."""
    x, vectors = rows(8)
    loud, other = rows(1, 30.0)
    together = score(np.concatenate([x, loud]), np.concatenate([vectors, other]))[: len(x)]
    return float(np.abs(together - score(x, vectors)).max())


def test_dynamic_scales_leak_between_batch_mates_and_static_ones_do_not(model, by_static):
    with warnings.catch_warnings(action="ignore"):  # the package says that it is to be replaced
        dynamic = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    def by_dynamic(x, vectors):
        with torch.inference_mode():
            return dynamic.base(torch.from_numpy(x), torch.from_numpy(vectors)).numpy()

    assert alone_and_together(by_dynamic) > 1e-4  # ten times what compress allows
    assert alone_and_together(by_static) <= 1e-5


def test_int8_turns_a_number_that_is_not_finite_into_a_plausible_score(model, by_static):
    x, vectors = rows(4)
    bad = x.copy()
    bad[2, 0] = np.nan
    with torch.inference_mode():
        assert not torch.isfinite(model.base(torch.from_numpy(bad), torch.from_numpy(vectors))[2])
    assert np.isfinite(by_static(bad, vectors)).all()  # hence the check before the graph, in tasks/serving/engine.py
