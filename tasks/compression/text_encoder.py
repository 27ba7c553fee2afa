"""The query encoder: MiniLM in int8, its drift from the original measured. Made once for an encoder, then cached.

One that drifts too far stays as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tasks.compression.quantise import save_graph, to_int8
from tasks.ranker.text import MAX_WORDS, QueryEncoder, convert_encoder, encoder_digest, encoder_folder

DRIFT_TEXTS = 200
# mean cosine with the original: static int8 with SmoothQuant has .998, what loses 5 % of NDCG@10 has .95
KEPT_COSINE = 0.98
PARTS = ("encoder.xml", "encoder.bin", "tokenizer.json", "config.json")


def query_encoder(texts: list[str], calibration: int, cache: Path, out: Path) -> dict[str, Any]:
    """Write the int8 encoder and its tokenizer under `out`; returns how far it drifts from the original.

    Args:
        texts: item texts; every other one calibrates, the rest measure the drift.
    """
    folder = cache / "text" / encoder_digest()[:16] / f"int8-{calibration}"
    if not (folder / "config.json").exists():
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _make(texts, calibration, cache, draft)
        try:
            draft.rename(folder)
        except OSError:  # another run was first
            shutil.rmtree(draft)
    out.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        shutil.copyfile(folder / name, out / name)
    facts: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return facts


def _make(texts: list[str], calibration: int, cache: Path, draft: Path) -> None:
    import openvino

    chosen = [texts[n] for n in np.unique(np.linspace(0, len(texts) - 1, 2 * calibration).astype(int))]
    learn, check = chosen[::2], chosen[1::2][:DRIFT_TEXTS]
    original = convert_encoder(cache)
    shutil.copyfile(encoder_folder() / "tokenizer.json", draft / "tokenizer.json")
    shutil.copyfile(original, draft / "encoder.xml")
    shutil.copyfile(original.with_suffix(".bin"), draft / "encoder.bin")
    exact = QueryEncoder(draft)
    before = np.stack([exact.encode(text) for text in check])
    samples = [exact.words(text) for text in learn]
    del exact
    graph = to_int8(openvino.Core().read_model(original), samples, exact=())
    save_graph(graph, draft / "encoder.xml")
    small = QueryEncoder(draft)
    after = np.stack([small.encode(text) for text in check])
    cosine = (before * after).sum(1)
    del small
    refused = float(cosine.mean()) < KEPT_COSINE
    if refused:
        for suffix in (".xml", ".bin"):
            shutil.copyfile(original.with_suffix(suffix), draft / f"encoder{suffix}")
    facts = {
        "precision": "fp32" if refused else "int8",
        "encoder": encoder_digest(),
        "max_words": MAX_WORDS,
        "calibration_texts": len(learn),
        "drift_texts": len(check),
        "mean_cosine": round(float(cosine.mean()), 5),
        "least_cosine": round(float(cosine.min()), 5),
        "top_10_overlap": round(_overlap(before, after), 4),
        "bytes": (draft / "encoder.bin").stat().st_size,
        "original_bytes": original.with_suffix(".bin").stat().st_size,
    }
    (draft / "config.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def _overlap(before: Any, after: Any) -> float:
    """Share of each text's ten nearest (by the original vectors) that the small encoder finds for it as a query."""
    k = min(10, len(before) - 1)
    if k < 1:
        return 1.0
    exact = np.argsort(-(before @ before.T), axis=1)[:, 1 : k + 1]
    small = np.argsort(-(after @ before.T), axis=1)
    own = np.arange(len(before))[:, None]
    kept = small[small != own].reshape(len(before), -1)[:, :k]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(exact.tolist(), kept.tolist(), strict=True)]))
