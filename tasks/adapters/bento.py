"""A sealed release -> a bento in BENTOML_HOME, by `bentoml build` in a process of its own; no network, no docker.

The image's packages are the part of our lock that the service needs, with its hashes: BentoML resolves nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from tasks.domain.errors import InputRejected, Unavailable
from tasks.ranker.device import CUDA, OPENVINO, TORCH, device_of
from tasks.serving.launch import launch_environment
from tasks.serving.release import verify

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
NAME = "freshrank_ranker"
SERVICE = "bentos.ranker.service:Ranker"
TIMEOUT_S = 180
CUDA_VERSION = "12.8.1"
SCRIPT = "install_torch.sh"  # torch is in no lock of ours, see ADR 6
INSTALL_TORCH = """#!/bin/sh
set -e
pip install torch==2.13.0 --index-url "${{TORCH_INDEX:-https://download.pytorch.org/whl/{build}}}"
"""
TEMPLATE = "Dockerfile.template"
# the image starts the fast entry, as the launcher does; BentoML's own would be `bentoml serve`. What is given to
# `docker run` behind the image's name is appended: --view, --secrets, --valkey, --spool
# and a base by digest alone, as in infra/images (ADR 29): whoever builds the image says which bytes it trusts
DOCKERFILE = """{% extends bento_base_template %}
{% block SETUP_BENTO_BASE_IMAGE %}
ARG BASE_DIGEST
{{ super() | replace(" as base-container", "@${BASE_DIGEST} as base-container") }}
{% endblock %}
{% block SETUP_BENTO_ENTRYPOINT %}
EXPOSE 3000
ENV PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 TF_BUILD=1
USER bentoml
WORKDIR $BENTO_PATH/src
ENTRYPOINT ["python", "-B", "-m", "bentos.ranker", "--release", "release", "--host", "0.0.0.0", "--port", "3000", \
 "--replica", "bento"]
{% endblock %}
"""
# what bentos.ranker imports, directly; boto3 and pyarrow only in the feedback uploader, lightgbm only for a release with trees
NEEDED = (
    "bentoml", "boto3", "cryptography", "httptools", "lightgbm", "msgspec", "numpy", "openvino", "orjson", "prometheus-client",
    "pyarrow", "pydantic", "safetensors", "tokenizers", "uvicorn", "uvloop", "valkey",
)  # fmt: skip
SYSTEM_PACKAGES = ["libgomp1"]  # OpenMP, which LightGBM's wheel does not bring
LEFT_OUT = ("nvidia-",)  # BentoML asks for nvidia-ml-py; our lock holds nothing of the kind, see README


def build_bento(src: Path, digest: str, home: Path) -> Path:
    """Build and return the bento's `src`, which is the release byte for byte. Building it again replaces it.

    Raises:
        InputRejected: BentoML refused, or what it built is not the release.
        Unavailable: the build did not end in time.
    """
    bento = home / "bentos" / NAME / digest[:12]
    shutil.rmtree(bento, ignore_errors=True)  # of an earlier try with this very release
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "bentofile.yaml"
        context, told = _context(src, Path(folder))
        recipe.write_text(yaml.safe_dump(told, sort_keys=True))
        command = [
            sys.executable,
            "-B",
            "-m",
            "bentoml",
            "build",
            str(context),
            "-f",
            str(recipe),
            "--version",
            digest[:12],
        ]
        environment = {**launch_environment(), "BENTOML_HOME": str(home)}
        try:
            done = subprocess.run(
                command, cwd=context, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as err:
            raise Unavailable(f"bentoml build did not end within {TIMEOUT_S} s; run package again") from err
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-600:]
        raise InputRejected(f"bentoml build failed with {done.returncode}: {said}")
    (bento / "src" / "bentofile.yaml").unlink(missing_ok=True)  # BentoML's copy of the recipe is no part of the release
    _keep_hashed(bento / "env" / "python" / "requirements.txt")
    verify(bento / "src", digest)
    return bento / "src"


def locked_requirements(lock: str, needed: tuple[str, ...] = NEEDED) -> list[str]:
    """`name==version --hash=...` of everything the service needs, dependencies of dependencies included.

    Raises:
        InputRejected: something needed is not in the lock.
    """
    locked = {
        _plain(match["name"]): " ".join(match[0].replace("\\\n", " ").split())
        for match in re.finditer(r"^(?P<name>[A-Za-z0-9._-]+)==[^\\\n]*(?:\\\n[^\\\n]*)*", lock, re.M)
    }
    closure, waiting = set[str](), [_plain(name) for name in needed]
    while waiting:
        name = waiting.pop()
        if name in closure or name.startswith(LEFT_OUT):
            continue
        if name not in locked:
            raise InputRejected(f"the service needs {name}, and requirements.lock does not name it; run `make lock`")
        closure.add(name)
        required = [Requirement(text) for text in metadata.requires(name) or ()]
        waiting += [_plain(r.name) for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [locked[name] for name in sorted(closure)]


def _context(src: Path, folder: Path) -> tuple[Path, dict[str, object]]:
    """(what BentoML builds from, the recipe). A copy: what it reads must lie there, and no release holds a file that it
    does not list; nor may a folder of the path be hidden, which FRESHRANK_HOME is.
    """
    context = folder / "src"
    shutil.copytree(src, context, copy_function=shutil.copyfile)
    (context / TEMPLATE).write_text(DOCKERFILE)
    docker: dict[str, object] = {"dockerfile_template": TEMPLATE, "system_packages": SYSTEM_PACKAGES}
    on_cuda = device_of(src / "release" / "model") == CUDA
    if on_cuda or _runtime(src) == TORCH:
        (context / SCRIPT).write_text(INSTALL_TORCH.format(build="cu128" if on_cuda else "cpu"))
        (context / SCRIPT).chmod(0o755)
        docker |= {"setup_script": SCRIPT} | ({"cuda_version": CUDA_VERSION} if on_cuda else {})
    return context, {
        "service": SERVICE,
        "name": NAME,
        "include": ["bentos/**", "tasks/**", "release/**"],
        "python": {"packages": locked_requirements(LOCK.read_text()), "lock_packages": False},
        "docker": docker,
    }


def _runtime(src: Path) -> str:
    return str(verify(src).record.notes.get("runtime", OPENVINO))


def _keep_hashed(requirements: Path) -> None:
    """BentoML adds itself once more, without hashes; one such line makes an installer refuse all the others."""
    lines = requirements.read_text().splitlines(keepends=True)
    requirements.write_text("".join(line for line in lines if not re.fullmatch(r"[\w.-]+==\S+\n", line)))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
