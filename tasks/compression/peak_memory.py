"""The memory that a variant takes when it answers, told by a process of its own: python -m tasks.compression.peak_memory [DIR]."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from openvino import Core

from tasks.machine import told_by
from tasks.ranker.device import reference_scorer
from tasks.ranker.runtime import read_config
from tasks.ranker.text import WIDTH
from tasks.ranker.tokens import MAX_TOKENS, TOKEN_WIDTH

WITHIN_S = 300  # it takes one or two
ROWS = {"base": 1_000, "full": 150}  # of the largest request


def peak_bytes(directories: Mapping[str, Path]) -> dict[str, int]:
    """Largest resident size of a fresh process that loads a variant and answers once, less one with the runtime alone.

    Raises:
        Unavailable: such a process failed, or did not end.
    """
    idle = _run([])
    return {name: max(0, _run([str(directory)]) - idle) for name, directory in directories.items()}


def _run(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "tasks.compression.peak_memory", *arguments]
    return 1024 * int(told_by(command, "a variant", "compress", WITHIN_S))


def main(arguments: list[str]) -> None:
    Core()
    for directory in map(Path, arguments):
        scorer, features = reference_scorer(directory), len(read_config(directory)["features"])
        for stage, rows in ROWS.items():
            shapes = [(rows, features), (rows, WIDTH), (rows, MAX_TOKENS, TOKEN_WIDTH), (rows, MAX_TOKENS)]
            x, item_vec, tokens, mask = (np.ones(shape, np.float32) for shape in shapes)
            scorer.base(x, item_vec) if stage == "base" else scorer.full(x, item_vec, tokens, mask)
    peak = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    sys.stdout.write(peak)


if __name__ == "__main__":
    main(sys.argv[1:])
