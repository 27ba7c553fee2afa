"""A search training's state in a checkpoint of tasks.ranker.checkpoint: the module, the optimizer's moments, and how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tasks.ranker import checkpoint


def save_run(
    path: Path, identity: str, progress: dict[str, Any], module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, identity, tensors, progress)


def load_run(
    path: Path, identity: str, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Progress of the very run that `identity` names, its weights and moments restored; None where there is none."""
    found = checkpoint.load(path, identity)
    if found is None:
        return None
    tensors, progress = found
    module.load_state_dict(checkpoint.under("model.", tensors))
    state: dict[int, dict[str, Any]] = {}
    for name, value in checkpoint.under("optimizer.", tensors).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return progress
