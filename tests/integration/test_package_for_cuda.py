"""A release for a CUDA device, from the candidate to the built bento, asserted without a GPU; a replica of it refuses here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from bentos.ranker.__main__ import _options
from tasks.adapters.signing import signing_keys
from tasks.compression.variants import make_variant
from tasks.domain.errors import InputRejected
from tasks.package import package
from tasks.ranker.cuda import WEIGHTS
from tasks.ranker.device import CUDA, is_here
from tasks.serving.golden import TOLERANCE_OF_CUDA
from tasks.serving.launch import launch_command, launch_environment
from tasks.serving.replica import Replica, ReplicaOptions
from tasks.settings import Settings
from tests.serving_builders import a_candidate, a_network

Packed = tuple[dict[str, Any], Path, Path]
without_a_device = pytest.mark.skipif(is_here(CUDA), reason="this machine has a CUDA device: it would serve")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """(summary, what package left, the bento)."""
    root = tmp_path_factory.mktemp("cuda")
    candidate, dataset = a_candidate(root)
    shutil.rmtree(candidate / "model")
    a_network(root / "parent")
    make_variant("bf16", root / "parent", [], 4, candidate / "model", CUDA)
    keys, provenance = signing_keys(Settings(home=root / "home")), {"partition": "2017-07-01", "code": "c0de"}
    summary = package(
        *("bootstrap", candidate, None, dataset, "2017-07-01", "k1", root / "bentoml", root / "out"),
        keys=keys,
        provenance=provenance,
    )
    name, version = summary["bento_tag"].split(":")
    return summary, root / "out", root / "bentoml" / "bentos" / name / version


def test_the_bento_asks_for_one_gpu_and_holds_the_variant_for_it(packed: Packed) -> None:
    summary, _, bento = packed
    told, release = yaml.safe_load((bento / "bento.yaml").read_text()), bento / "src" / "release"
    assert told["services"][0]["config"]["resources"] == {"gpu": 1}
    config = json.loads((release / "model" / "config.json").read_bytes())
    assert (config["device"], config["precision"]) == ("cuda", "bf16")
    assert "torch.bfloat16" in {str(value.dtype) for value in load_file(release / "model" / WEIGHTS).values()}
    assert json.loads((release / "release.json").read_bytes())["notes"] == {"runtime": "torch"}
    golden = json.loads((release / "golden.json").read_bytes())
    assert len(golden["cases"]) == 8 and golden["tolerance"] == TOLERANCE_OF_CUDA
    assert summary["golden_requests"] == (8 if is_here(CUDA) else 0), "tried where the device is, else at each start"


def test_its_image_stands_on_a_cuda_base_that_the_builder_pins(packed: Packed) -> None:
    docker = packed[2] / "env" / "docker"
    dockerfile = (docker / "Dockerfile").read_text()
    before, base = dockerfile.split("ARG BASE_DIGEST", 1)
    assert "FROM" not in before, "an argument after FROM is empty in it"
    assert re.findall(r"^FROM (\S+)", base, re.M) == ["nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04@${BASE_DIGEST}"]
    assert not re.search("^ARG BASE_DIGEST=", dockerfile, re.M), "no digest is made up: ADR 29"
    assert re.search("torch==.*whl/cu128", (docker / "setup_script").read_text())
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", dockerfile.replace("\\\n", ""), re.M)[-1])
    assert entry[:4] == ["python", "-B", "-m", "bentos.ranker"], "the image starts the fast entry, not `bentoml serve`"
    options, args = _options([*entry[4:], "--port", "3001"])
    assert (options.src, args.host, args.port) == (Path.cwd(), "0.0.0.0", 3001)
    assert (docker / "Dockerfile.template").exists(), "containerize makes the file anew from it"


@without_a_device
def test_a_replica_without_the_device_never_gets_ready_and_says_why(packed: Packed) -> None:
    replica = Replica(ReplicaOptions(src=packed[1] / "src", name="r1", view=packed[1] / "view"))
    with pytest.raises(InputRejected, match="is for a CUDA device and this machine shows none"):
        replica.load()
    assert (replica.state, replica.ready) == ("broken", False) and "CUDA" in replica.reason


@without_a_device
def test_the_process_ends_with_one_sentence(packed: Packed) -> None:
    summary, out, _ = packed
    command = launch_command(out / "src", out / "view", 1, "r1", digest=summary["release"])
    done = subprocess.run(
        command, cwd=out / "src", env=launch_environment(), capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "CUDA" in line]
    assert done.returncode == 1 and len(said) == 1 and "Traceback" not in done.stderr
