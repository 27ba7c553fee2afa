"""SNIPS by hand, on a made-up log whose truth is known, and on the Open Bandit sample."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.domain.counterfactual import snips

HOW = (
    "the Open Bandit sample is not here: pip download --no-deps obp==0.4.1 -d DIR, then "
    "OBP_WHEEL=DIR/obp-0.4.1-py3-none-any.whl"
)
WHEEL = Path(os.environ.get("OBP_WHEEL", "/nowhere"))


def test_by_hand():
    # weights 2, 0, 1: (2 * 1 + 1 * 0) / 3; effective sample 9 / 5
    told = snips(np.array([1.0, 1, 0]), np.array([1, 0, 0.5]), np.array([0.5, 0.5, 0.5]), least_effective=1)
    assert told.value == pytest.approx(2 / 3)
    assert told.effective_sample == pytest.approx(9 / 5)
    assert told.standard_error == pytest.approx(np.sqrt(4 * (1 / 3) ** 2 + (2 / 3) ** 2) / 3)


def test_a_policy_that_the_log_hardly_knows_is_inconclusive():
    told = snips(np.ones(1_000), np.r_[np.ones(5), np.zeros(995)], np.full(1_000, 0.01))
    assert told.value is None and told.effective_sample == pytest.approx(5)
    assert told.sentence == "inconclusive: 1000 logged events are worth 5 for this policy, 100 are needed"
    assert snips(np.ones(3), np.zeros(3), np.ones(3)).value is None


@pytest.mark.parametrize(
    ("reward", "target", "propensity", "said"),
    [
        ([1.0], [1.0], [0.0], "propensity"),
        ([1.0], [1.0], [float("nan")], "propensity"),
        ([1.0], [1.5], [0.5], "target chance"),
        ([float("nan")], [1.0], [0.5], "reward"),
        ([1.0, 0.0], [1.0], [0.5], "lengths differ: 2 rewards"),
    ],
)
def test_chances_that_are_none_are_refused(reward, target, propensity, said):
    with pytest.raises(ValueError, match=said):
        snips(np.array(reward), np.array(target), np.array(propensity))


def test_it_finds_the_truth_that_the_mean_of_the_log_misses():
    rng = np.random.default_rng(1)
    pays, logged = np.array([0.02, 0.1, 0.3]), np.array([0.7, 0.2, 0.1])
    wanted = np.array([0.1, 0.2, 0.7])
    action = rng.choice(3, 40_000, p=logged)
    reward = (rng.random(40_000) < pays[action]).astype(float)
    told = snips(reward, wanted[action], logged[action])
    assert told.value == pytest.approx(pays @ wanted, abs=3 * told.standard_error)
    assert abs(reward.mean() - pays @ wanted) > 20 * told.standard_error


def campaign(policy):
    """Rounds of ZOZOTOWN's fashion recommendation of November 2019 (Saito et al., NeurIPS 2021), CC BY 4.0."""
    with zipfile.ZipFile(WHEEL) as wheel:
        body = wheel.read(f"obp/dataset/obd/{policy}/all/all.csv")
    return pl.read_csv(body, columns=["item_id", "position", "click", "propensity_score"])


@pytest.mark.skipif(not WHEEL.exists(), reason=HOW)
def test_from_the_log_of_thompson_sampling_the_clicks_of_random_choice():
    logged, random = campaign("bts"), campaign("random")
    items = logged["item_id"].max() + 1
    told = snips(
        logged["click"].to_numpy().astype(float),
        np.full(len(logged), 1 / items),
        logged["propensity_score"].to_numpy(),
    )
    truth, rounds = random["click"].mean(), len(random)
    noise = np.hypot(told.standard_error, np.sqrt(truth * (1 - truth) / rounds))
    assert (len(logged), rounds, items) == (10_000, 10_000, 80)
    assert told.value == pytest.approx(truth, abs=3 * noise)
    assert told.effective_sample < 0.5 * len(logged), "Thompson sampling seldom shows what random choice would"


@pytest.mark.skipif(not WHEEL.exists(), reason=HOW)
def test_one_item_for_everyone_cannot_be_judged_from_random_choice_of_eighty():
    logged = campaign("random").filter(pl.col("position") == 1)
    told = snips(
        logged["click"].to_numpy().astype(float),
        (logged["item_id"] == 0).cast(pl.Float64).to_numpy(),
        logged["propensity_score"].to_numpy(),
    )
    assert told.value is None and told.sentence.startswith("inconclusive")
