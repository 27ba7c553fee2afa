"""The trained search ranker -> what serves: both encoders as OpenVINO graphs in int8, the rest as it is."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.compression.quantise import save_graph, to_int8
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Search
from tasks.ranker.arrays import Floats
from tasks.ranker.search.documents import DOCUMENTS, load_documents
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder
from tasks.ranker.search.fit import ENCODER
from tasks.ranker.search.past import PAST
from tasks.ranker.search.ranker import CONFIG, HEAD, TREES, VECTORS
from tasks.ranker.text import QueryEncoder

KEPT = (CONFIG, DOCUMENTS, HEAD, VECTORS, PAST, TREES)


def export_search(trained: Path, plan: Search, calibration: int, out: Path) -> dict[str, Any]:
    """Write the directory that `tasks.ranker.search.ranker.SearchRanker` opens; how far each encoder drifts in int8.

    Args:
        trained: as fit_search left it.
        calibration: item texts that set the scales of int8; as many others measure the drift.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (trained / name).exists():  # past and trees are by recipe
            shutil.copyfile(trained / name, out / name)
    texts = [text for text in load_documents(trained / DOCUMENTS).written if text]
    chosen = [texts[n] for n in np.unique(np.linspace(0, len(texts) - 1, 2 * calibration).astype(int))] if texts else []
    facts: dict[str, Any] = {}
    for name, folder in (("base", base_encoder(plan.encoder)), ("tuned", trained / ENCODER)):
        facts[f"search_{name}_mean_cosine"] = _export(folder, chosen, plan.query_tokens, out / name)
    return facts


def _export(folder: Path, texts: list[str], most: int, out: Path) -> float:
    """Mean cosine between the encoder and its int8 graph, on texts that did not calibrate it."""
    if len(texts) < 2:
        raise InputRejected(f"the catalogue holds {len(texts)} items with a text; int8 cannot be calibrated on that")
    encoder = SentenceEncoder(folder)
    learn, check = texts[::2], texts[1::2]
    export_encoder(encoder, encoder.tokenizer, [], out)
    before = _encoded(out, check, most)
    export_encoder(encoder, encoder.tokenizer, encoder.words(learn, most), out)
    return float(np.mean((before * _encoded(out, check, most)).sum(1)))


def _encoded(folder: Path, texts: Sequence[str], most: int) -> Floats:
    """[texts, width]; the graph is let go again, for its file may be written anew."""
    encoder = QueryEncoder(folder, most=most)
    return np.stack([encoder.encode(text) for text in texts])


def export_encoder(module: torch.nn.Module, tokenizer: Any, calibration: Sequence[Sequence[int]], out: Path) -> None:
    """encoder.xml of a module (ids, mask) -> vectors, and tokenizer.json; in int8 where there are texts to calibrate on."""
    import openvino

    out.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
    example = torch.ones(2, 8, dtype=torch.int64)
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):  # tracing speaks of every Python branch
        graph = openvino.convert_model(module.eval(), example_input=(example, example))
    for port, name in zip(graph.inputs, ("ids", "mask"), strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    samples = [(ids := np.array([words], np.int64), np.ones_like(ids)) for words in calibration]
    save_graph(to_int8(graph, samples, exact=()) if samples else graph, out / "encoder.xml")
