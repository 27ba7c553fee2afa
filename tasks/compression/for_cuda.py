"""The variants for a CUDA device: the fp32 parent, or its products in bf16. Smaller numbers are made for CPUs alone."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from tasks.domain.errors import InputRejected
from tasks.ranker.cuda import PRECISION, WEIGHTS, in_half
from tasks.ranker.device import CUDA
from tasks.ranker.model import load_model

TOLD = {
    "fp32": "the parent's weights in fp32 on a CUDA device",
    "bf16": "products in bf16 on a CUDA device, weights in two bytes, scores summed in fp32",
}


def make_for_cuda(name: str, parent: Path, out: Path) -> str:
    """Write the device's weights and a config.json that asks for the device; returns a sentence about what was done.

    Raises:
        InputRejected: this variant is for CPUs only.
    """
    if name not in TOLD:
        raise InputRejected(f"{name} is made for CPUs; a release for a CUDA device is one of {', '.join(TOLD)}")
    model = load_model(parent)
    if name == "bf16":
        in_half(model)
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / WEIGHTS)
    config = json.loads((parent / "config.json").read_bytes()) | {"device": CUDA, PRECISION: name}
    (out / "config.json").write_text(json.dumps(config, sort_keys=True))
    return TOLD[name]
