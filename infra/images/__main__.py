"""`python -m infra.images ROLE --python-digest sha256:...`: build one image with docker, from a base that is pinned.

Prints the command; runs it with --run. A digest cannot be made up: it comes from the registry (infra/images/README.md).
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.domain.errors import FreshrankError, InputRejected

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("orchestrator", "worker-cpu", "worker-gpu", "serving")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BASE = "python:3.11-slim-bookworm"
ASK = f"docker buildx imagetools inspect {BASE}"


def command(role: str, python_digest: str, *, version: str, revision: str, cuda_index: str = "") -> list[str]:
    """argv of `docker build`. Raises InputRejected for a base that is not pinned, and for a GPU image without an index."""
    if not DIGEST.fullmatch(python_digest) or len(set(python_digest.removeprefix("sha256:"))) == 1:
        raise InputRejected(
            f"--python-digest {python_digest or '(empty)'} is no digest of the base image; `{ASK}` prints it: "
            f"sha256: and 64 hexadecimal digits"
        )
    if role == "worker-gpu" and not cuda_index:
        raise InputRejected(
            "worker-gpu needs --cuda-index, the address of PyTorch's index for the driver of your GPU nodes"
        )
    arguments = {"PYTHON_DIGEST": python_digest, "VERSION": version, "REVISION": revision}
    if cuda_index:
        arguments["CUDA_INDEX"] = cuda_index
    built = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    tag = f"freshrank-{role}:{version}"
    return ["docker", "build", "--file", "infra/images/Dockerfile", "--target", role, "--tag", tag, *built, "."]


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.images", description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--python-digest", default="", help=f"of {BASE}; learn it with: {ASK}")
    parser.add_argument("--cuda-index", default="", help="PyTorch's index of CUDA builds; worker-gpu only")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--revision", default="unknown", help="git commit, for the image's label")
    parser.add_argument("--run", action="store_true", help="call docker instead of printing the command")
    asked = parser.parse_args(given)
    try:
        line = command(
            asked.role,
            asked.python_digest,
            version=asked.version,
            revision=asked.revision,
            cuda_index=asked.cuda_index,
        )
        if asked.run and shutil.which("docker") is None:
            raise InputRejected("docker is not installed; run the printed command where it is")
    except FreshrankError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    sys.stdout.write(shlex.join(line) + "\n")
    return subprocess.run(line, cwd=ROOT, check=False).returncode if asked.run else 0


if __name__ == "__main__":
    sys.exit(main())
