"""evaluate on the made-up shop with the tiny recipe: the next day against a champion, and a first champion against counting."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.evaluate import evaluate
from tasks.ranker.dataset import Dataset
from tasks.ranker.state import View
from tests.shop import USERS
from tests.tiny_training import NEXT, RECIPE, built


def test_the_next_day_keeps_users_and_days_and_compares_on_days_nobody_saw(
    shop, home, dataset, model, compressed, monkeypatch
):
    champion = home / "champion"
    shutil.copytree(compressed[0], champion / "release")
    shutil.copytree(dataset / "items", champion / "release" / "items")
    made_before = {path.name for path in (home / "cache" / "days").iterdir()}
    out, told = built(shop, home, NEXT, dataset / "view")
    split = Dataset.open(out).split
    assert split.holdout_days == ("2017-06-17", "2017-06-18", "2017-06-19")
    assert told["holdout_first_day"] > json.loads((compressed[0] / "model" / "config.json").read_text())["train_end"]
    assert set(View(out / "view").user_ids) == set(View(dataset / "view").user_ids)
    assert len(View(out / "view")) == min(USERS, RECIPE.data.users)
    new_days = {path.name for path in (home / "cache" / "days").iterdir()} - made_before
    before = Dataset.open(dataset).split
    wanted = {*split.train_days, *split.validation_days, *split.holdout_days}
    assert len(new_days) == len(wanted - {*before.train_days, *before.validation_days})

    target = home / "evaluated"
    target.mkdir()
    groups = {user: {"age": "65+"} for user in View(dataset / "view").user_ids}
    summary = evaluate(out, compressed[0], champion, dataset / "view", target, groups, previous=champion)
    told = json.loads((target / "evaluation.json").read_text())["candidates"]
    assert told["weights"]["candidate"] == told["weights"]["champion"], "the same model is its own equal"
    assert told["weights"]["transformer_zeroed"]["ndcg_at_10[all]"] != told["weights"]["candidate"]["ndcg_at_10[all]"]
    assert told["state"]["first_day"] == NEXT
    assert told["state"]["candidate"]["ndcg_at_10[all]"] > told["state"]["champion"]["ndcg_at_10[all]"], (
        "fresh state pays"
    )
    assert summary["weights.gp_topfreq"] < summary["weights.candidate.ndcg_at_10[all]"]
    assert told["weights"]["previous_champion"]["ndcg_at_10[all]"] == told["weights"]["champion"]["ndcg_at_10[all]"]
    simpler = {
        name: told["weights"][name]["ndcg_at_10[all]"] for name in ("lightgbm", "own_frequency", "global_frequency")
    }
    assert simpler["lightgbm"] > simpler["own_frequency"] > simpler["global_frequency"] > 0, "trees learn habits, too"
    assert told["weights"]["lightgbm_trained_on"]["trees"] > 10
    assert told["weights"]["slices"]["group_age_65"]["slates"] == told["weights"]["slates"]
    slates = pq.read_table(target / "slates.parquet")
    of_weights = slates.filter(np.array(slates["kind"].to_pylist()) == "weights")
    assert of_weights["slate"].to_pylist() == list(range(told["weights"]["slates"]))
    for name, one in told["weights"]["slices"].items():
        assert sum(of_weights[f"slice.{name}"].to_pylist()) == one["slates"], name
    assert told["weights"]["slices"]["head_items"]["slates"] > 0
    assert np.mean(of_weights["rival.lightgbm.ndcg_at_10[all]"].to_numpy()) == pytest.approx(simpler["lightgbm"])
    means = {name.removeprefix("candidate."): slates[name] for name in slates.column_names if "candidate." in name}
    assert {"auc[all]", "accuracy[all]", "logloss[all]", "value_ndcg_at_10[all]", "f1_at_10[new]"} <= set(means)
    report = told["weights"]["report"]
    assert report["candidate"] == report["champion"], "the same model is its own equal"
    assert 0.5 < report["candidate"]["gauc"] < 1 and 0 < report["candidate"]["coverage_at_10"] <= 1
    assert sum(one["count"] for one in report["candidate"]["reliability"]) > 100 * told["weights"]["slates"]


def test_a_first_champion_is_compared_with_counting_and_its_behaviour_is_checked(dataset, compressed, home):
    target = home / "evaluated-first"
    target.mkdir()
    evaluate(dataset, compressed[0], None, None, target)
    told = json.loads((target / "evaluation.json").read_text())["candidates"]["bootstrap"]
    assert told["champion"] == told["gp_topfreq"] and "skipped" in told["previous_champion"]
    assert set(told["report"]["champion"]) == {"coverage_at_10", "gini_at_10"}, "counting gives no probabilities"
    assert [one["name"] for one in told["checks"] if not one["ok"]] == []
    assert len(told["checks"]) == 6
    asked = told["queries"]["ndcg_at_10"]
    assert asked["plain"] >= asked["typo"] and asked["plain"] > asked["stuffed_titles"]
    assert told["counterfactual"] is None, "a log of purchases says nothing about what was shown"
