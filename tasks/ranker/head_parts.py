"""What the network makes of an item's text alone, computed once when a release is loaded instead of in every request.

The graph is cut where the text first meets anything else: before the cut one result for each distinct text, after it the
rest of the head. The same operations run on the same numbers, so scores are those of the whole graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.ranker.arrays import Floats
from tasks.ranker.runtime import OpenVinoScorer, compiled_model, in_bf16, is_bf16
from tasks.ranker.state import ItemState

TEXT = "item_vec"
STAGES = ("base", "full")
CHUNK = 1_000


class PartsScorer:
    """A Scorer that takes, in place of text vectors, what `parts_of` made of them; either may be given."""

    def __init__(self, directory: Path, cuts: dict[str, tuple[Any, Any, int]], threads: int = 1) -> None:
        # with all that it adds to its graphs
        self._rest = OpenVinoScorer(directory, threads, {stage: cuts[stage][1] for stage in STAGES})
        self._parts = [compiled_model(cuts[stage][0], threads).create_infer_request() for stage in STAGES]
        self._widths = [cuts[stage][2] for stage in STAGES]

    def prepare(self) -> None:
        self._rest.prepare()

    def parts_of(self, vectors: Floats) -> Floats:
        """[n, parts of base + parts of full] of text vectors [n, width]."""
        made = [np.zeros((0, sum(self._widths)), np.float32)]
        for n in range(0, len(vectors), CHUNK):
            chunk = np.ascontiguousarray(vectors[n : n + CHUNK])
            made.append(np.concatenate([_inferred(request, chunk) for request in self._parts], axis=1))
        return np.concatenate(made)

    def parts_of_items(self, items: ItemState) -> Floats:
        """One row for each distinct text and, last, that of no text: to be indexed by ItemState.text."""
        return self.parts_of(items.texts(np.arange(len(items.text_vectors) + 1, dtype=np.int32)))

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._rest.base(x, self._cut(item_vec)[:, : self._widths[0]])

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self._rest.full(x, self._cut(item_vec)[:, self._widths[0] :], tokens, mask)

    def _cut(self, item_vec: Floats) -> Floats:
        return item_vec if item_vec.shape[1] == sum(self._widths) else self.parts_of(item_vec)


def openvino_scorer(directory: Path, threads: int = 1) -> OpenVinoScorer | PartsScorer:
    """The released model with its text part computed beforehand, where its graphs have such a part."""
    cuts = {stage: cut_at_text(directory / f"{stage}.xml") for stage in STAGES}
    found = {stage: cut for stage, cut in cuts.items() if cut is not None}
    return PartsScorer(directory, found, threads) if len(found) == len(STAGES) else OpenVinoScorer(directory, threads)


def cut_at_text(path: Path) -> tuple[Any, Any, int] | None:
    """(the graph from the text to the cut, the graph from there on, width of the cut); None where there is no such cut."""
    from openvino import Core, Model
    from openvino import opset13 as op

    model = Core().read_model(path)
    sees: dict[str, set[str]] = {}  # by node: the inputs that reach it
    for node in model.get_ordered_ops():
        reached = {model_input for port in node.inputs() for model_input in sees[_name(port.get_source_output())]}
        if node.get_type_name() == "Parameter":
            reached = set(node.output(0).get_tensor().get_names())
        sees[node.get_friendly_name()] = reached
    crossing = [
        (port, target)
        for node in model.get_ordered_ops()
        if sees[node.get_friendly_name()] == {TEXT}
        for port in node.outputs()
        for target in port.get_target_inputs()
        if sees[target.get_node().get_friendly_name()] - {TEXT}
    ]
    sources = {_name(port) for port, _ in crossing}
    shape = crossing[0][0].get_partial_shape() if crossing else None
    if len(sources) != 1 or shape is None or shape.rank.get_length() != 2 or shape[1].is_dynamic:
        return None
    source, width = crossing[0][0], shape[1].get_length()
    text = next(one for one in model.get_parameters() if TEXT in one.output(0).get_tensor().get_names())
    entry = op.parameter([-1, width], np.float32, name="text_part")
    for port, target in crossing:
        assert _name(port) == _name(source)
        target.replace_source_output(entry.output(0))
    others = [entry if one is text else one for one in model.get_parameters()]
    parts = Model([source], [text], "text"), Model(model.get_results(), _ordered(others, entry), path.stem)
    before, after = map(in_bf16, parts) if is_bf16(model) else parts
    return before, after, width


def _ordered(parameters: list[Any], entry: Any) -> list[Any]:
    """In the order in which a scorer feeds them: x, the text part, then the rest as it was."""
    x = [one for one in parameters if "x" in one.output(0).get_tensor().get_names()]
    return [*x, entry, *(one for one in parameters if one is not entry and one not in x)]


def _inferred(request: Any, vectors: Floats) -> Floats:
    request.infer([vectors])
    return np.array(request.get_output_tensor(0).data, np.float32)


def _name(port: Any) -> str:
    return str(port.get_node().get_friendly_name())
