"""Scorers: the trained network behind one small interface, in OpenVINO for serving and in torch for everything else.

The serving path imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats
from tasks.ranker.features import FEATURES
from tasks.ranker.fitted import Inputs
from tasks.ranker.knowledge import KNOWLEDGE
from tasks.ranker.tokens import MAX_TOKENS, TOKEN

if TYPE_CHECKING:
    from tasks.ranker.model import Ranker
    from tasks.ranker.trees import Member

# The shapes that graphs are compiled for, (rows, tokens of each): kernels for a fixed shape take a quarter less time, and
# no request meets a shape that is new. Half of all candidates have at most two tokens: padded to 20 they took three times as long.
BASE_SHAPES = ((128, 0),)
FULL_SHAPES = ((64, 4), (32, 10), (48, MAX_TOKENS))
PRECISION = ["freshrank", "precision"]  # where a graph's file says what it was made for
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


@runtime_checkable
class Prepares(Protocol):
    """A scorer that compiles something."""

    def prepare(self) -> None:
        """Compile it now, not in the first request that needs it."""


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


def in_bf16(model: Any) -> Any:
    """The same graph, marked: whoever compiles it multiplies in bf16, where the CPU can."""
    model.set_rt_info("bf16", PRECISION)
    return model


def is_bf16(model: Any) -> bool:
    return bool(model.has_rt_info(PRECISION) and model.get_rt_info(PRECISION).astype(str) == "bf16")


def compiled(path: Path, threads: int | None, *, exact: bool = True) -> Any:
    """An OpenVINO model on the CPU. `exact` keeps fp32 between the layers also where bf16 would be faster.

    A graph that is marked as made for bf16 is run so in any case.
    """
    from openvino import Core  # heavy: only who runs a model pays for it

    return compiled_model(Core().read_model(path), threads, exact=exact)


def compiled_model(model: Any, threads: int | None, *, exact: bool = True) -> Any:
    """The same of a model in memory."""
    from openvino import Core

    core = Core()
    options: dict[str, Any] = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    if is_bf16(model):
        options["INFERENCE_PRECISION_HINT"] = "bf16"
    elif exact:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    # On a thread of its own: the CPU plugin gives the calling thread a signal stack that holds one signal on a CPU with
    # AMX. On the main thread a second signal at the same time (a child's end during SIGTERM) killed the process.
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(lambda: core.compile_model(model, "CPU", options)).result()


class FixedGraph:
    """A graph compiled for one shape, with input buffers that are filled anew in each call. Used by one thread."""

    def __init__(self, model: Any, rows: int, length: int, threads: int | None) -> None:
        from openvino import Tensor

        self.rows, self.length = rows, length
        graph = model.clone()
        shapes = [[rows, *(side.get_length() for side in list(one.get_partial_shape())[1:])] for one in graph.inputs]
        for shape in shapes[2:]:  # tokens and mask
            shape[1] = length
        graph.reshape(dict(enumerate(shapes)))
        self._request = compiled_model(graph, threads).create_infer_request()
        self._buffers = [np.zeros(shape, np.float32) for shape in shapes]
        for n, buffer in enumerate(self._buffers):
            self._request.set_input_tensor(n, Tensor(buffer, shared_memory=True))

    def scores(self, inputs: Sequence[Floats], at: NDArray[np.intp]) -> Floats:
        """Of the rows `at`, at most `rows` of them. What a shorter call leaves in the buffers reaches no score."""
        count = 0
        for buffer, part in zip(self._buffers, inputs, strict=True):
            wanted = part[at] if part.ndim == 2 and part.shape[1] == buffer.shape[1] else part[at, : self.length]
            count = len(wanted)
            buffer[:count] = wanted
        self._request.infer()
        return np.array(self._request.get_output_tensor(0).data, np.float32).reshape(-1)[:count]


class OpenVinoScorer:
    """The released model. One inference thread a process by default: replicas, not threads, use the cores."""

    def __init__(self, directory: Path, threads: int = 1, graphs: Mapping[str, Any] | None = None) -> None:
        """graphs: of the stages `base` and `full`, where they are not to be read from the directory."""
        from openvino import Core

        self._inputs = inputs_of(read_config(directory))
        self._trees = trees_in(directory)
        self._threads = threads
        self._graphs = graphs or {stage: Core().read_model(directory / f"{stage}.xml") for stage in ("base", "full")}
        self._fixed: dict[tuple[str, tuple[int, int]], FixedGraph] = {}

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        inputs = (self._inputs.complete(x), item_vec)
        return self._scores("base", BASE_SHAPES, inputs, np.zeros(len(x), np.intp))

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        inputs = (self._inputs.complete(x), item_vec, tokens, mask)
        scores = self._scores("full", FULL_SHAPES, inputs, mask.sum(1).astype(np.intp))
        return self._trees.added_to(scores, x) if self._trees else scores

    def prepare(self) -> None:
        """Compile every shape now, not in the first request that needs it."""
        for stage, shapes in (("base", BASE_SHAPES), ("full", FULL_SHAPES)):
            for shape in shapes:
                self._graph(stage, shape)

    def _scores(
        self, stage: str, shapes: Sequence[tuple[int, int]], inputs: Sequence[Floats], lengths: NDArray[np.intp]
    ) -> Floats:
        scores = np.empty(len(lengths), np.float32)
        for shape, at in cut_by_length(lengths, shapes):
            scores[at] = self._graph(stage, shape).scores(inputs, at)
        return scores

    def _graph(self, stage: str, shape: tuple[int, int]) -> FixedGraph:
        key = (stage, shape)
        if key not in self._fixed:
            self._fixed[key] = FixedGraph(self._graphs[stage], *shape, self._threads)
        return self._fixed[key]


def cut_by_length(
    lengths: NDArray[np.intp], shapes: Sequence[tuple[int, int]]
) -> list[tuple[tuple[int, int], NDArray[np.intp]]]:
    """Rows by the shape that each is run in, in as few calls of short shapes as will do.

    Args:
        lengths: tokens of each row. shapes: (rows, tokens), the fewest tokens first.

    What is left over of a shape goes with the next longer one where that has room to spare.
    """
    order = np.argsort(lengths, kind="stable")
    ends = np.searchsorted(lengths[order], [length for _, length in shapes], side="right")
    counts = np.diff(ends, prepend=0).tolist()
    for n, (rows, _) in enumerate(shapes[:-1]):
        over = counts[n] % rows
        if over <= -counts[n + 1] % shapes[n + 1][0]:
            counts[n], counts[n + 1] = counts[n] - over, counts[n + 1] + over
    calls, begin = [], 0
    for shape, count in zip(shapes, counts, strict=True):
        end = begin + count
        calls += [(shape, order[at : min(at + shape[0], end)]) for at in range(begin, end, shape[0])]
        begin = end
    return calls


def trees_in(directory: Path) -> Member | None:
    """The trees of a model directory; LightGBM is imported only where there are any."""
    if not (directory / TREES).exists():
        return None
    from tasks.ranker.trees import Member

    return Member.load(directory)


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

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        from tasks.ranker.model import as_numpy

        return as_numpy(self._model, "base", self._inputs.complete(x), item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        from tasks.ranker.model import as_numpy

        scores = as_numpy(self._model, "full", self._inputs.complete(x), item_vec, tokens, mask)
        return self._trees.added_to(scores, x) if self._trees else scores
