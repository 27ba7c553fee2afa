"""What a team would write from the tutorials: two stock BentoML services that answer the requests of benchmarks/serving.py.

    SERVING_BENCH=FILE python -m bentoml serve benchmarks._stock_services:SameModel     (serving.py starts and stops them)

FILE is JSON: release (directory), view, secrets, texts (JSON: item id -> text). Nothing of tasks/serving is used.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import bentoml
import numpy as np

with suppress(ImportError):  # counts no GPUs where the lock has no NVIDIA package: else `bentoml serve` does not start
    import bentos.ranker.service  # noqa: F401

TOLD: dict[str, Any] = (
    json.loads(Path(os.environ["SERVING_BENCH"]).read_text()) if "SERVING_BENCH" in os.environ else {}
)
LAST_PURCHASES = 10  # texts of these are the query


class _Shop:
    """What both need: the catalogue's rows, and the users' histories from the snapshot."""

    def __init__(self) -> None:
        from tasks.ranker.state import ItemState, View

        self.items = ItemState.load(Path(TOLD["release"]) / "items")
        self.view = View(Path(TOLD["view"]))
        self.key = bytes.fromhex(json.loads(Path(TOLD["secrets"]).read_text())["pseudonym_key"])

    def history(self, user_id: str) -> Any:
        from tasks.domain.behaviour import pseudonym

        return self.view.get(pseudonym(user_id, self.key))


class _PlainScorer:
    """The two graphs as they were saved, for any number of rows: what OpenVINO's tutorial does."""

    def __init__(self, model: Path) -> None:
        from tasks.ranker.runtime import compiled, inputs_of, read_config

        self._inputs = inputs_of(read_config(model))
        self._base, self._full = (
            compiled(model / f"{stage}.xml", 1).create_infer_request() for stage in ("base", "full")
        )

    def base(self, x: Any, item_vec: Any) -> Any:
        return self._scores(self._base, self._inputs.complete(x), item_vec)

    def full(self, x: Any, item_vec: Any, tokens: Any, mask: Any) -> Any:
        return self._scores(self._full, self._inputs.complete(x), item_vec, tokens, mask)

    def _scores(self, request: Any, *inputs: Any) -> Any:
        request.infer([np.ascontiguousarray(one) for one in inputs], share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32).reshape(-1)


@bentoml.service(name="same_model", workers=1)
class SameModel:
    """The released model in the same runtime, one thread, called for each request."""

    def __init__(self) -> None:
        self.shop = _Shop()
        self.scorer = _PlainScorer(Path(TOLD["release"]) / "model")

    @bentoml.api
    def rank(self, surface: str, user_id: str, candidates: list[str], k: int = 100) -> dict[str, Any]:
        from tasks.ranker.rank import rank

        items = self.shop.items
        ranking = rank(self.scorer, items, self.shop.history(user_id), items.rows(candidates))
        ordered = zip(ranking.order.tolist(), ranking.scores.tolist(), strict=True)
        return {"items": [{"item_id": candidates[place], "score": score} for place, score in ordered][:k]}


@bentoml.service(name="transformers_fp32", workers=1)
class Transformers:
    """MiniLM in transformers, fp32: what the user bought last against the text of each candidate, by cosine."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        from tasks.ranker.text import encoder_folder, load_encoder

        self.shop = _Shop()
        self.texts: dict[str, str] = json.loads(Path(TOLD["texts"]).read_text())
        self.encoder = load_encoder(encoder_folder())
        self.tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
        self.tokenizer.enable_truncation(64)
        self.tokenizer.enable_padding()

    @bentoml.api
    def rank(self, surface: str, user_id: str, candidates: list[str], k: int = 100) -> dict[str, Any]:
        import torch

        history = self.shop.history(user_id)
        bought = [self.shop.items.ids[row] for row in history.rows[-LAST_PURCHASES:]] if history else []
        query = " ".join(self.texts.get(item, "") for item in bought) or "groceries"
        words = self.tokenizer.encode_batch([query, *(self.texts.get(item, "item") or "item" for item in candidates)])
        with torch.inference_mode():
            vectors = self.encoder(
                torch.tensor([word.ids for word in words]), torch.tensor([word.attention_mask for word in words])
            ).numpy()
        scores = vectors[1:] @ vectors[0]
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        return {"items": [{"item_id": candidates[place], "score": float(scores[place])} for place in order]}
