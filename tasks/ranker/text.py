"""Item and query texts -> 384 numbers by MiniLM: torch builds and fills a cache, serving encodes by OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.ranker.arrays import Floats

WIDTH = 384


class QueryEncoder:
    """Encodes queries in the service, without torch or transformers: tokenizer.json and an OpenVINO model."""

    def __init__(self, directory: Path, threads: int = 1) -> None:
        from openvino import Core
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_WORDS)
        core = Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        model = core.compile_model(core.read_model(directory / "encoder.xml"), "CPU", options)
        self._request = model.create_infer_request()

    def encode(self, text: str) -> Floats:
        """[384], unit length."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        self._request.infer([ids, np.ones_like(ids)])
        return np.array(self._request.get_output_tensor(0).data[0], np.float32)


MAX_WORDS = 64  # word pieces; item texts have about 15
