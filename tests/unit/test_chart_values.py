"""values.schema.json: what is needed is told in a sentence, what is wrong is refused. Needs no Helm."""

from __future__ import annotations

import copy
import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from infra.rendered import CASES, CHART, laid_over, values_of
from tasks.controller.commands import Commands
from tasks.domain.rollout_state import Phase

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def refused(values: dict[str, Any]) -> list[str]:
    """The sentences, as Helm prints them: the `const` of what failed, or the validator's own words."""
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors(laid_over(DEFAULTS, values))
    return [e.validator_value if e.validator == "const" else e.message for e in found if e.validator != "maxLength"]


def changed(path: str, value: Any, case: str = CASES[0]) -> dict[str, Any]:
    values = copy.deepcopy(values_of(case))
    *above, last = path.split(".")
    place = values
    for name in above:
        place = place.setdefault(name, {})
    place[last] = value
    return values


def test_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("case", CASES)
def test_the_examples_are_accepted(case):
    assert refused(values_of(case)) == []


def test_what_must_be_set_is_asked_for_one_sentence_each():
    asked = refused({})
    assert len(asked) == 11
    assert all(re.match(r"[a-zA-Z]+\.[a-zA-Z.]+ (is|names|must)", one) for one in asked), asked


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("image.digests.serving", "latest", "image.digests.serving is the digest that `docker push` printed"),
        ("traffic.owner", "both", "traffic.owner is controller or argo: exactly one may write"),
        ("traffic.owner", ["controller", "argo"], "exactly one may write"),
        ("traffic.argo.steps", [], "climbing weights from 1 to 99"),
        ("traffic.argo.steps", [100], "climbing weights from 1 to 99"),
        ("ranker.champion.release", "abc", "ranker.champion.release is the whole digest of a release"),
        ("ranker.champion.replicas", 0, "a whole number from 1 to 1000"),
        ("ranker.champion.replicas", "2", "a whole number from 1 to 1000"),
        ("ranker.autoscaling.by", "keda", "ranker.autoscaling.prometheusUrl must be set"),
        ("ranker.autoscaling.by", "cron", "ranker.autoscaling.by is hpa, keda or none"),
        ("ranker.autoscaling.p95Seconds", 0, "a number above 0"),
        ("ranker.valkeyUrl", "valkey://cache:6379", "networkPolicy.valkeyCidr must be set with ranker.valkeyUrl"),
        ("ranker.resources.limits.memory", "lots", "a resource is a Kubernetes quantity"),
        ("networkPolicy.databaseCidr", "10.0.0.0", "is a network such as 10.0.32.0/20"),
        ("networkPolicy.databaseCidr", "", "networkPolicy.databaseCidr must be set with mlflow.enabled"),
        ("roles.ranker", "admin", "roles.ranker is the ARN of an IAM role"),
        ("store.bucket", "Bad_Bucket", "store.bucket is the name of the S3 bucket"),
        ("secrets.control", "", "secrets.control names the Secret"),
        ("airflow.enabled", True, "airflow.fernetKeySecretName must name a Secret"),
        ("controller.log", "sqlite", "controller.log is disk or postgresql"),
        ("airflow.enabled", True, "image.digests.worker-gpu must be set with airflow.enabled"),
        ("image.digests.worker-gpu", "latest", "image.digests.worker-gpu is the digest that `docker push` printed"),
        ("gpu.count", 0, "gpu.count is the GPUs of one pod, a whole number from 1 to 16"),
        ("gpu.resources.limits.cpu", "many", "a resource is a Kubernetes quantity"),
        ("training.enabled", True, "airflow.enabled must be true with training.enabled"),
        ("training.enabled", True, "training.claim must be set with training.enabled"),
        ("training.enabled", "yes", "training.enabled is true or false"),
        (
            "training.nodes",
            1,
            "training.nodes is the pods of one training, gpu.count GPUs each, a whole number from 2 to 64",
        ),
        ("training.claim", "My Disk", "training.claim is the name of an existing PersistentVolumeClaim"),
        ("roles.steps", "admin", "roles.steps is the ARN of an IAM role"),
        ("roles.pruner", "admin", "roles.pruner is the ARN of an IAM role"),
        ("pruner.schedule", "daily", "pruner.schedule is five fields of cron, in UTC"),
        ("pruner.resources.limits.memory", "much", "a resource is a Kubernetes quantity"),
        ("mlflow.enabled", "yes", "is not of type 'boolean'"),
        ("ranker.replica", 3, "('replica' was unexpected)"),
        ("image.tag", "v1", "('tag' was unexpected)"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(path, value, says):
    said = refused(changed(path, value))
    assert any(says in one for one in said), said


def test_argo_and_the_controller_never_both_own_the_weights():
    assert any(
        "ranker.champion.release must be set with traffic.owner argo" in one
        for one in refused(changed("traffic.owner", "argo"))
    )
    both = refused(changed("ranker.canary.release", "4" * 64, case="argo"))
    assert any("only one may own the weights" in one for one in both), both


def test_a_log_in_postgresql_needs_a_way_to_it():
    values = changed("controller.log", "postgresql") | {"mlflow": {"enabled": False}}
    assert refused(values) == []
    values["networkPolicy"] = {"databaseCidr": ""}
    assert any("must be set with controller.log postgresql" in one for one in refused(values)), refused(values)


def test_no_sentence_of_the_schema_passes_for_a_value():
    """`const` with maxLength 0 can never hold: else the sentence itself would be accepted."""

    def sentences(part: Any) -> list[dict[str, Any]]:
        if isinstance(part, list):
            return [found for one in part for found in sentences(one)]
        if not isinstance(part, dict):
            return []
        own = [part["else"]] if "else" in part else []
        return own + [found for one in part.values() for found in sentences(one)]

    found = sentences(SCHEMA)
    assert len(found) > 40
    assert all(one["maxLength"] == 0 and len(one["const"]) > 20 for one in found)


def test_the_readme_names_what_must_be_set():
    page = (CHART / "README.md").read_text()
    needed = {one.split()[0] for one in refused({})}
    missing = {name for name in needed if f"`{name}`" not in page}
    assert missing == set()
    named = {
        name for name in re.findall(r"`([a-z]+(?:\.[A-Za-z0-9]+)+)(?::[^`]*)?`", page) if name.split(".")[0] in DEFAULTS
    }
    named -= {"secrets.json"}  # a file
    for name in (name for name in named if not name.startswith("airflow.workers.")):  # Airflow's own
        place: Any = DEFAULTS
        for part in name.split("."):
            assert part in place, f"{name} is in README.md and not in values.yaml"
            place = place[part]
    assert len(named) > 20


def test_argo_is_asked_to_look_for_what_the_controller_says():
    """The words of the AnalysisTemplate are fields of /status and states of a rollout."""
    text = (CHART / "templates" / "rollout.yaml").read_text()
    states = set(re.findall(r'state == "(\w+)"', text)) | set(
        re.findall(r'"(\w+)"', re.search(r"state in \[(.*)\]", text)[1])
    )
    assert states == set(get_args(Phase)) - {"pending", "shadow", "canary"}, "every state in which a rollout has ended"
    assert set(re.findall(r"result\.(\w+)", text)) <= set(re.findall(r'"(\w+)":', inspect.getsource(Commands.status)))
    assert set(re.findall(r"result\.rollout\.(\w+)", text)) <= set(
        re.findall(r'"(\w+)":', inspect.getsource(Commands._summary))
    )


def test_templates_are_there():
    assert len(list(Path(CHART / "templates").glob("*.yaml"))) >= 7
