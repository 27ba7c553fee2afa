"""When training may go on from the champion's weights, and what shrink and perturb make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.domain.recipe import WarmStart, load_recipe
from tasks.domain.warm_start import why_not
from tasks.ranker.features import FEATURES
from tasks.ranker.model import Ranker
from tasks.ranker.runtime import PARENT
from tasks.ranker.warm_start import start_from

F = len(FEATURES)
INPUTS = {"features": ["a", "b"], "nullable": [], "fills": [], "position": False}
OURS = {
    "network": {"width": 16},
    "features": ["a", "b"],
    "inputs": INPUTS,
    "token": ["age"],
    "max_tokens": 20,
    "labels": {"goal": ["purchase"]},
    "train_end": "2017-06-16",
    "train_through": "2017-06-13",
}


def test_an_equal_champion_of_the_day_before_is_a_start():
    assert why_not(OURS, OURS, "2017-06-15") is None
    other_fills = OURS | {"inputs": INPUTS | {"fills": [0.5]}}
    assert why_not(other_fills, OURS, "2017-06-15") is None, "medians are data, not architecture"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"network": {"width": 32}}, "another network"),
        ({"features": ["a"]}, "another features"),
        ({"labels": {"goal": ["click"]}}, "another labels"),
        ({"inputs": INPUTS | {"nullable": ["a"]}}, "other input columns"),
        ({"train_through": "2017-06-15"}, "trained on days up to 2017-06-15, and validation begins on 2017-06-15"),
        ({"train_through": None}, "trained on days up to 2017-06-16"),
    ],
)
def test_another_champion_is_not(changed, why):
    assert why in (why_not(OURS | changed, OURS, "2017-06-15") or "")


@pytest.mark.parametrize(("shrink", "perturb"), [(1.0, 0.0), (0.6, 0.1)])
def test_weights_are_shrunk_and_perturbed_and_the_scale_of_features_comes_along(tmp_path, shrink, perturb):
    network = load_recipe("tiny").network
    torch.manual_seed(1)
    champion, fresh = Ranker(network), Ranker(network)
    champion.standardise(np.full(F, 3.0, np.float32), np.full(F, 0.5, np.float32))
    save_file({name: value.contiguous() for name, value in champion.state_dict().items()}, tmp_path / PARENT)
    before = {name: value.clone() for name, value in fresh.named_parameters()}
    start_from(fresh, tmp_path, WarmStart(shrink=shrink, perturb=perturb))
    for name, value in fresh.named_parameters():
        expected = shrink * champion.state_dict()[name] + perturb * before[name]
        assert torch.allclose(value, expected, atol=1e-6), name
    assert fresh.mean[0] == 3.0 and fresh.scale[0] == 0.5
    if shrink == 1:
        x, vec = torch.ones(2, F), torch.zeros(2, 384)
        assert torch.equal(fresh.eval().base(x, vec), champion.eval().base(x, vec)), "the same function"
