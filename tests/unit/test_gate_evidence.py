"""From what the steps wrote to evidence: slices, directions, pairs; and everything that is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tasks.domain.champion import Champion
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Evidence, MetricPolicy, Outcome, decide
from tasks.gate import gate
from tasks.gate_evidence import Compared, changes_between, equivalence, gather
from tasks.policies import FOLDER, load_policy
from tests.unit.evidence import POLICY

CHAMPION = Champion(
    release="c" * 64, view="v" * 64, train_end="2017-06-16", state_through="2017-06-30", weights_digest="w" * 64
)
WEIGHTS = POLICY.weights.model_copy(
    update={"others": {"logloss": MetricPolicy(margin=0.05, must_prove=False)}, "slices": ("new", "heavy_users")}
)
GATE = POLICY.model_copy(update={"weights": WEIGHTS, "latency_ratio": {}})


def some_slates(n=600, loss=0.0, **columns):
    """One slate a user and day; two of three have a new purchase."""
    rng = np.random.default_rng(0)
    champion = rng.random(n)
    candidate = np.clip(champion - loss + rng.normal(0, 0.02, n), 0, 1)
    new = np.arange(n) % 3 > 0
    made = {
        "kind": ["weights"] * n,
        "day": [f"2017-06-{25 + i % 5}" for i in range(n)],
        "user": pa.array(np.arange(n) // 5, pa.int64()),
        "heavy": (np.arange(n) // 5) % 2 == 0,
        "champion.ndcg_at_10[all]": champion,
        "candidate.ndcg_at_10[all]": candidate,
        "champion.ndcg_at_10[new]": pa.array(champion, mask=~new),
        "candidate.ndcg_at_10[new]": pa.array(candidate, mask=~new),
        "champion.logloss[all]": 0.3 + 0.1 * champion,
        "candidate.logloss[all]": 0.3 + 0.1 * champion + 0.01,
    }
    return pa.table(made | columns)


def facts(slates):
    return {
        "holdout_digest": "a" * 64,
        "champion_holdout_digest": "a" * 64,
        "first_day": "2017-06-25",
        "last_day": "2017-06-29",
        "slates": len(slates),
        "checks": [],
    }


def gathered(slates, policy=GATE, **told):
    return gather("weights", facts(slates), slates, {}, CHAMPION, policy, 1, **told)


def test_every_metric_of_the_policy_is_compared_on_every_slice_that_has_it():
    found = gathered(some_slates())
    named = {(row.name, row.slice): row for row in found.comparisons}
    slices = ("all", "heavy_users", "light_users")
    assert set(named) == {(m, s) for m in ("ndcg_at_10", "logloss") for s in slices} | {("ndcg_at_10", "new")}
    assert named["ndcg_at_10", "new"].slates == found.slices["new"] == 400
    assert named["ndcg_at_10", "heavy_users"].slates + named["ndcg_at_10", "light_users"].slates == found.slates == 600
    assert named["ndcg_at_10", "all"].users == 120


def test_a_metric_whose_lower_values_are_better_is_turned_round():
    row = next(r for r in gathered(some_slates()).comparisons if (r.name, r.slice) == ("logloss", "all"))
    assert row.candidate > row.champion and row.difference == pytest.approx(-0.01) and row.upper < 0


def test_slices_that_the_evaluation_flags_are_judged_without_being_named():
    cold = np.arange(600) % 4 == 0
    slates = some_slates(**{"slice.cold_items": cold, "slice.heavy_users": np.arange(600) % 2 == 0})
    found = gathered(slates)
    assert found.slices["cold_items"] == 150 and found.slices["heavy_users"] == 300 and "light_users" in found.slices
    harmed = slates["candidate.ndcg_at_10[all]"].to_numpy() - np.where(cold, 0.2, -0.07)
    harmed = slates.set_column(
        slates.schema.get_field_index("candidate.ndcg_at_10[all]"), "candidate.ndcg_at_10[all]", [harmed]
    )
    verdict = decide(gathered(harmed), GATE)
    assert verdict.outcome is Outcome.FAIL and "[cold_items]" in verdict.reason and "[all]" not in verdict.reason


def test_the_same_slates_in_another_order_are_the_same_evidence():
    slates = some_slates()
    turned = slates.take(np.random.default_rng(2).permutation(len(slates)))
    assert gathered(slates).model_dump_json() == gathered(turned).model_dump_json()


def change(slates, name, values):
    return slates.set_column(slates.schema.get_field_index(name), name, [values])


def with_value(value):
    slates, name = some_slates(), "candidate.ndcg_at_10[all]"
    values = slates[name].to_numpy().copy()
    values[7] = value
    return change(slates, name, values)


def half_a_pair():
    slates, name = some_slates(), "champion.ndcg_at_10[new]"
    return change(slates, name, pa.array(np.zeros(600), mask=np.arange(600) % 2 == 0))


@pytest.mark.parametrize(
    ("slates", "message"),
    [
        pytest.param(
            lambda: with_value(np.nan), r"candidate.ndcg_at_10\[all\] is NaN or infinite on 1 of 600", id="NaN"
        ),
        pytest.param(lambda: with_value(np.inf), r"is NaN or infinite on 1 of 600", id="infinity"),
        pytest.param(half_a_pair, r"ndcg_at_10\[new\] is there for the champion or for the candidate only", id="half"),
        pytest.param(
            lambda: pa.concat_tables([some_slates(), some_slates().slice(0, 3)]),
            "3 of 603 weights slates are duplicates",
            id="duplicates",
        ),
        pytest.param(lambda: some_slates(0), "the holdout of the weights candidate is empty", id="empty"),
        pytest.param(lambda: some_slates().drop_columns(["heavy"]), "no the slice heavy_users", id="missing slice"),
        pytest.param(
            lambda: some_slates().drop_columns(["champion.logloss[all]", "candidate.logloss[all]"]),
            "has no logloss on `all`",
            id="missing metric",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(slates, message):
    with pytest.raises(InputRejected, match=message):
        decide(gathered(slates()), GATE)


def test_the_same_user_and_day_may_have_two_slates_that_have_numbers():
    slates = pa.concat_tables([some_slates(), some_slates()]).append_column("slate", [np.arange(1200)])
    assert gathered(slates).slates == 1200


def test_slates_that_are_not_those_of_the_evaluation_are_refused():
    slates = some_slates()
    with pytest.raises(InputRejected, match="speaks of 600 weights slates, slates.parquet holds 599"):
        gather("weights", facts(slates), slates.slice(1), {}, CHAMPION, GATE, 1)


def a_model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"network": {"width": 32}, "features": ["a"]} | config))
    return folder


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ({}, []),
        ({"partition": "2017-07-02"}, []),
        ({"network": {"width": 64}}, ["architecture"]),
        ({"features": ["a", "b"]}, ["architecture"]),
        ({"labels": {"goal": ["click"]}}, ["labels"]),
        ({"labels": {"goal": ["click"]}, "network": {}}, ["architecture", "labels"]),
    ],
)
def test_another_network_and_other_labels_are_told_from_a_new_training(tmp_path, new, what):
    labels = {"labels": {"goal": ["purchase"]}}
    a_model(tmp_path / "champion" / "release" / "model", **labels)
    a_model(tmp_path / "candidate" / "model", **(labels | new))
    found = changes_between(tmp_path / "candidate", tmp_path / "champion")
    assert [one.what for one in found] == what
    (tmp_path / "champion" / "release" / "model" / "config.json").write_text(
        json.dumps({"network": {}, "features": ["a"]})
    )
    assert "labels" not in {one.what for one in changes_between(tmp_path / "candidate", tmp_path / "champion")}
    a_model(tmp_path / "again" / "release" / "model", **labels)
    evidence = gathered(some_slates(), compared=Compared(tmp_path / "candidate", tmp_path / "again"))
    assert evidence.changes == found


def test_the_compressed_model_is_held_against_its_parent(tmp_path):
    variants = [
        {"name": "fp32", "quality": {"m": 0.4}, "parent": {"m": 0.4}, "bound": 0.0, "upper": 0.0},
        {"name": "int8", "quality": {"m": 0.39}, "parent": {"m": 0.4}, "bound": -0.012, "upper": -0.008},
    ]
    front = {"chosen": "int8", "metric": "m", "margin": 0.003, "slates": 300, "variants": variants}
    (tmp_path / "front.json").write_text(json.dumps(front))
    found = equivalence(tmp_path)
    assert found is not None and (found.variant, found.lower, found.upper) == ("int8", -0.012, -0.008)
    evidence = gathered(some_slates()).model_copy(update={"compression": found})
    assert decide(evidence, GATE).outcome is Outcome.FAIL


@pytest.mark.parametrize("asked", ["both", "weights"])
def test_weights_of_which_no_variant_can_serve_are_inconclusive_and_the_run_goes_on(tmp_path, asked):
    for name in ("evaluate", "compress", "out"):
        (tmp_path / name).mkdir()
    slates = change(some_slates(), "kind", ["state"] * 600)
    pq.write_table(slates, tmp_path / "evaluate" / "slates.parquet")
    (tmp_path / "evaluate" / "evaluation.json").write_text(json.dumps({"candidates": {"state": facts(slates)}}))
    reason = "no variant of the model can serve (int8: an operator is not supported)"
    front = {"chosen": None, "reason": reason, "metric": "ndcg_at_10[all]", "variants": [], "dropped": {}}
    (tmp_path / "compress" / "front.json").write_text(json.dumps(front))
    compared = Compared(candidate=tmp_path / "compress")
    told = gate(tmp_path / "evaluate", None, CHAMPION, GATE, tmp_path / "out", 1, asked, compared)
    assert told["verdict.weights"] == "inconclusive" and told["shipped"] != "weights" and reason in told["reason"]
    kept = json.loads((tmp_path / "out" / "evidence.json").read_bytes())
    again = decide(Evidence.model_validate(kept[1]), GATE)
    assert (again.kind, again.outcome, len(again.findings)) == ("weights", Outcome.INCONCLUSIVE, 1)


def test_the_step_writes_what_is_needed_to_decide_again(tmp_path):
    slates = some_slates()
    (tmp_path / "evaluation.json").write_text(json.dumps({"candidates": {"weights": facts(slates)}}))
    pq.write_table(slates, tmp_path / "slates.parquet")
    outs = []
    for name in ("one", "two"):
        out = tmp_path / name
        out.mkdir()
        told = gate(tmp_path, None, CHAMPION, GATE, out, seed=3)
        outs.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert outs[0] == outs[1] and set(outs[0]) == {"evidence.json", "policy.json", "decision.json", "decision.md"}
    assert told["verdict.weights"] == "pass" and told["shipped"] == "weights"


@pytest.mark.parametrize(
    ("section", "changed", "message"),
    [
        ("weights", {"margin": -0.008}, "gate.weights.margin: Input should be greater than 0"),
        ("weights", {"margin": 0}, "gate.weights.margin: Input should be greater than 0"),
        ("weights", {"metric": "ndgc_at_10"}, "unknown metric ndgc_at_10; known: .*ndcg_at_10"),
        ("weights", {"others": {"mmr": {"margin": 0.1}}}, "unknown metric mmr"),
        ("weights", {"others": {"mrr": {"margin": -0.1}}}, "others.mrr.margin: Input should be greater than 0"),
        ("weights", {"others": {"ndcg_at_10": {"margin": 0.1}}}, "name it once"),
        ("labels", {"needs_person": False}, "labels.needs_person must be true"),
        ("architecture", None, "gate.architecture: Field required"),
        ("latency_ratio", {"p50": 0.9}, "p50 must be 1 or more"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_by_name(tmp_path, section, changed, message):
    policy = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    if changed is None:
        del policy["gate"][section]
    else:
        policy["gate"][section] |= changed
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(policy))
    with pytest.raises(InputRejected, match=message):
        load_policy(str(tmp_path / "own.yaml"))
