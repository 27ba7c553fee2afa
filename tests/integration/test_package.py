"""The whole way from a candidate to a process that serves it, and its end: real build, real process, real HTTP."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tasks.adapters.bento import LOCK, _context, locked_requirements
from tasks.adapters.signing import public_keys, signing_keys
from tasks.bill_of_materials import SBOM_JSON, bill_of_materials
from tasks.domain.errors import InputRejected
from tasks.package import _require_no_skew, package
from tasks.serving.launch import launch_command, launch_environment
from tasks.serving.release import file_digests, seal
from tasks.serving.signature import signature_of
from tasks.settings import Settings
from tests.serving_builders import a_candidate, a_release, write_secrets

PROVENANCE = {"partition": "2017-07-01", "code": "c0de", "verdict": {"kind": "bootstrap", "outcome": "pass"}}
Packed = tuple[dict[str, Any], Path]
Served = tuple[subprocess.Popen[str], str]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_candidate(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def packed(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Packed:
    out = tmp_path_factory.mktemp("package") / "out"
    home = tmp_path_factory.mktemp("bentoml")
    keys = signing_keys(Settings(home=tmp_path_factory.mktemp("home")))
    made = package(
        "bootstrap", inputs[0], None, inputs[1], "2017-07-01", "k1", home, out, keys=keys, provenance=PROVENANCE
    )
    return made, out


def test_a_bootstrap_release_says_what_it_is(packed: Packed) -> None:
    summary, out = packed
    record = json.loads((out / "src/release/release.json").read_text())
    assert (record["kind"], record["train_end"], record["state_through"]) == ("bootstrap", "2017-06-16", "2017-06-30")
    assert record["view"] == summary["view"]
    assert summary["golden_requests"] == 8
    assert summary["skew"]["ok"] and summary["skew"]["value"] <= 0.01
    assert str(out) not in (out / "src/release/release.json").read_text()


def test_the_runtime_is_measured_here_and_named_by_the_release_without_its_times(packed: Packed) -> None:
    summary, out = packed
    record = json.loads((out / "src/release/release.json").read_text())
    assert (
        record["notes"] == {"runtime": "openvino"} and summary["runtime"] == "openvino" and "cores" in summary["host"]
    )
    openvino, torch = summary["runtimes"]
    assert openvino["cpu_ms"] > 0 and not openvino["reason"]
    assert torch["cpu_ms"] is None and "could not be opened" in torch["reason"], "this model has no unquantised parent"


def test_an_image_has_the_runtime_that_its_release_names(packed: Packed, tmp_path: Path) -> None:
    src = tmp_path / "src"
    shutil.copytree(packed[1] / "src", src)
    record = json.loads((src / "release/release.json").read_text())
    seal(
        src, {name: record[name] for name in ("kind", "partition", "created", "view")} | {"notes": {"runtime": "torch"}}
    )
    context, recipe = _context(src, tmp_path / "build")
    docker = recipe["docker"]
    assert isinstance(docker, dict) and docker["setup_script"] and "cuda_version" not in docker
    assert "torch==" in (script := (context / docker["setup_script"]).read_text()) and "whl/cpu" in script


def test_a_release_lists_what_it_runs_on(packed: Packed) -> None:
    bill = (packed[1] / "src/release" / SBOM_JSON).read_bytes()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None
    parts = {part["name"]: part for part in json.loads(bill)["components"]}
    assert re.search(rf"^openvino=={parts['openvino']['version']} ", LOCK.read_text(), re.M)
    assert parts["openvino"]["externalReferences"][0]["hashes"]
    weights = {file["name"]: file["hashes"][0]["content"] for file in parts["model"]["components"]}
    release = packed[1] / "src/release"
    assert weights == file_digests(release / "model")
    assert bill_of_materials(release, locked_requirements(LOCK.read_text()), "2017-07-01") == bill


def test_a_state_release_keeps_the_weights_and_their_name(
    packed: Packed, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    first, champion = packed
    kept, again = (
        package(
            *("state", None, champion / "src", inputs[1], "2017-07-02", "k1", tmp_path / "b", tmp_path / name),
            keys=signing_keys(Settings(home=tmp_path / f"home-{name}")),
            provenance=PROVENANCE,
        )
        for name in ("one", "two")
    )
    assert kept["weights_digest"] == first["weights_digest"]
    assert kept["train_end"] == first["train_end"]
    assert kept["runtime"] == first["runtime"] and kept["runtimes"] == [], "the champion's weights keep their runtime"
    assert kept["release"] == again["release"] != first["release"]
    assert kept["signed_by"] != again["signed_by"], "the key is no part of what a release is"


@pytest.mark.parametrize(
    ("choice", "says"), [("weights", "needs the candidate"), ("state", "champion"), ("none", "cannot be packaged")]
)
def test_what_cannot_be_packaged_is_refused(choice: str, says: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputRejected, match=says):
        package(
            *(choice, None, None, inputs[1], "2017-07-01", "k1", tmp_path, tmp_path / "out"),
            keys=signing_keys(Settings(home=tmp_path / "home")),
            provenance=PROVENANCE,
        )


def test_the_image_gets_our_lock_and_nothing_else() -> None:
    lines = locked_requirements(LOCK.read_text())
    names = {line.split("==")[0] for line in lines}
    assert {"bentoml", "openvino", "msgspec", "starlette", "numpy", "lightgbm"} <= names
    assert not names & {"torch", "mlflow", "apache-airflow", "transformers", "pandas", "polars"}
    assert all("--hash=sha256:" in line for line in lines)


def start(packed: Packed, port: int, **more: Any) -> subprocess.Popen[str]:
    summary, out = packed
    command = launch_command(out / "src", out / "view", port, "r1", **{"digest": summary["release"], **more})
    return subprocess.Popen(command, cwd=out / "src", env=launch_environment(), stderr=subprocess.PIPE, text=True)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(packed: Packed, port: int, tmp_path: Path) -> Iterator[Served]:
    process = start(packed, port, secrets=write_secrets(tmp_path / "secrets.json"), spool=tmp_path / "spool")
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield process, url
    finally:
        process.kill()
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            continue
    raise AssertionError(process.stderr.read() if process.stderr else "ended")


def test_a_stop_finishes_what_is_in_flight_and_is_not_ready_first(served: Served) -> None:
    process, url = served
    statuses: list[Any] = []
    not_ready, stop = threading.Event(), threading.Event()

    def ask() -> None:
        body = {"surface": "recommendation", "user_id": "user-3", "k": 20}
        with httpx.Client(timeout=10) as client:
            while not stop.is_set():
                try:
                    statuses.append(client.post(f"{url}/rank", json=body).status_code)
                    if client.get(f"{url}/readyz").status_code == 503:
                        not_ready.set()
                        return  # as a router does: send no more
                except httpx.HTTPError as err:
                    statuses.append(repr(err))
                    return

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    while len(statuses) < 40:
        stop.wait(0.01)
    process.send_signal(signal.SIGTERM)
    assert not_ready.wait(10)
    for caller in callers:
        caller.join(20)
    stop.set()
    assert process.wait(20) == 0
    assert set(statuses) == {200}


def test_a_service_that_scores_otherwise_than_the_evaluator_is_not_released(
    served: Served, packed: Packed, tmp_path: Path
) -> None:
    src, view = packed[1] / "src", packed[1] / "view"
    port = int(served[1].rsplit(":", 1)[1])
    _require_no_skew(port, src / "release", view)
    shutil.copytree(src / "release", tmp_path / "release")
    shutil.copytree(
        a_release(tmp_path / "other", seed=1)[0] / "release" / "model",
        tmp_path / "release" / "model",
        dirs_exist_ok=True,
    )
    with pytest.raises(InputRejected, match=r"train/serve skew: .* differ by at most .*not released"):
        _require_no_skew(port, tmp_path / "release", view)


def test_the_service_loads_nothing_that_trains(packed: Packed) -> None:
    _, out = packed
    code = (
        "import sys, bentos.ranker.fast_path, bentos.ranker.pages, tasks.serving.engine, tasks.serving.user_view;"
        "heavy = {'torch', 'transformers', 'mlflow', 'airflow', 'boto3', 'polars', 'pandas', 'pyarrow', 'bentoml'};"
        "print(sorted(heavy & set(sys.modules)), tasks.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=out / "src", capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("[] ")
    assert str(out / "src") in done.stdout, "the code of the release serves, not the checkout's"


def test_a_damaged_release_never_gets_ready(packed: Packed, port: int, tmp_path: Path) -> None:
    summary, out = packed
    damaged = tmp_path / "damaged"
    shutil.copytree(out, damaged)
    weights = damaged / "src/release/model/base.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    process = start((summary, damaged), port)
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert "release/model/base.bin" in process.stderr.read()


def test_another_release_than_the_one_asked_for_does_not_serve(packed: Packed, port: int) -> None:
    process = start(packed, port, digest="0" * 64)
    assert process.wait(60) == 1


def test_a_taken_port_is_said_in_one_sentence(packed: Packed, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        process = start(packed, port)
        assert process.wait(60) == 2
    assert process.stderr is not None
    assert f"port {port} on 127.0.0.1 cannot be used" in process.stderr.read()


def test_bentoml_serve_answers_as_the_launcher_does(served: Served, packed: Packed, tmp_path: Path) -> None:
    _, out = packed
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-B", "-m", "bentoml", "serve", "bentos.ranker.service:Ranker"]
    environment = {**launch_environment(), "RANKER_VIEW": str(out / "view"), "BENTOML_HOME": str(tmp_path / "bentoml")}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", port],
        cwd=out / "src",
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        for path, body in (("/recommend", {"k": 5}), ("/search", {"query": "milk"})):
            theirs, ours = (httpx.post(f"{base}{path}", json=body).json() for base in (url, served[1]))
            assert theirs["items"] == ours["items"] and theirs["release"] == ours["release"]
    finally:
        # its worker is in a process group of its own, and would outlive the test
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


def test_feedback_outlives_a_kill(served: Served, tmp_path: Path) -> None:
    process, url = served
    body = {"request_id": "r-9", "events": [{"item_id": "item-001", "event_type": "purchase", "value": 2.0}]}
    assert httpx.post(f"{url}/feedback", json=body).status_code == 202
    process.kill()
    process.wait()
    assert "r-9" in "".join(path.read_text() for path in (tmp_path / "spool").rglob("*.jsonl"))


def test_a_release_says_what_it_was_made_of_and_by_whom_it_was_signed(packed: Packed) -> None:
    summary, out = packed
    told = json.loads((out / "src/release/provenance.json").read_text())
    assert told["partitions"] == {"2017-06-30": "a" * 64}
    assert (told["code"], told["verdict"]["outcome"]) == ("c0de", "pass")
    signature = json.loads(signature_of(out / "src").read_text())
    assert signature["verificationMaterial"]["publicKey"]["hint"] == summary["signed_by"]


def test_a_replica_refuses_what_no_trusted_key_signed(packed: Packed, port: int, tmp_path: Path) -> None:
    process = start(packed, port, public_keys=public_keys(Settings(home=tmp_path / "elsewhere")))
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert "this machine trusts" in process.stderr.read()
