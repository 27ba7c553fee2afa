"""The state of a training run as one safetensors file: written whole or not at all, read only by the run that wrote it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.atomic import drafted, remove_dead_drafts

log = logging.getLogger("freshrank.finetune")


def save(path: Path, identity: str, tensors: dict[str, Tensor], told: dict[str, Any]) -> None:
    """Replace the checkpoint. Whatever kills us meanwhile, also the machine, leaves this one or the one before."""
    metadata = {"identity": identity, "told": json.dumps(told)}
    with drafted(path) as draft:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft, metadata)


def load(path: Path, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, what was told with them); None without a checkpoint of this very run. Drafts of our dead are removed."""
    remove_dead_drafts(path)  # a second live copy of this run still writes its own
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["identity"] != identity:
                log.info("checkpoint=%s outcome=ignored reason=other-data-recipe-or-seed", path.name)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, KeyError, TypeError) as err:
        log.warning("checkpoint=%s outcome=ignored reason=unreadable why=%s", path.name, err)
        return None
    return tensors, json.loads(metadata["told"])


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
