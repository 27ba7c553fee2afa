"""The chart as Helm renders it: what every manifest must hold, and that the validators see what they should.

Needs the validators' own environment: `make check-infra` makes it. The values' schema is tested without (test_chart_values.py).
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from infra.rendered import CASES, pod_template

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-infra" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=".venv-infra is absent; `make check-infra` makes it")
DROPPED = {"drop": ["ALL"]}


def said_by(*line: str) -> str:
    done = subprocess.run([str(PYTHON), *line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


@cache
def manifests(case: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said_by("-m", "infra.rendered", case))
    return found


def kinds(case: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in manifests(case) if one["kind"] == kind]


@pytest.mark.parametrize("case", CASES)
def test_every_container_is_confined_and_bounded(case):
    pods = [(one["metadata"]["name"], found["spec"]) for one in manifests(case) if (found := pod_template(one))]
    assert len(pods) >= 3
    for name, pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001, name
        assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"] != "default", name
        for one in [*pod["containers"], *pod.get("initContainers", [])]:
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], (name, one["name"])
            assert context["capabilities"] == DROPPED and "@sha256:" in one["image"], (name, one["name"])
            assert {"requests", "limits"} <= set(one["resources"]), (name, one["name"])
        for one in pod["containers"] if pod.get("restartPolicy") != "Never" else ():  # a Job's end is its answer
            assert {"livenessProbe", "readinessProbe"} <= set(one), (name, one["name"])


@pytest.mark.parametrize("case", CASES)
def test_nothing_may_talk_but_what_is_allowed(case):
    policies = kinds(case, "NetworkPolicy")
    (deny,) = [one for one in policies if one["spec"]["podSelector"] == {}]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"] and not {"ingress", "egress"} & set(deny["spec"])
    labels = [one["spec"]["podSelector"]["matchLabels"] for one in policies if one is not deny]
    chosen = {one.get("app.kubernetes.io/component") or f"tier {one['tier']}" for one in labels}
    airflow = {"airflow": {"tier airflow"}, "training": {"tier airflow", "trainer"}}
    assert chosen == {"controller", "ranker", "mlflow", "pruner"} | airflow.get(case, set())
    for one in policies:
        for rule in one["spec"].get("ingress", []):
            assert rule["from"] and rule["ports"], "an empty rule would let everybody in"


def test_the_weights_have_one_owner():
    for case, owner in (("controller", "controller"), ("pinned", "controller"), ("argo", "argo")):
        (route,) = kinds(case, "HTTPRoute")
        assert route["metadata"]["annotations"]["freshrank.dev/weights-owner"] == owner
        assert bool(kinds(case, "Rollout")) == (owner == "argo")
        assert any("objects.yaml" in one["data"] for one in kinds(case, "ConfigMap")) == (owner == "controller")
    (route,) = kinds("pinned", "HTTPRoute")
    assert [one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]] == [100, 0]


def test_only_the_container_that_writes_weights_gets_a_token():
    def with_token(case: str) -> list[str]:
        return [
            container["name"]
            for one in manifests(case)
            if (pods := pod_template(one))
            for container in pods["spec"]["containers"]
            if any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
        ]

    assert with_token("controller") == ["controller"] and with_token("argo") == []
    assert kinds("argo", "Role") == []
    (role,) = kinds("controller", "Role")
    verbs = {resource: rule["verbs"] for rule in role["rules"] for resource in rule["resources"]}
    assert verbs == {
        "httproutes": ["get", "patch"],
        "pods": ["list"],
        "deployments": ["list", "create", "delete"],
        "services": ["create", "delete"],
        "horizontalpodautoscalers": ["create", "delete"],
    }


def test_the_rollout_log_is_on_a_disk_or_in_postgresql_by_a_secret_file():
    def controller(case: str) -> dict[str, Any]:
        (one,) = [one for one in kinds(case, "Deployment") if one["metadata"]["name"] == "freshrank-controller"]
        return pod_template(one)["spec"]

    def log(case: str) -> dict[str, Any]:
        return next(volume for volume in controller(case)["volumes"] if volume["name"] == "log")

    def reaches(case: str) -> list[int]:
        (one,) = [one for one in kinds(case, "NetworkPolicy") if one["metadata"]["name"] == "freshrank-controller"]
        return [port["port"] for rule in one["spec"]["egress"] for port in rule["ports"]]

    assert log("controller")["persistentVolumeClaim"] == {"claimName": "freshrank-controller"}
    assert kinds("controller", "PersistentVolumeClaim") and 5432 not in reaches("controller")
    assert kinds("argo", "PersistentVolumeClaim") == [] and 5432 in reaches("argo")
    assert log("argo")["secret"]["items"] == [{"key": "rollout-log-url", "path": "rollout-log-url"}]
    (container,) = [one for one in controller("argo")["containers"] if one["name"] == "controller"]
    assert {"name": "log", "mountPath": "/etc/freshrank/log", "readOnly": True} in container["volumeMounts"]
    assert not any(one["name"] == "FRESHRANK_ROLLOUT_LOG" for one in container["env"]), "it holds a password"
    told = subprocess.run(
        ["/bin/sh", "-c", container["args"][0].replace("/etc/freshrank/log/", "").replace("exec python", "exec echo")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 1, "a missing key must not fall back to a log on the pod's own disk"


def test_the_store_is_pruned_by_who_may_and_a_volume_of_trainings_too():
    def pruner(case: str) -> dict[str, Any]:
        (one,) = kinds(case, "CronJob")
        assert (one["spec"]["concurrencyPolicy"], one["spec"]["schedule"]) == ("Forbid", "0 3 * * *")
        return pod_template(one)["spec"]

    plain, training = pruner("pinned"), pruner("training")
    assert plain["containers"][0]["command"] == ["freshrank", "prune", "--only", "store"]
    assert training["containers"][0]["command"] == ["freshrank", "prune"]
    assert [set(one) - {"name"} for one in plain["volumes"]] == [{"emptyDir"}] * 2, "it needs no secret"
    assert training["volumes"][2]["persistentVolumeClaim"] == {"claimName": "freshrank-training"}
    assert {"name": "shared", "mountPath": "/var/lib/freshrank/data"} in training["containers"][0]["volumeMounts"]
    (account,) = [
        one["metadata"] for one in kinds("pinned", "ServiceAccount") if one["metadata"]["name"] == "freshrank-pruner"
    ]
    assert plain["serviceAccountName"] == account["name"] and "role/freshrank-pruner" in str(account["annotations"])
    trusted = (ROOT / "infra/terraform/aws/roles.tf").read_text()
    assert 'pruner     = ["${var.name}-pruner"]' in trusted, "else the role would not let the CronJob's pods in"


def test_argo_asks_the_judge_before_every_next_weight():
    (rollout,), (template,) = kinds("argo", "Rollout"), kinds("argo", "AnalysisTemplate")
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    assert [list(step) for step in steps] == [["setWeight"], ["analysis"]] * 3
    for weight, asks in zip(steps[::2], steps[1::2], strict=True):
        given = {one["name"]: one["value"] for one in asks["analysis"]["args"]}
        assert given == {"release": "3" * 64, "weight": str(weight["setWeight"])}
    (metric,) = template["spec"]["metrics"]
    assert metric["provider"]["web"]["url"] == "http://freshrank-controller.ranking.svc:28001/status"
    assert metric["failureLimit"] == 0


def test_the_pattern_of_a_release_is_what_the_chart_makes_for_one():
    (pattern,) = [one for one in kinds("pinned", "Deployment") if "0" * 12 in one["metadata"]["name"]]
    (pinned,) = [one for one in kinds("pinned", "Deployment") if "2" * 12 in one["metadata"]["name"]]
    filled = json.loads(json.dumps(pattern).replace("0" * 64, "2" * 64).replace("0" * 12, "2" * 12))
    assert filled == pinned


def test_airflow_is_told_where_gpu_steps_run(tmp_path, monkeypatch):
    """The chart's file, read as the DAGs read it and laid over a pod of Airflow's, as the scheduler does."""
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    from dags._ranker import GPU, gpu

    maps = {one["metadata"]["name"]: one["data"] for one in kinds("airflow", "ConfigMap")}
    settings = {name: value for name, value in maps["freshrank-settings"].items() if name in ("FRESHRANK_EXECUTOR",)}
    (tmp_path / "pod.yaml").write_text(maps["freshrank-gpu-pod"]["pod.yaml"])
    for name, value in {**settings, "FRESHRANK_GPU_POD": str(tmp_path / "pod.yaml")}.items():
        monkeypatch.setenv(name, value)
    override = gpu()["executor_config"]["pod_override"]
    plain = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "base", "image": "cpu", "args": ["a task"]}]}}
    pod = PodGenerator.reconcile_pods(PodGenerator.deserialize_model_dict(plain), override)
    (base,) = pod.spec.containers
    assert base.args == ["a task"] and base.image.startswith(
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/freshrank-worker-gpu@"
    )
    assert base.resources.limits[GPU] == "1" and pod.spec.node_selector == {"freshrank.dev/queue": "gpu"}
    assert "freshrank-gpu-pod" not in {one["metadata"]["name"] for one in kinds("pinned", "ConfigMap")}


def test_a_training_of_several_pods_is_one_job_that_only_finetune_may_start(tmp_path, monkeypatch):
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    from dags._ranker import GPU, training
    from tasks.finetune_in_cluster import job_of
    from tasks.finetune_together import OWN_STORE, RESTARTS

    assert kinds("airflow", "Job") == [] and kinds("pinned", "Job") == [], "off unless it is asked for"
    assert not any("training.yaml" in one["data"] for one in kinds("airflow", "ConfigMap"))
    maps = {one["metadata"]["name"]: one["data"] for one in kinds("training", "ConfigMap")}
    (tmp_path / "pod.yaml").write_text(maps["freshrank-gpu-pod"]["pod.yaml"])
    (tmp_path / "training.yaml").write_text(maps["freshrank-gpu-pod"]["training.yaml"])
    for name in ("GPU_POD", "TRAIN_JOB"):
        file = tmp_path / Path(maps["freshrank-settings"][f"FRESHRANK_{name}"]).name
        monkeypatch.setenv(f"FRESHRANK_{name}", str(file))
    monkeypatch.setenv("FRESHRANK_EXECUTOR", "kubernetes")

    job = job_of(tmp_path / "training.yaml", "d" * 12, Path("/var/lib/freshrank/data/work/x/work/request.json"))
    spec, name = job["spec"], f"freshrank-training-{'d' * 12}"
    pod = spec["template"]["spec"]
    (trainer,) = pod["containers"]
    assert job["metadata"]["name"] == name and len(f"{name}-63") <= 63, "names of pods are host names"
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert trainer["resources"]["limits"][GPU] == "2" and {"--nnodes=3", "--nproc-per-node=2"} <= set(trainer["args"])
    assert f"--max-restarts={RESTARTS}" in trainer["args"]
    assert trainer["args"][-3:] == [
        "tasks.finetune_together",
        "/var/lib/freshrank/data/work/x/work/request.json",
        "$(JOB_UID)",
    ]
    given = {one["name"]: one.get("value") for one in trainer["env"]}
    assert OWN_STORE.items() <= given.items() and not any("SECRET" in one or "FRESHRANK" in one for one in given)

    (service,) = [one for one in kinds("training", "Service") if one["spec"].get("clusterIP") == "None"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["publishNotReadyAddresses"] and service["spec"]["selector"].items() <= labels.items()
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--rdzv-endpoint={name}-0.{service['metadata']['name']}:29500" in trainer["args"]
    (policy,) = [
        one["spec"] for one in kinds("training", "NetworkPolicy") if one["metadata"]["name"] == "freshrank-trainer"
    ]
    own = {"podSelector": {"matchLabels": service["spec"]["selector"]}}
    assert [rule["from"] for rule in policy["ingress"]] == [[own]]
    assert [rule["to"] for rule in policy["egress"] if rule["ports"][0]["port"] != 53] == [[own]]

    plain = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "base", "image": "cpu", "args": ["a task"]}]}}
    override = training()["executor_config"]["pod_override"]
    waits = PodGenerator.reconcile_pods(PodGenerator.deserialize_model_dict(plain), override)
    (base,) = waits.spec.containers
    assert base.image == "cpu" and base.args == ["a task"] and GPU not in base.resources.limits
    mounts = {one.mount_path for one in base.volume_mounts}
    assert mounts >= {"/var/lib/freshrank/data", "/var/run/secrets/kubernetes.io/serviceaccount"}
    assert {one["mountPath"] for one in trainer["volumeMounts"]} & mounts == {"/var/lib/freshrank/data"}
    accounts = {
        one["metadata"]["name"]: one["metadata"].get("annotations") for one in kinds("training", "ServiceAccount")
    }
    assert waits.spec.service_account_name == "freshrank-finetune" and "freshrank-steps" in str(
        accounts["freshrank-finetune"]
    )
    trusted = re.search(r"^ +steps += \[(.*?)\]", (ROOT / "infra/terraform/aws/roles.tf").read_text(), re.MULTILINE)
    assert trusted and '"${var.name}-finetune"' in trusted[1], "else the role would not let finetune's pod in"
    assert pod["serviceAccountName"] == "freshrank-trainer" and accounts["freshrank-trainer"] is None
    (role,) = [one for one in kinds("training", "Role") if one["metadata"]["name"] == "freshrank-finetune"]
    assert role["rules"] == [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "create", "delete"]}]
    (bound,) = [one for one in kinds("training", "RoleBinding") if one["metadata"]["name"] == "freshrank-finetune"]
    assert [one["name"] for one in bound["subjects"]] == ["freshrank-finetune"]


def test_rankers_are_told_only_settings_that_exist():
    from tasks.settings import Settings

    known = {f"FRESHRANK_{name}".upper() for name in Settings.model_fields}
    used = {
        variable["name"]
        for case in CASES
        for one in manifests(case)
        if (pods := pod_template(one))
        for container in [*pods["spec"]["containers"], *pods["spec"].get("initContainers", [])]
        for variable in container.get("env", [])
        if variable["name"].startswith("FRESHRANK_")
    }
    assert len(used) >= 8 and used <= known
    (settings,) = [
        one["data"] for one in kinds("pinned", "ConfigMap") if one["metadata"]["name"] == "freshrank-settings"
    ]
    told = {name for name in settings if name.startswith("FRESHRANK_")}
    assert told <= used and settings["FRESHRANK_STORE_BUCKET"] == "example-freshrank"


def test_a_ranker_is_started_with_options_that_it_has():
    from bentos.ranker.__main__ import _options

    (pinned,) = [one for one in kinds("pinned", "Deployment") if "2" * 12 in one["metadata"]["name"]]
    (ranker,) = pod_template(pinned)["spec"]["containers"]
    options, args = _options(ranker["args"])
    assert (args.host, args.port, options.expected_digest) == ("0.0.0.0", 8080, "2" * 64)


def test_a_ranker_starts_with_the_rules_of_now_and_an_old_release_without(tmp_path):
    """The pod's own command line, with `echo` for python, where a release's code knows rules and where it does not."""
    for case, kind in (("pinned", "Deployment"), ("argo", "Rollout")):
        (one, *_) = [one for one in kinds(case, kind) if "ranker" in one["metadata"]["name"]]
        pod = pod_template(one)["spec"]
        rules, (ranker,) = pod["initContainers"][-1], pod["containers"]
        folder = rules["command"][-1]
        assert rules["command"][:3] == ["python", "-m", "tasks.controller.rules"]
        assert rules["restartPolicy"] == "Always" and rules["startupProbe"]["exec"]["command"] == ["test", "-d", folder]
        assert [mount["name"] for mount in rules["volumeMounts"]] == ["home", "tmp"], "no secret; the pod's own disk"
        line = [*("echo" if part == "python" else part for part in ranker["command"]), *ranker["args"]]
        for known in (False, True):
            src = tmp_path / case / str(known)
            (src / "tasks" / "serving").mkdir(parents=True)
            if known:
                (src / "tasks" / "serving" / "merchandise.py").touch()
            started = subprocess.run(line, cwd=src, capture_output=True, text=True, check=True).stdout.split()
            assert started[:3] == ["-B", "-m", "bentos.ranker"]
            assert started[3:] == [*ranker["args"], *([f"--merchandising={folder}"] if known else [])]


@pytest.mark.parametrize("check", ["images", "compose", "chart"])
def test_the_validators_find_nothing(check):
    assert said_by("-m", "infra.check", check) == f"{check}: ok\n"


@pytest.mark.parametrize(
    ("kind", "break_it", "says"),
    [
        ("Deployment", "one['spec']['template']['spec']['containers'][0]['prot'] = []", "prot"),
        ("HTTPRoute", "one['spec']['rules'][0]['backendRefs'][0]['weight'] = -1", "less than the minimum"),
        ("Rollout", "one['spec']['strategy']['canary']['steps'][0]['setWeights'] = 5", "is not valid under any"),
        ("Rollout", "one['spec']['template']['spec']['containers'][0]['prot'] = []", "prot"),
        ("AnalysisTemplate", "del one['spec']['metrics'][0]['provider']", "'provider' is a required property"),
        ("NetworkPolicy", "one['kind'] = 'NetworkPolice'", "NetworkPolice"),
    ],
)
def test_the_validators_see_what_is_wrong(kind, break_it, says):
    case = "argo" if kind in ("Rollout", "AnalysisTemplate") else "pinned"
    program = f"""
from infra.check import invalid
from infra.rendered import render, values_of
one = next(one for one in render(values_of({case!r})) if one["kind"] == {kind!r})
assert invalid(one) == [], invalid(one)
{break_it}
print(invalid(one))
"""
    assert says in said_by("-c", program)


def test_helm_prints_the_sentence():
    program = "from infra.rendered import render; render({})"
    assert "value must be 'gateway.name is an existing Gateway of the Gateway API'" in said_by("-c", program)
