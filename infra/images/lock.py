"""`python -m infra.images.lock`: resolve cluster.txt anew, hashed, beside requirements.lock and never against it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s\\]+)", re.MULTILINE)


def beside(resolved: str, lock: str) -> str:
    """The blocks of `resolved`, a package with its hashes each, that the lock does not hold."""
    known = {found["name"].lower() for found in PINNED.finditer(lock)}
    blocks = re.split(r"\n(?=[A-Za-z0-9])", resolved.strip())
    return "\n".join(block for block in blocks if block.split("==")[0].lower() not in known) + "\n"


def main() -> int:
    lock = (ROOT / "requirements.lock").read_text()
    with tempfile.TemporaryDirectory() as folder:
        constraints, out = Path(folder) / "constraints.txt", Path(folder) / "cluster.txt"
        pins = [found[0] for found in PINNED.finditer(lock)]
        constraints.write_text("\n".join([*pins, "torch==2.13.0"]))
        command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", str(HERE / "cluster.in")]
        command += ["-c", str(constraints), "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_31"]
        command += ["--generate-hashes", "--no-annotate", "--no-header", "--system-certs", "-q", "-o", str(out)]
        subprocess.run(command, check=True)
        (HERE / "cluster.txt").write_text(beside(out.read_text(), lock))
    return 0


if __name__ == "__main__":
    sys.exit(main())
