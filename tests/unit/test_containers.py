"""Images and compose: what can be said of the files without docker. The validators run in `make check-infra`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.compose.service import command as becomes
from infra.compose.service import credentials
from infra.images.__main__ import ROLES, command
from infra.local.services import services
from tasks.domain.errors import InputRejected
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra/images/Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
COMPOSE = yaml.safe_load((ROOT / "infra/compose/docker-compose.yaml").read_text())["services"]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_there_is_one_target_a_role():
    assert set(ROLES) <= set(STAGES)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_runs_as_nobody_says_what_it_is_and_tells_its_health(role):
    stage = STAGES[role]
    assert re.findall(r"^USER (\S+)", stage, re.MULTILINE) == ["10001:10001"]
    assert f'image.title="freshrank-{role}"' in stage
    assert stage.count("HEALTHCHECK") == 1
    assert not re.search(r"^(RUN|ADD|COPY (?!--from=))", stage, re.MULTILINE), (
        "it is only put together from other stages"
    )


def test_every_foreign_base_is_named_by_digest():
    foreign = [line for line in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if line not in STAGES]
    assert foreign == ["docker.io/library/python:3.11-slim-bookworm@${PYTHON_DIGEST}"]
    assert re.search(r"^ARG PYTHON_DIGEST$", DOCKERFILE, re.MULTILINE), "it must have no default"


def test_packages_come_with_hashes_except_torch():
    for line in re.findall(r"uv pip install.*?(?:-r|-e) \S+", DOCKERFILE):
        assert "--require-hashes" in line or line.endswith("-e .") or "requirements-gpu" in line, line


def test_the_service_image_holds_no_code_of_ours():
    copied = re.findall(r"^COPY --from=\S+ (\S+)", STAGES["serving"], re.MULTILINE)
    assert copied == ["/opt/serving"]


def test_the_build_context_holds_what_it_names_and_nothing_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:].split("/")[0] for line in lines if line.startswith("!")} == {
        *("tasks", "bentos", "expectations", "dags", "infra"),
        *("pyproject.toml", "requirements.lock", "requirements-gpu.txt", "README.md", "LICENSE"),
    }


@pytest.mark.parametrize("digest", ["", "sha256:abc", "latest", "sha256:" + "0" * 64, DIGEST.upper()])
def test_a_base_that_is_not_pinned_is_refused(digest):
    with pytest.raises(InputRejected, match="is no digest of the base image; `docker buildx imagetools inspect python"):
        command("serving", digest, version="1", revision="r")


def test_a_gpu_image_needs_an_index():
    with pytest.raises(InputRejected, match="worker-gpu needs --cuda-index"):
        command("worker-gpu", DIGEST, version="1", revision="r")
    line = command("worker-gpu", DIGEST, version="1", revision="r", cuda_index="https://index")
    assert "CUDA_INDEX=https://index" in line and f"PYTHON_DIGEST={DIGEST}" in line


def test_health_is_a_page_or_a_home_that_can_be_written(tmp_path, free_port):
    def healthy(**environment: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-I", str(ROOT / "infra/images/healthy.py")]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    assert healthy(FRESHRANK_HOME=str(tmp_path)).returncode == 0
    assert "nowhere" in healthy(FRESHRANK_HOME=str(tmp_path / "nowhere")).stderr
    url = f"http://127.0.0.1:{free_port}/livez"
    assert url in healthy(FRESHRANK_HOME=str(tmp_path), HEALTH_URL=url).stderr


def test_compose_runs_every_service_of_the_local_stack(tmp_path):
    table = services(Settings(home=tmp_path), everywhere=True)
    assert len(table) >= 10
    assert set(COMPOSE) == {*table, "database", "rollout-log", "prepare"}
    for name in table:
        assert COMPOSE[name]["command"] == ["python", "-m", "infra.compose.service", name]
        assert COMPOSE[name]["read_only"] and COMPOSE[name]["cap_drop"] == ["ALL"]


def test_the_rollout_log_of_compose_is_on_a_server_that_nothing_else_uses():
    urls = {name: one.get("environment", {}) for name, one in COMPOSE.items()}
    users = {name for name, told in urls.items() if any("@rollout-log:5432/rollout" in str(v) for v in told.values())}
    assert users == {"controller"}
    assert COMPOSE["controller"]["environment"]["FRESHRANK_ROLLOUT_LOG"].startswith("postgresql://")
    assert COMPOSE["controller"]["depends_on"]["rollout-log"] == {"condition": "service_healthy"}
    assert COMPOSE["rollout-log"]["volumes"] != COMPOSE["database"]["volumes"]


def test_compose_opens_ports_on_loopback_only():
    ports = [port for one in COMPOSE.values() for port in one.get("ports", [])]
    assert len(ports) == 4 and all(port.startswith("127.0.0.1:") for port in ports)


def test_a_container_becomes_the_row_of_the_table(tmp_path):
    settings = Settings(
        home=tmp_path, bind="0.0.0.0", mlflow_url="http://mlflow:28002", store_endpoint="http://store:1"
    )
    argv, environment, _ = becomes("mlflow", settings, {"PATH": "/usr/bin"})
    assert argv == services(settings, everywhere=True)["mlflow"].argv
    assert argv[argv.index("--host") + 1] == "0.0.0.0"
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://store:1"
    assert settings.secrets.store_secret_key in credentials(settings)
    with pytest.raises(InputRejected, match="no service is called nothing; services: store, valkey"):
        becomes("nothing", settings, {})
