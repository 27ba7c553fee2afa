"""What training, compress and evaluate really write -> the gate: a model is its own equal; other labels; a night of trials."""

from __future__ import annotations

import json
import shutil

import numpy as np
from safetensors.numpy import save_file

from tasks.domain.champion import Champion
from tasks.domain.gate import Decision, Outcome
from tasks.evaluate import evaluate
from tasks.evaluation.labels import FILE
from tasks.gate import gate
from tasks.gate_evidence import Compared, changes_between
from tasks.gate_trials.nightly import REPORT, error_rates
from tasks.policies import load_policy
from tasks.ranker.dataset import Dataset
from tests.tiny_training import NEXT, PARTITION, RECIPE, built


def test_a_model_against_itself_lacks_nothing_but_its_benchmark(shop, home, dataset, compressed):
    champion, target, out = home / "serving", home / "judged", home / "decided"
    shutil.copytree(compressed[0], champion / "release")
    shutil.copytree(dataset / "items", champion / "release" / "items")
    target.mkdir()
    out.mkdir()
    evaluate(built(shop, home, NEXT, dataset / "view")[0], compressed[0], champion, dataset / "view", target)
    pinned = Champion(release="c" * 64, view="v" * 64, train_end=PARTITION, state_through=PARTITION, weights_digest="w")
    compared = Compared(compressed[0], champion, {"evaluate": "c" * 64})
    told = gate(target, None, pinned, load_policy("tiny").gate, out, seed=1, compared=compared)
    decision = Decision.model_validate_json((out / "decision.json").read_text())
    weights = next(verdict for verdict in decision.verdicts if verdict.kind == "weights")
    assert told["verdict.weights"] == "inconclusive" and weights.section == "weights"
    lacking = {finding.name for finding in weights.findings if finding.outcome is not Outcome.PASS}
    assert lacking == {"p50", "p95", "p99", "cpu", "size", "memory"}, (
        "nothing was benchmarked, and nothing else is missing"
    )
    quality = [f for f in weights.findings if (f.name, f.slice) == ("ndcg_at_10", "all")]
    assert [(f.difference, f.lower, f.upper) for f in quality] == [(0.0, 0.0, 0.0)]
    assert {f.slice for f in weights.findings if f.name == "mrr"} >= {"all", "new", "repeat"}
    beside = {f.name for f in weights.findings if f.name.startswith("against_")}
    assert beside >= {"against_lightgbm", "against_own_frequency", "against_global_frequency", "against_gp_topfreq"}
    compression = next(f for f in weights.findings if f.name == "compression")
    front = json.loads((compressed[0] / "front.json").read_text())
    assert compression.outcome is Outcome.PASS and compression.sample == front["slates"]


def test_a_model_of_more_labels_is_compared_on_those_that_the_champion_knows(shop, home, dataset, compressed):
    champion, target = home / "of-purchases", home / "judged-on-purchases"
    shutil.copytree(compressed[0], champion / "release")
    shutil.copytree(dataset / "items", champion / "release" / "items")
    candidate, data = home / "of-clicks-too", home / "of-both"
    shutil.copytree(compressed[0], candidate)
    shutil.copytree(home / f"dataset-{NEXT}", data)
    config = json.loads((candidate / "model" / "config.json").read_text())
    config["labels"]["goal"] = ["click", "purchase"]
    (candidate / "model" / "config.json").write_text(json.dumps(config))
    log = Dataset.open(data).whole.log
    later = log.day >= log.day.max() - 2
    arrays = {name: getattr(log, name)[later].astype(np.int32) for name in ("day", "user", "item")}
    kinds = np.where(arrays["item"] % 3 > 0, 2, 1).astype(np.uint8)  # a third of what happened were clicks
    save_file(arrays | {"kinds": kinds}, data / FILE, {"goal": json.dumps(["click", "purchase"])})
    target.mkdir()
    evaluate(data, candidate, champion, dataset / "view", target)
    told = json.loads((target / "evaluation.json").read_text())["candidates"]["weights"]
    before = json.loads((home / "judged" / "evaluation.json").read_text())["candidates"]["weights"]
    assert told["labels"] == ["purchase"] and told["holdout_digest"] != before["holdout_digest"]
    assert 0 < told["slates"] <= before["slates"] and told["candidate"] != before["candidate"]
    (change,) = changes_between(candidate, champion, told["labels"])
    assert (change.what, change.counted, change.shared) == ("labels", ("purchase",), ("purchase",))


def test_a_night_trains_scores_tries_and_a_killed_one_goes_on(home, dataset, model):
    work, out = home / "night", home / "night-out"
    out.mkdir()
    policy = load_policy("tiny").gate
    few = {"seed": 1, "threads": 1, "seeds": 1, "itself": 4, "each": 1}
    told = error_rates(dataset, model[0], RECIPE, policy, {}, work, out, **few)
    table = json.loads((out / REPORT).read_text())["table"]
    planted = {row["planted"].split(",")[0] for row in table}
    assert planted >= {"sign_flipped_head", "constant_scores", "nothing: another seed", "nan_metric"}
    known = planted | {
        name.split(" ")[0] for name in json.loads((out / REPORT).read_text())["weaker_than_twice_the_margin"]
    }
    assert {"leaked_label", "label_noise", "poisoned_partition", "half_the_catalogue_for_heavy_users"} <= known
    assert len(known) >= 21 + 3, "each kind is tried, or named as too weak"
    assert told["trials_itself"] == 4 and told["kinds"] >= 5 and "of 4 sound candidates" in told["sentence"]
    assert "sign_flipped_head" in (out / "error_rates.html").read_text()

    made = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    again = error_rates(dataset, model[0], RECIPE, policy, {}, work, out, **few)
    assert again == told
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == made, (
        "nothing is made twice"
    )
