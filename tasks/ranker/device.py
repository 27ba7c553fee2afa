"""Where a released model computes and by what: a runtime on the CPU, or torch on a CUDA device where its config.json says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.head_parts import openvino_scorer
from tasks.ranker.runtime import FULL_SHAPES, OpenVinoScorer, Scorer, TorchScorer

CPU, CUDA = "cpu", "cuda"
OPENVINO, TORCH = "openvino", "torch"
RUNTIMES = (OPENVINO, TORCH)  # on the CPU; a release says by which it serves, see tasks/runtime_trial.py
LENGTHS = tuple(length for _, length in FULL_SHAPES)  # that histories are padded to


class ByLength:
    """A scorer of any shape, given rows with histories of like length together: half of all have two tokens or fewer of 20."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._scorer.base(x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        scores, fits = np.empty(len(x), np.float32), np.searchsorted(LENGTHS, mask.sum(1))
        for n in np.unique(fits).tolist():
            at, length = np.flatnonzero(fits == n), LENGTHS[n]
            scores[at] = self._scorer.full(x[at], item_vec[at], tokens[at, :length], mask[at, :length])
        return scores


def device_of(model: Path) -> str:
    """What a model directory was chosen for; one that says nothing is for the CPU."""
    device = str(json.loads((model / "config.json").read_bytes()).get("device", CPU))
    if device not in (CPU, CUDA):
        raise InputRejected(f"{model.name}/config.json asks for device {device!r}; it may be {CPU} or {CUDA}")
    return device


def is_here(device: str) -> bool:
    """Whether this machine can compute there; torch is imported only to look for CUDA."""
    if device == CPU:
        return True
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def require_here(device: str) -> None:
    """Raises InputRejected where this machine has no such device."""
    if not is_here(device):
        raise InputRejected(
            "this release is for a CUDA device and this machine shows none; serve a release for the CPU here, or start it "
            "on a GPU machine (README, GPU machines)"
        )


def open_scorer(model: Path, threads: int = 1, runtime: str = OPENVINO) -> Scorer:
    """The model on its own device, on the CPU by `runtime`.

    Raises:
        InputRejected: the device or the runtime is not here: another release serves on this machine.
    """
    device = device_of(model)
    if device == CPU:
        return _on_cpu(model, threads, runtime)
    require_here(device)
    from tasks.ranker.cuda import CudaScorer

    return CudaScorer.load(model, device)


def _on_cpu(model: Path, threads: int, runtime: str) -> Scorer:
    if runtime == OPENVINO:
        return openvino_scorer(model, threads)
    if runtime != TORCH:
        raise InputRejected(f"this release serves by {runtime!r}; this code knows {', '.join(RUNTIMES)}")
    try:
        return ByLength(TorchScorer.load(model))  # one thread, whatever `threads` says
    except ImportError:
        raise InputRejected(
            "this release serves by torch and this machine has none; install it (README, GPU machines), or package again"
        ) from None


def reference_scorer(model: Path, threads: int = 1) -> Scorer:
    """What a model is judged by: its own graphs or weights, and where its device is not at hand the same arithmetic on the CPU."""
    device = device_of(model)
    if device == CPU:
        return OpenVinoScorer(model, threads)
    from tasks.ranker.cuda import CudaScorer

    return CudaScorer.load(model, device if is_here(device) else CPU)
