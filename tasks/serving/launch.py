"""How a replica is started: one spelling for the controller, the packager's smoke test and people."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# the environment of a replica: nothing of ours reaches it but arguments, nothing of it reaches the outside
KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES",
)
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def launch_command(
    src: Path,
    view: Path | None,
    port: int,
    replica: str,
    *,
    digest: str | None = None,
    secrets: Path | None = None,
    valkey: str | None = None,
    spool: Path | None = None,
    store_config: Path | None = None,
    public_keys: Path | None = None,
    merchandising: Path | None = None,
) -> list[str]:
    """argv of a replica. Start it with `cwd=src`, so that the release's code serves, and `launch_environment()`."""
    command = [sys.executable, "-B", "-m", "bentos.ranker", "--release", str(src / "release"), "--port", str(port)]
    command += ["--replica", replica]
    named = {
        "--view": view,
        "--digest": digest,
        "--secrets": secrets,
        "--valkey": valkey,
        "--spool": spool,
        "--store-config": store_config,
        # a release of before these knows no such argument; its signature was checked by whoever starts it
        "--public-keys": public_keys if (src / "tasks" / "serving" / "signature.py").exists() else None,
        "--merchandising": merchandising if (src / "tasks" / "serving" / "merchandise.py").exists() else None,
    }
    for flag, value in named.items():
        if value is not None:
            command += [flag, str(value)]
    return command


def launch_environment() -> dict[str, str]:
    """What a replica may inherit, and the switches that keep it to one thread and to itself."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    switches = {
        **dict.fromkeys(ONE_THREAD, "1"),
        "PYTHONDONTWRITEBYTECODE": "1",  # a release directory holds what was packaged, nothing else
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "true",
        "TF_BUILD": "1",  # OpenVINO's sender is silent in CI and knows no other switch
        "OTEL_SDK_DISABLED": "true",
    }
    return {**kept, **switches}
