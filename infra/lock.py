"""`make lock`: resolve requirements.lock anew, hashed, without torch and without anything of the CUDA stack.

torch comes first, by pip and without hashes (docs/adr/0006); sentence-transformers is only asked for by the package that
carries MiniLM's weights, which we read as files; nvidia-ml-py is a probe that bentoml imports when it is there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LEFT_OUT = ("torch", "sentence-transformers", "nvidia-ml-py")
FORBIDDEN = re.compile(r"^(nvidia|triton|cuda)", re.MULTILINE)


def main() -> int:
    lock = Path("requirements.lock")
    command = [
        *(str(Path(sys.executable).parent / "uv"), "pip", "compile", "pyproject.toml", "--extra", "dev", "--upgrade"),
        *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_31"),
        *("--generate-hashes", "--no-annotate", "--no-header", "-q", "-o", str(lock)),
    ]
    for name in LEFT_OUT:
        command += ["--no-emit-package", name]
    subprocess.run(command, check=True)
    found = FORBIDDEN.findall(lock.read_text())
    if found:
        sys.stderr.write(f"the resolve brought {', '.join(found)}; add them to LEFT_OUT in infra/lock.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
