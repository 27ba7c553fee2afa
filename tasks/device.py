"""What a step computes on, as one line of its log."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

DRIVER = Path("/proc/driver/nvidia/version")


def described(precision: str) -> str:
    """`device=... driver=... precision=... memory_gib=...`; `precision` is the recipe's, which CUDA raises to bf16.

    torch takes seconds to import and is asked only where a driver is there.
    """
    memory = psutil.virtual_memory().total / 2**30
    if not (DRIVER.exists() or os.environ.get("CUDA_VISIBLE_DEVICES")):
        return f"device=cpu driver=none precision={precision} memory_gib={memory:.1f}"
    import torch

    if not torch.cuda.is_available():
        return f"device=cpu driver={_driver()} (no CUDA device) precision={precision} memory_gib={memory:.1f}"
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    return (
        f"device=cuda ({card.name}) driver={_driver()} cuda={torch.version.cuda} precision=bf16 "
        f"memory_gib={card.total_memory / 2**30:.1f}"
    )


def _driver() -> str:
    """`595.42` of the line `NVRM version: NVIDIA UNIX x86_64 Kernel Module  595.42  Tue ...`."""
    try:
        words = DRIVER.read_text().split()
    except OSError:
        return "unknown"
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
