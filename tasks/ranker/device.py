"""Where a released model computes: OpenVINO on the CPU, or torch on a CUDA device where its config.json says so."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.domain.errors import InputRejected
from tasks.ranker.head_parts import openvino_scorer
from tasks.ranker.runtime import Scorer, TorchScorer

CPU, CUDA = "cpu", "cuda"


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


def open_scorer(model: Path, threads: int = 1) -> Scorer:
    """The model on its own device. Raises InputRejected where there is none: another release serves on this machine."""
    device = device_of(model)
    if device == CPU:
        return openvino_scorer(model, threads)
    if not is_here(device):
        raise InputRejected(
            "this release is for a CUDA device and this machine shows none; serve a release for the CPU here, or start it "
            "on a GPU machine (README, GPU machines)"
        )
    return TorchScorer.load(model).moved(device)


def reference_scorer(model: Path) -> Scorer:
    """What the model answers where its device is not at hand: the unquantised weights on the CPU."""
    return open_scorer(model) if is_here(device_of(model)) else TorchScorer.load(model)
