"""The released network on a CUDA device: one shape a stage, recorded as a CUDA graph before the first request.

One shape and not several (ADR 34): a kernel for other sizes may sum bf16 products in another order, and a score would depend on
the rows beside it. On a CPU the same operations run without a graph: so a release is judged where no device is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Network
from tasks.ranker.arrays import Floats
from tasks.ranker.fitted import Inputs
from tasks.ranker.model import Ranker
from tasks.ranker.runtime import inputs_of, read_config, trees_in
from tasks.ranker.text import WIDTH
from tasks.ranker.tokens import MAX_TOKENS, TOKEN_WIDTH

if TYPE_CHECKING:
    from tasks.ranker.trees import Member

WEIGHTS = "cuda.safetensors"  # what the device holds; the unquantised parent lies beside it
PRECISION = "precision"  # of config.json: fp32 or bf16
BASE_ROWS, FULL_ROWS = 256, 160  # of a call; 160 hold all that one request re-scores
WARM_UP = 3  # calls before a graph is recorded: libraries choose their kernels in the first


class Exact(nn.Module):
    """A linear layer that stays in fp32 inside bf16: scores lie closer together than its steps are wide."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.float(), self.weight, self.bias)


def in_half(model: Ranker) -> Ranker:
    """Products in bf16 and their weights in two bytes, except in the layers whose outputs add up to the score."""
    for member in model.members:
        member.base_out, member.skip = Exact(member.base_out), Exact(member.skip)  # type: ignore[assignment]
        member.delta[-1] = Exact(member.delta[-1])  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return model


class FixedStage:
    """One stage at one shape, with input buffers on the device that each call fills anew. Used by one thread."""

    def __init__(self, stage: Callable[..., Tensor], shapes: Sequence[tuple[int, ...]], device: str) -> None:
        self._stage, self.rows = stage, shapes[0][0]
        self._buffers = [torch.zeros(shape, device=device) for shape in shapes]
        self._graph = torch.cuda.CUDAGraph() if device == "cuda" else None
        if self._graph is not None:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.inference_mode(), torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    stage(*self._buffers)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.inference_mode(), torch.cuda.graph(self._graph):
                self._out = stage(*self._buffers)

    def scores(self, inputs: Sequence[Floats]) -> Floats:
        """Of at most `rows` rows. What a shorter call leaves in the buffers reaches no score."""
        count = len(inputs[0])
        with torch.inference_mode():
            for buffer, part in zip(self._buffers, inputs, strict=True):
                buffer[:count].copy_(torch.from_numpy(np.ascontiguousarray(part, np.float32)))
            if self._graph is None:
                self._out = self._stage(*self._buffers)
            else:
                self._graph.replay()
            told: Floats = self._out[:count].float().cpu().numpy()
        return told


class CudaScorer:
    """A Scorer on one device; its inputs and scores are numpy arrays in the host's memory."""

    def __init__(self, model: Ranker, inputs: Inputs, trees: Member | None, device: str) -> None:
        self._model, self._inputs, self._trees, self._device = model.to(device), inputs, trees, device
        self._half = any(weight.dtype == torch.bfloat16 for weight in model.parameters())
        self._stages: dict[str, FixedStage] = {}

    @classmethod
    def load(cls, directory: Path, device: str) -> CudaScorer:
        """The model directory as compress left it for a CUDA device.

        Args:
            device: cuda, or cpu for the same arithmetic without a device.
        """
        config = read_config(directory)
        torch.set_num_threads(1)  # on a CPU: single slates, more threads only wait for each other
        model = Ranker(Network(**config["network"]), len(inputs_of(config).columns))
        if config[PRECISION] == "bf16":
            in_half(model)
        try:
            model.load_state_dict(load_file(directory / WEIGHTS))
        except FileNotFoundError:
            raise InputRejected(f"{directory.name} is for a CUDA device and holds no {WEIGHTS}; run compress") from None
        return cls(model.eval(), inputs_of(config), trees_in(directory), device)

    def prepare(self) -> None:
        """Record both graphs now, not in the first request."""
        for stage in ("base", "full"):
            self._fixed(stage)

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._scores("base", self._inputs.complete(x), item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        padding = ((0, 0), (0, MAX_TOKENS - mask.shape[1]))
        scores = self._scores(
            "full", self._inputs.complete(x), item_vec, np.pad(tokens, (*padding, (0, 0))), np.pad(mask, padding)
        )
        return self._trees.added_to(scores, x) if self._trees else scores

    def _scores(self, stage: str, *inputs: Floats) -> Floats:
        fixed = self._fixed(stage)
        calls = range(0, len(inputs[0]), fixed.rows)
        told = [fixed.scores([part[at : at + fixed.rows] for part in inputs]) for at in calls]
        return np.concatenate([np.zeros(0, np.float32), *told])

    def _fixed(self, stage: str) -> FixedStage:
        if stage not in self._stages:
            rows = {"base": BASE_ROWS, "full": FULL_ROWS}[stage]
            shapes: list[tuple[int, ...]] = [(rows, len(self._inputs.columns)), (rows, WIDTH)]
            if stage == "full":
                shapes += [(rows, MAX_TOKENS, TOKEN_WIDTH), (rows, MAX_TOKENS)]
            self._stages[stage] = FixedStage(self._stage(stage), shapes, self._device)
        return self._stages[stage]

    def _stage(self, name: str) -> Callable[..., Tensor]:
        of_model: Callable[..., Tensor] = getattr(self._model, name)

        def run(*inputs: Tensor) -> Tensor:
            # no cache of casts: its tensors would not outlive the call that a graph records
            with torch.autocast(self._device, torch.bfloat16, enabled=self._half, cache_enabled=False):
                return of_model(*inputs)

        return run
