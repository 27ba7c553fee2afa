"""Scorers: the trained network behind one small interface, in OpenVINO for serving and in torch for everything else.

The serving path imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.features import FEATURES
from tasks.ranker.fitted import Inputs
from tasks.ranker.knowledge import KNOWLEDGE
from tasks.ranker.tokens import MAX_TOKENS, TOKEN

if TYPE_CHECKING:
    from tasks.ranker.model import Ranker
    from tasks.ranker.trees import Member

# batch sizes are rounded up to one of these: a new shape costs OpenVINO a compilation
BASE_SIZES = (16, 64, 100, 128, 256, 512, 1_000)
FULL_SIZES = (16, 64, 100, 150)
PARENT = "parent.safetensors"  # the unquantised weights, kept beside every variant
TREES = (
    "trees.json"  # LightGBM's own text, where the recipe asks for trees, in a file of a kind that a release may hold
)
BLEND = "blend.json"  # how they are mixed in


class Scorer(Protocol):
    """Scores candidates one by one: no score depends on the other rows of a call."""

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        """Stage 1, [n]: features and text of every candidate."""

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        """Stage 2, [n]: the base score and what the history transformer adds to it."""


def read_config(directory: Path) -> dict[str, Any]:
    """The model's config.json. Raises InputRejected where its features are not the ones this code makes."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_bytes())
    known = config["features"] in (list(FEATURES), list(FEATURES + KNOWLEDGE))
    if not known or config["token"] != list(TOKEN) or config["max_tokens"] != MAX_TOKENS:
        raise InputRejected(
            f"{directory} was trained on other features than this code makes; serve it with the code of its release, "
            f"or train anew"
        )
    return config


def inputs_of(config: dict[str, Any]) -> Inputs:
    """How this model's features are completed; a release from before there were optional features says nothing."""
    return Inputs(**config["inputs"]) if "inputs" in config else Inputs()


def compiled(path: Path, threads: int | None, *, exact: bool = True) -> Any:
    """An OpenVINO model on the CPU. `exact` keeps fp32 between the layers also where bf16 would be faster."""
    from openvino import Core  # heavy: only who runs a model pays for it

    return compiled_model(Core().read_model(path), threads, exact=exact)


def compiled_model(model: Any, threads: int | None, *, exact: bool = True) -> Any:
    """The same of a model in memory."""
    from openvino import Core

    core = Core()
    options: dict[str, Any] = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    if exact:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    # On a thread of its own: the CPU plugin gives the calling thread a signal stack that holds one signal on a CPU with
    # AMX. On the main thread a second signal at the same time (a child's end during SIGTERM) killed the process.
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(lambda: core.compile_model(model, "CPU", options)).result()


class OpenVinoScorer:
    """The released model. One inference thread a process by default: replicas, not threads, use the cores."""

    def __init__(self, directory: Path, threads: int = 1) -> None:
        self._inputs = inputs_of(read_config(directory))
        self._trees = trees_in(directory)
        self._base = compiled(directory / "base.xml", threads).create_infer_request()
        self._full = compiled(directory / "full.xml", threads).create_infer_request()

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return _padded(self._base, BASE_SIZES, self._inputs.complete(x), item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        scores = _padded(self._full, FULL_SIZES, self._inputs.complete(x), item_vec, tokens, mask)
        return self._trees.added_to(scores, x) if self._trees else scores


def trees_in(directory: Path) -> Member | None:
    """The trees of a model directory; LightGBM is imported only where there are any."""
    if not (directory / TREES).exists():
        return None
    from tasks.ranker.trees import Member

    return Member.load(directory)


def _padded(request: Any, sizes: tuple[int, ...], *inputs: Floats) -> Floats:
    n, largest = len(inputs[0]), sizes[-1]
    if n > largest:
        parts = [_padded(request, sizes, *(a[i : i + largest] for a in inputs)) for i in range(0, n, largest)]
        return np.concatenate(parts)
    size = next(size for size in sizes if size >= n)
    if size > n:
        inputs = tuple(np.concatenate([a, np.zeros((size - n, *a.shape[1:]), np.float32)]) for a in inputs)
    request.infer([np.ascontiguousarray(a) for a in inputs], share_inputs=True)
    return np.array(request.get_output_tensor(0).data[:n], np.float32).reshape(n)


class TorchScorer:
    """The fp32 parent, for evaluation and as the reference of every compressed variant."""

    def __init__(self, model: Ranker, inputs: Inputs, trees: Member | None = None) -> None:
        self._model, self._inputs, self._trees = model, inputs, trees

    @classmethod
    def load(cls, directory: Path, *, zeroed: bool = False) -> TorchScorer:
        """zeroed: with the text and history transformers silent."""
        import torch

        from tasks.ranker.model import load_model

        torch.set_num_threads(1)  # single slates: more threads only wait for each other
        return cls(load_model(directory, zeroed=zeroed), inputs_of(read_config(directory)), trees_in(directory))

    def moved(self, device: str) -> TorchScorer:
        """Itself, with its weights on another device; inputs and scores stay numpy."""
        self._model.to(device)
        return self

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        from tasks.ranker.model import as_numpy

        return as_numpy(self._model, "base", self._inputs.complete(x), item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        from tasks.ranker.model import as_numpy

        scores = as_numpy(self._model, "full", self._inputs.complete(x), item_vec, tokens, mask)
        return self._trees.added_to(scores, x) if self._trees else scores
