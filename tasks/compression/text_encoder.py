"""The query encoder: MiniLM in int8, its drift from the original measured. Made once for an encoder, then cached.

Where int8 drifts too far the graph is run in bf16, and where that does too it stays as it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tasks.atomic import drafted_folder
from tasks.compression.quantise import save_graph, to_int8
from tasks.copies import in_use
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record, digest_of
from tasks.ranker.arrays import Floats
from tasks.ranker.runtime import in_bf16
from tasks.ranker.text import MAX_WORDS, QueryEncoder, convert_encoder, encoder_digest, encoder_folder

log = logging.getLogger("freshrank.compress")
DRIFT_TEXTS = 200
# mean cosine with the original: ours in int8 has .998; torch's dynamic int8, which loses 2.5 % of NDCG@10, .94; static scales from
# the extremes seen, which lose 6 %, .85 (benchmarks/compression.py)
KEPT_COSINE = 0.98
PARTS = ("encoder.xml", "encoder.bin", "tokenizer.json", "config.json")


class Drift(Record):
    """How far vectors lie from the original's, text by text."""

    mean_cosine: float
    least_cosine: float
    top_10_overlap: float

    @property
    def too_far(self) -> bool:
        return self.mean_cosine < KEPT_COSINE


def drift(before: Floats, after: Floats) -> Drift:
    """before, after: [texts, width], unit length."""
    cosine = np.nan_to_num((before * after).sum(1), nan=-1.0)  # what is not a number is as far as can be
    return Drift(
        mean_cosine=round(float(cosine.mean()), 5),
        least_cosine=round(float(cosine.min()), 5),
        top_10_overlap=round(_overlap(before, after), 4),
    )


def query_encoder(texts: list[str], calibration: int, cache: Path, out: Path) -> dict[str, Any]:
    """Write the int8 encoder and its tokenizer under `out`; returns how far it drifts from the original.

    Args:
        texts: item texts; of a few, every other one calibrates, and the rest measure the drift.
    """
    few = chosen(texts, 2 * calibration)
    folder = cache / "text" / encoder_digest()[:16] / f"int8-{_made_of(few)}"
    if not in_use(folder / "config.json", cache / "text"):
        with drafted_folder(folder) as draft:
            _make(few, cache, draft)
    out.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        shutil.copyfile(folder / name, out / name)
    facts: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return facts


def chosen(texts: Iterable[str], many: int) -> list[str]:
    """The `many` texts of the smallest digests: an item that comes or goes changes one of them at most."""
    return sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())[:many]


def _made_of(few: list[str]) -> str:
    """Of all that decides the graph beside the encoder, so that another machine makes the same, and not what came first here."""
    tools = [f"{package} {version(package)}" for package in ("openvino", "nncf")]
    return digest_of([few, tools, Path(__file__).read_text(), Path(__file__).with_name("quantise.py").read_text()])[:24]


def _make(few: list[str], cache: Path, draft: Path) -> None:
    import openvino

    learn, check = few[::2], few[1::2][:DRIFT_TEXTS]
    original = convert_encoder(cache)
    shutil.copyfile(encoder_folder() / "tokenizer.json", draft / "tokenizer.json")
    for suffix in (".xml", ".bin"):
        shutil.copyfile(original.with_suffix(suffix), draft / f"encoder{suffix}")
    exact = QueryEncoder(draft)
    before = np.stack([exact.encode(text) for text in check])
    samples = [exact.words(text) for text in learn]
    del exact
    ways: dict[str, Callable[[Any], Any]] = {
        "int8": lambda graph: to_int8(graph, samples, exact=()),
        "bf16": in_bf16,
        "fp32": lambda graph: graph,
    }
    refused: dict[str, str] = {}
    for precision, convert in ways.items():
        try:
            save_graph(convert(openvino.Core().read_model(original)), draft / "encoder.xml")
            small = QueryEncoder(draft)
        except Exception as err:  # converters and runtimes raise what they like; the next way needs less of them
            refused[precision] = f"could not be made or loaded here: {err}".splitlines()[0]
        else:
            told = drift(before, np.stack([small.encode(text) for text in check]))
            if not told.too_far:
                break
            refused[precision] = (
                f"mean cosine {told.mean_cosine:.4f} with the original, at least {KEPT_COSINE} is asked"
            )
            del small
        log.warning("query encoder in %s refused: %s", precision, refused[precision])
    else:
        raise InputRejected(f"the query encoder cannot be run here ({refused}); `freshrank doctor` checks openvino")
    facts = {
        "precision": precision,
        "refused": refused,
        "encoder": encoder_digest(),
        "max_words": MAX_WORDS,
        "calibration_texts": len(learn),
        "drift_texts": len(check),
        **told.model_dump(),
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
