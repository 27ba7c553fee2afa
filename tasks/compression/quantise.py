"""torch -> OpenVINO graphs, and graphs -> int8 by static calibration with SmoothQuant.

Static scales keep a score independent of its batch mates; dynamic quantisation would not.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.domain.errors import InputRejected
from tasks.ranker.model import Ranker
from tasks.ranker.runtime import is_bf16

Inputs = tuple[NDArray[Any], ...]
NAMES = {"base": ("x", "item_vec"), "full": ("x", "item_vec", "tokens", "mask")}
# single-number outputs: nothing to win, and rounding them is rounding the score
KEPT_EXACT = (".*skip.*", ".*base_out.*", ".*delta.3.*")
SMOOTH = 0.95  # of each activation's spread moved into the weights; .5 drifted three times as far on MiniLM


class _Base(nn.Module):
    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, item_vec: Tensor) -> Tensor:
        return self.model.base(x, item_vec)


class _Full(nn.Module):
    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, item_vec: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.model.full(x, item_vec, tokens, mask)


def stage_of(model: Ranker, stage: str) -> nn.Module:
    """One stage as a module of its own, inputs as in NAMES."""
    return {"base": _Base, "full": _Full}[stage](model.eval())


def to_openvino(model: Ranker, stage: str, example: Inputs) -> Any:
    """The graph of one stage, for any number of rows."""
    return converted(stage_of(model, stage), stage, example)


def converted(module: nn.Module, stage: str, example: Inputs) -> Any:
    """The graph of a module that takes what the stage takes."""
    import openvino

    with torch.inference_mode():
        graph = openvino.convert_model(module, example_input=tuple(torch.from_numpy(part) for part in example))
    for port, name, part in zip(graph.inputs, NAMES[stage], example, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape([-1, *part.shape[1:]]))
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    return graph


def to_int8(graph: Any, calibration: Sequence[Inputs], exact: Iterable[str] = KEPT_EXACT) -> Any:
    """The graph with int8 matrix products; scales come from `calibration` and never change again.

    Raises:
        InputRejected: a calibration row is not finite. Its scales would be, and hide it.
    """
    import nncf

    for n, inputs in enumerate(calibration):
        if not all(np.isfinite(part).all() for part in inputs):
            raise InputRejected(f"calibration sample {n} of {len(calibration)} holds a number that is not finite")

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars know no other switch
        return quantised(graph, calibration, exact)


def quantised(graph: Any, calibration: Sequence[Any], exact: Iterable[str] = KEPT_EXACT) -> Any:
    """NNCF with SmoothQuant, of whatever kind of model it knows; its samples are not looked at."""
    import nncf

    return nncf.quantize(
        graph,
        nncf.Dataset(list(calibration)),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(patterns=list(exact), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH)
        ),
    )


def save_graph(graph: Any, path: Path) -> None:
    """A graph marked for bf16 keeps its weights in two bytes: fp16 holds them more finely than the products will.

    The converters name nodes by a count of all that this process ever made. Here they are named by their place: the same
    weights are the same file, whatever was converted before.
    """
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    graph.set_friendly_name(path.stem)
    for place, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
    openvino.save_model(graph, path, compress_to_fp16=is_bf16(graph))
