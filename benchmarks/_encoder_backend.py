"""One text encoder in one process: says on stdout how much CPU each workload took. Runs in our environment or in the peers'.

    python -m benchmarks._encoder_backend NAME FOLDER      then on stdin: a workload's name a line

FOLDER holds workloads.json (rows of word pieces by workload) and is where converted models are kept. After "vectors NAME"
the [n, 384] vectors of that workload's rows lie in FOLDER/BACKEND.NAME.npy.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = Sequence[Sequence[int]]
Encode = Callable[[Rows], Any]
STUDENT = "student"
SENTENCE_BATCH = 32  # what sentence-transformers takes at once, sorted by length


def padded(rows: Rows) -> tuple[Any, Any]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return ids, mask


def sorted_batches(encode: Callable[[Any, Any], Any], size: int = SENTENCE_BATCH) -> Encode:
    def run(rows: Rows) -> Any:
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
        vectors = np.zeros((len(rows), 384), np.float32)
        for at in range(0, len(order), size):
            part = order[at : at + size]
            vectors[part] = encode(*padded([rows[n] for n in part]))
        return vectors

    return run


def as_one(encode: Callable[[Any, Any], Any]) -> Encode:
    """All rows padded to the longest: what one writes first."""
    return lambda rows: encode(*padded(rows))


def mean_pooled(hidden: Any, mask: Any) -> Any:
    weight = mask[..., None].astype(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def torch_eager(
    minilm: Path, kept: Path, dtype: str = "float32", prepare: Callable[[Any], Any] = lambda m: m
) -> Encode:
    import torch
    from transformers import BertModel

    torch.set_num_threads(1)
    model = BertModel.from_pretrained(minilm, add_pooling_layer=False, dtype=getattr(torch, dtype)).eval()
    model = prepare(model)

    def encode(ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            out = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
            return mean_pooled(out.float().numpy(), mask)

    return as_one(encode)


def torch_dynamic_int8(minilm: Path, kept: Path) -> Encode:
    import torch

    def quantise(model: Any) -> Any:
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    return torch_eager(minilm, kept, prepare=quantise)


def torchao_int8(minilm: Path, kept: Path) -> Encode:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def quantise(model: Any) -> Any:
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        return torch.compile(model, dynamic=True)

    return torch_eager(minilm, kept, prepare=quantise)


def openvino(minilm: Path, kept: Path, exact: bool = True) -> Encode:
    from tasks.ranker.runtime import compiled
    from tasks.ranker.text import convert_encoder, encode_rows

    request = compiled(convert_encoder(kept), 1, exact=exact).create_infer_request()
    return lambda rows: encode_rows(request, rows)


def ours(minilm: Path, kept: Path, name: str = "int8") -> Encode:
    from tasks.ranker.runtime import compiled
    from tasks.ranker.text import encode_rows

    request = compiled(kept / name / "encoder.xml", 1).create_infer_request()
    return lambda rows: encode_rows(request, rows)


def sentence_transformers(minilm: Path, kept: Path, backend: str, file: str) -> Encode:
    from sentence_transformers import SentenceTransformer

    home = kept / f"sentence-{backend}"
    arguments: dict[str, Any] = {"file_name": file}
    if backend == "openvino":
        arguments["ov_config"] = {"INFERENCE_NUM_THREADS": "1"}
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        arguments |= {"provider": "CPUExecutionProvider", "session_options": options}
    model = SentenceTransformer(str(home), backend=backend, model_kwargs=arguments, local_files_only=True, device="cpu")

    def encode(ids: Any, mask: Any) -> Any:
        import torch

        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            vectors = model({**features, "token_type_ids": torch.zeros_like(features["input_ids"])})
        return vectors["sentence_embedding"].float().numpy()

    return sorted_batches(encode)


BACKENDS: dict[str, Callable[[Path, Path], Encode]] = {
    "torch fp32": torch_eager,
    "torch bf16": lambda minilm, kept: torch_eager(minilm, kept, "bfloat16"),
    "torch dynamic int8": torch_dynamic_int8,
    "torchao int8, compiled": torchao_int8,
    "OpenVINO fp32": openvino,
    "OpenVINO bf16": lambda minilm, kept: openvino(minilm, kept, exact=False),
    "sentence-transformers ONNX": lambda minilm, kept: sentence_transformers(minilm, kept, "onnx", "model.onnx"),
    "sentence-transformers ONNX int8": lambda minilm, kept: sentence_transformers(
        minilm, kept, "onnx", "model_qint8_avx512_vnni.onnx"
    ),
    "sentence-transformers OpenVINO int8": lambda minilm, kept: sentence_transformers(
        minilm, kept, "openvino", "openvino_model_qint8_quantized.xml"
    ),
    "ONNX Runtime static min-max int8": lambda minilm, kept: sentence_transformers(
        minilm, kept, "onnx", "model_static_min_max.onnx"
    ),
    "ours": ours,
    STUDENT: lambda minilm, kept: ours(minilm, kept, "student"),
}
PEERS = ("torchao int8, compiled", *(name for name in BACKENDS if name.startswith(("sentence-transformers", "ONNX"))))


def main(name: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    told = json.loads((folder / "workloads.json").read_text())
    encode = BACKENDS[name](Path(told["minilm"]), folder)
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, workload = line.strip().partition(" ")
        began = time.process_time()
        vectors = encode(told["small" if name == STUDENT else "rows"][workload])  # it has word pieces of its own
        spent = time.process_time() - began
        if command == "vectors":
            np.save(folder / f"{name}.{workload}.npy", vectors)
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
