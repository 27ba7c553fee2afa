"""vectors.safetensors of a search ranker: a table of item vectors in float16 each, or in fewer numbers of one byte each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.ranker.arrays import Floats

PARTS = ("codes", "scales", "basis")


@dataclass(frozen=True)
class SmallVectors:
    """codes [items, kept] int8, scales [items, 1] float16, basis [width, kept] float16."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float16]
    basis: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.basis.nbytes

    def restored(self) -> Floats:
        """[items, width] float32: what a cosine with these codes is a cosine with."""
        turned = self.codes.astype(np.float32) * self.scales.astype(np.float32)
        vectors: Floats = turned @ self.basis.astype(np.float32).T
        return vectors


def save_vectors(path: Path, tables: Mapping[str, Floats | SmallVectors]) -> None:
    """Tables of [items, width]; small ones as their parts."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, table in tables.items():
        if isinstance(table, SmallVectors):
            tensors |= {f"{name}.{part}": getattr(table, part) for part in PARTS}
        else:
            tensors[name] = table.astype(np.float16)
    save_file(tensors, path)


def load_vectors(path: Path, name: str) -> Floats:
    """[items, width] float32 of one table."""
    tensors = load_file(path)
    if name in tensors:
        return tensors[name].astype(np.float32)
    return SmallVectors(*(tensors[f"{name}.{part}"] for part in PARTS)).restored()


def with_nothing(vectors: Floats) -> Floats:
    """And a row of zeros, which row -1 means: the unknown item."""
    return np.vstack([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
