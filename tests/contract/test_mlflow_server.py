"""The real MLflow server: its aliases are healed, it shows what a model takes, it runs no code, and it may hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local.services import NO_PICKLE, base_environment
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.registry import MODEL
from tasks.adapters.store import MemoryStore
from tasks.controller.client import ControllerClient
from tasks.domain.errors import Unavailable
from tasks.record import mirror
from tasks.registry_mirror import reconcile
from tasks.settings import Settings
from tasks.telemetry_off import TELEMETRY_OFF
from tests.contract.conftest import MlflowServer
from tests.unit.test_record import RELEASE, a_run_that_ships

pytestmark = pytest.mark.stack
RUN = "manual__2026-11-28"


class Shipped:
    """One refresh whose package step is registered, and a controller that serves it as champion."""

    def __init__(self, server: MlflowServer, home: Path) -> None:
        self.settings = Settings(home=home, mlflow_url=server.url)
        self.store, self.registry = MemoryStore(), MlflowRegistry(self.settings)
        self.uris = a_run_that_ships(self.store)
        self.status: dict[str, Any] = {"champion": {"digest": RELEASE}, "challenger": None, "previous": None}
        answer = httpx.MockTransport(lambda request: httpx.Response(200, json=self.status))
        self.controller = ControllerClient(self.settings, transport=answer)

    def record(self) -> None:
        for step in ("build_dataset", "gate", "package"):
            assert mirror(self.settings, self.registry, self.store).call("step", uri=self.uris[step], run_key=RUN)

    def reconcile(self) -> dict[str, str]:
        return reconcile(self.controller, self.registry, self.store, self.settings)

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = httpx.request(method, f"{self.settings.url('mlflow')}/api/2.0/mlflow/{path}", **more)
        answer.raise_for_status()
        return answer


@pytest.fixture
def shipped(mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[Shipped]:
    shipped = Shipped(mlflow_server, tmp_path)
    shipped.record()
    shipped.reconcile()
    yield shipped
    shipped.api("DELETE", "registered-models/delete", json={"name": MODEL})


def test_an_alias_that_somebody_moved_or_dropped_is_put_back(shipped: Shipped) -> None:
    champion = shipped.registry.aliases()["champion"]
    stranger = shipped.registry.register("e" * 64, "s3://elsewhere/x.json", {})
    shipped.api("POST", "registered-models/alias", json={"name": MODEL, "alias": "champion", "version": stranger})
    shipped.api("POST", "registered-models/alias", json={"name": MODEL, "alias": "previous", "version": stranger})
    assert shipped.reconcile() == {"champion": f"{stranger} -> {champion}", "previous": f"{stranger} -> none"}
    shipped.api("DELETE", "registered-models/alias", json={"name": MODEL, "alias": "champion"})
    assert shipped.reconcile() == {"champion": f"none -> {champion}"}
    assert shipped.reconcile() == {}


def test_a_version_that_somebody_deleted_comes_back_with_its_tags(shipped: Shipped) -> None:
    before = shipped.registry.find_version(RELEASE)
    assert before is not None and before.tags["verdict"] == "pass"
    shipped.api("DELETE", "model-versions/delete", json={"name": MODEL, "version": before.version})
    assert shipped.registry.aliases() == {}, "MLflow drops the alias in silence"
    assert set(shipped.reconcile()) == {"champion"}
    after = shipped.registry.find_version(RELEASE)
    assert after is not None and after.version != before.version
    assert (after.tags, after.source) == (before.tags, before.source)


def test_a_deleted_model_comes_back(shipped: Shipped) -> None:
    shipped.api("DELETE", "registered-models/delete", json={"name": MODEL})
    with pytest.raises(Exception, match="not found"):
        shipped.reconcile()
    assert set(shipped.reconcile()) == {"champion"}


def run_python(code: str, server: MlflowServer, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**clean, **TELEMETRY_OFF, "MLFLOW_TRACKING_URI": server.url, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_mlflow_shows_what_goes_in_what_comes_out_and_an_example_and_cannot_load_it(
    shipped: Shipped, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    code = f"""
import json, mlflow
from mlflow.models import Model
folder = mlflow.artifacts.download_artifacts("models:/{MODEL}@champion", dst_path={str(tmp_path)!r})
model = Model.load(folder)
try:
    mlflow.pyfunc.load_model("models:/{MODEL}@champion")
    loaded = "loaded"
except mlflow.MlflowException as err:
    loaded = str(err)
told = {{"inputs": model.signature.inputs.to_dict(), "outputs": model.signature.outputs.to_dict()}}
print(json.dumps(told | {{"example": model.load_input_example(folder), "flavors": model.flavors, "loaded": loaded}}))
"""
    done = run_python(code, mlflow_server)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    inputs = {column["name"]: column for column in told["inputs"]}
    assert inputs["surface"] == {"name": "surface", "type": "string", "required": True}
    assert inputs["history"]["items"]["properties"]["item_id"] == {"type": "string", "required": True}
    assert {column["name"] for column in told["outputs"]} >= {"release", "items"}
    assert told["example"] == {"surface": "search", "query": "milk", "k": 3}
    assert told["flavors"]["freshrank"]["release"] == RELEASE
    assert "python_function" in told["loaded"], "no flavor that MLflow could load"


PICKLED = """
import mlflow, sys
class Bomb:
    def __reduce__(self):
        return (open, (sys.argv[1], "w"))
class Model(mlflow.pyfunc.PythonModel):
    def __init__(self): self.bomb = Bomb()
    def predict(self, context, model_input): return model_input
with mlflow.start_run():
    print(mlflow.pyfunc.log_model(name="pickled", python_model=Model()).model_uri)
"""
LOADING = """
import mlflow, sys
mlflow.pyfunc.load_model(sys.argv[1])
"""


def with_arguments(code: str, *arguments: str) -> str:
    return f"import sys; sys.argv[1:] = {list(arguments)!r}\n{code}"


def test_a_pickled_model_can_be_put_there_and_is_never_unpickled_by_our_processes(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    """The switch stops whoever loads, not whoever uploads: so it is in the environment of every process of the stack."""
    bomb = tmp_path / "went-off"
    logged = run_python(with_arguments(PICKLED, str(bomb)), mlflow_server)
    assert logged.returncode == 0, logged.stderr
    (uri,) = (line for line in logged.stdout.splitlines() if line.startswith("models:/"))
    bomb.unlink(missing_ok=True)
    assert base_environment(mlflow_server.settings, {}).items() >= NO_PICKLE.items()
    refused = run_python(with_arguments(LOADING, uri), mlflow_server, **NO_PICKLE)
    assert refused.returncode != 0 and "pickle is disallowed" in refused.stderr, refused.stderr
    assert not bomb.exists()
    assert run_python(with_arguments(LOADING, uri), mlflow_server).returncode == 0
    assert bomb.exists(), "without the switch the same model runs its code"


def test_the_server_runs_no_jobs(mlflow_server: MlflowServer) -> None:
    answer = httpx.post(
        f"{mlflow_server.url}/ajax-api/3.0/jobs/", json={"job_name": "run_online_trace_scorer", "params": {}}
    )
    assert answer.status_code >= 400, answer.text
    assert "processes" not in answer.text


@contextmanager
def hung(server: MlflowServer) -> Iterator[None]:
    """It accepts connections, and answers nothing."""
    os.killpg(server.group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.group, signal.SIGCONT)


def test_what_a_hung_server_missed_is_kept_and_written_once_it_answers(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    shipped = Shipped(mlflow_server, tmp_path)
    impatient = MlflowRegistry(shipped.settings, timeout_s=0.3)
    requests: list[str] = []
    impatient._http.event_hooks["request"].append(lambda request: requests.append(request.url.path))
    with hung(mlflow_server):
        mirrored = mirror(shipped.settings, impatient, shipped.store)
        for step in ("build_dataset", "gate", "package"):
            before = len(requests)
            assert not mirrored.call("step", uri=shipped.uris[step], run_key=RUN + " hung")
            assert len(requests) == before + 1, "one try a step, whatever waits: a step waits for one time-out"
        assert len(mirrored.waiting()) == 3
        with pytest.raises(Unavailable, match="did not answer"):
            reconcile(shipped.controller, impatient, shipped.store, shipped.settings)
    assert set(shipped.reconcile()) == {"champion"}
    assert not mirrored.waiting()
    run = shipped.registry.run_of(RELEASE)
    assert run is not None
    seen = shipped.registry.read_run(run)
    assert {one.context for one in seen.datasets} == {"training", "holdout"}
    assert seen.tags["shipped"] == "state"
    shipped.api("DELETE", "registered-models/delete", json={"name": MODEL})
