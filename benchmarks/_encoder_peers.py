"""The peers' environment and their own exports of MiniLM: built once under a folder, from hashed locks, then kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).parent / "peers" / "encoders.txt"
STATIC, QUANTISED = "model_static_min_max.onnx", "openvino_model_qint8_quantized.xml"
TORCH = "torch==2.13.0"  # without hashes, as the Makefile installs ours (docs/adr/0006)


def python_of_peers(folder: Path) -> Path:
    """The interpreter of an environment that holds sentence-transformers with its backends, and torchao."""
    python = folder / "environment" / "bin" / "python"
    ready = folder / "environment" / ".ready"
    if ready.exists() and ready.read_text() == LOCK.read_text():
        return python
    uv = [str(Path(sys.executable).parent / "uv")]
    subprocess.run([*uv, "venv", "-q", "--clear", "--seed", "--python", sys.executable, python.parents[1]], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=True)
    ready.write_text(LOCK.read_text())
    return python


def export(minilm: Path, texts: list[str], folder: Path) -> None:
    """sentence-transformers' own ways to ONNX and OpenVINO; its static int8 is calibrated on our texts."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from sentence_transformers import (
        SentenceTransformer,
        export_dynamic_quantized_onnx_model,
        export_static_quantized_openvino_model,
    )

    onnx, openvino = folder / "sentence-onnx", folder / "sentence-openvino"
    if not onnx.exists():
        model = SentenceTransformer(str(minilm), backend="onnx", local_files_only=True)
        model.save_pretrained(str(onnx))
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(onnx))
    if not (onnx / "onnx" / STATIC).exists():
        _static_min_max(onnx / "onnx" / "model.onnx", minilm, texts[:: max(1, len(texts) // 64)])
    if not (openvino / "openvino" / QUANTISED).exists():
        calibration = folder / "calibration"
        calibration.mkdir(exist_ok=True)
        (calibration / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        model = SentenceTransformer(str(minilm), backend="openvino", local_files_only=True)
        model.save_pretrained(str(openvino))
        export_static_quantized_openvino_model(
            model,
            quantization_config=None,
            model_name_or_path=str(openvino),
            dataset_name=str(calibration),
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )


def _static_min_max(model: Path, minilm: Path, texts: list[str]) -> None:
    """ONNX Runtime's own way to static int8: quantise-dequantise pairs, scales from the extremes that were seen."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
    from transformers import AutoTokenizer

    class Texts:
        def __init__(self) -> None:
            tokenizer = AutoTokenizer.from_pretrained(minilm)
            names = ("input_ids", "attention_mask", "token_type_ids")
            told = (tokenizer(text, return_tensors="np") for text in texts)
            self.samples = iter([{name: one[name] for name in names} for one in told])

        def get_next(self) -> dict[str, object] | None:
            return next(self.samples, None)

    quantize_static(
        model,
        model.with_name(STATIC),
        Texts(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        calibrate_method=CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    told = json.loads((Path(sys.argv[1]) / "workloads.json").read_text())
    export(Path(told["minilm"]), told["texts"], Path(sys.argv[1]))
