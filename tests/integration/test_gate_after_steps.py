"""compress and evaluate -> gate, on what these steps really write: the same model is its own equal, and compared as one."""

from __future__ import annotations

import json
import shutil

from tasks.domain.champion import Champion
from tasks.domain.gate import Decision, Outcome
from tasks.evaluate import evaluate
from tasks.gate import gate
from tasks.gate_evidence import Compared
from tasks.policies import load_policy
from tests.integration.test_training import (  # noqa: F401  the fixtures
    NEXT,
    PARTITION,
    built,
    compressed,
    dataset,
    home,
    model,
    shop,
)


def test_a_model_against_itself_lacks_nothing_but_its_benchmark(shop, home, dataset, compressed):  # noqa: F811
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
    assert lacking == {"p50", "p95", "cpu", "size", "memory"}, "nothing was benchmarked, and nothing else is missing"
    quality = [f for f in weights.findings if (f.name, f.slice) == ("ndcg_at_10", "all")]
    assert [(f.difference, f.lower, f.upper) for f in quality] == [(0.0, 0.0, 0.0)]
    assert {f.slice for f in weights.findings if f.name == "mrr"} >= {"all", "new", "repeat"}
    compression = next(f for f in weights.findings if f.name == "compression")
    front = json.loads((compressed[0] / "front.json").read_text())
    assert compression.outcome is Outcome.PASS and compression.sample == front["slates"]
