"""The whole state of a training run as one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_run(
    path: Path, identity: str, progress: dict[str, Any], module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(kept, draft, {"identity": identity, "progress": json.dumps(progress)})
    draft.replace(path)


def load_run(
    path: Path, identity: str, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Progress of the very run that `identity` names, its weights and moments restored; None where there is none."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        if file.metadata()["identity"] != identity:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    module.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, field = name.split(".", 2)
            state.setdefault(int(number), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return progress
