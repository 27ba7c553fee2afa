"""Two ways to int8 that cost MiniLM 2 to 6 % of NDCG@10 (benchmarks/results/compression.json): what keeps them out does so."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tasks.compression.text_encoder import drift
from tasks.ranker.text import encoder_folder, load_encoder

TEXTS = [
    f"{maker} {what}, {how}"
    for maker in ("private brand", "national brand", "organic")
    for what in ("whole milk gallon", "seedless grapes", "paper towels", "frozen pepperoni pizza")
    for how in ("12 oz", "family size", "on sale")
]


@pytest.fixture(scope="module")
def words():
    tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    return [torch.tensor([one.ids]) for one in tokenizer.encode_batch(TEXTS)]


@pytest.fixture(scope="module")
def original():
    return load_encoder(encoder_folder())


def vectors(model, words):
    with torch.inference_mode():
        return np.concatenate([model(ids, torch.ones_like(ids)).numpy() for ids in words])


@pytest.fixture(scope="module")
def before(original, words):
    return vectors(original, words)


def test_torch_dynamic_int8_is_refused(original, words, before):
    with warnings.catch_warnings(action="ignore"):  # the package says that it is to be replaced
        dynamic = torch.ao.quantization.quantize_dynamic(original, {torch.nn.Linear}, dtype=torch.qint8)
    told = drift(before, vectors(dynamic, words))
    assert told.too_far and told.mean_cosine > 0.8, "it must be refused for its drift, not because it is broken"


def test_static_int8_with_scales_from_the_extremes_is_refused(original, words, before):
    """As ONNX Runtime's static min-max: one scale a tensor from all that was seen, on every tensor, and none smoothed."""
    extremes: dict[torch.nn.Module, tuple[float, float]] = {}

    def see(module, given, out):
        low, high = extremes.get(module, (0.0, 0.0))
        extremes[module] = (min(low, float(out.min())), max(high, float(out.max())))

    def quantise(module, given, out):
        low, high = extremes[module]
        scale = (high - low) / 255
        return torch.fake_quantize_per_tensor_affine(out, scale, round(-low / scale), 0, 255)

    leaves = [one for one in original.modules() if isinstance(one, torch.nn.Linear | torch.nn.LayerNorm)]
    for seen, hook in ((words[::2], see), (words, quantise)):
        hooks = [one.register_forward_hook(hook) for one in leaves]
        try:
            after = vectors(original, seen)
        finally:
            for one in hooks:
                one.remove()
    told = drift(before, after)
    assert told.too_far and told.mean_cosine > 0.5, told


def test_the_same_vectors_are_not_far_and_broken_ones_are(before):
    assert not drift(before, before).too_far
    assert drift(before, np.full_like(before, np.nan)).too_far


def test_the_large_measurement_says_the_same():
    from benchmarks._table import RESULTS

    rows = json.loads((RESULTS / "compression.json").read_bytes())["rows"]
    assert {row["reached"] for row in rows if row["bar"].startswith("must be refused")} == {True}
