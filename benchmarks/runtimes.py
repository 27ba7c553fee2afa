"""What a request costs by each runtime: those that `package` tries, and ONNX Runtime, which no release is served by.

    make bench NAME=runtimes                              # trains the demo first: about five minutes of one core
    python -m benchmarks.runtimes --dataset DIR --compressed DIR      # outputs of a run, in data/inputs

CPU time of one thread over the golden recommendation requests, whole requests with features, runtimes in turns; ratios inside a
round, median of 20 rounds. ONNX Runtime comes from the peers' environment (benchmarks/peers/encoders.txt): our lock has none.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._demo_days import dataset, demo
from benchmarks._encoder_peers import python_of_peers
from benchmarks._table import Row, at_least, publish
from tasks.compression.quantise import NAMES, Inputs, quantised, stage_of
from tasks.compression.variants import calibration_inputs, make_variant
from tasks.domain.requests import convert_rank
from tasks.domain.runtime_choice import SAVED, choose
from tasks.package import golden_requests
from tasks.ranker.arrays import Floats
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import Dataset
from tasks.ranker.device import ByLength, open_scorer
from tasks.ranker.model import load_model
from tasks.ranker.runtime import Scorer, inputs_of, read_config
from tasks.ranker.state import ItemState
from tasks.runtime_trial import cpu_of_rounds
from tasks.serving.engine import Engine

WORK, PARTITION, SEED = Path(".freshrank/bench/training"), "2017-07-01", 1
OURS = "openvino"
STAGES = {"base": 2, "full": 4}  # inputs of each


class Onnx:
    """Both stages in ONNX Runtime, one thread, as `quantise` leaves them."""

    def __init__(
        self, model: Path, calibration: Sequence[Inputs], folder: Path, quantise: Callable[[Any, Any], Any]
    ) -> None:
        import nncf
        import onnx
        import onnxruntime

        nncf.set_log_level(logging.ERROR)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._inputs, self._sessions = inputs_of(read_config(model)), {}
        network = load_model(model)
        for stage, width in STAGES.items():
            samples = [inputs[:width] for inputs in calibration]
            path, names = folder / f"{stage}.onnx", NAMES[stage]
            free = {name: {0: "rows", 1: "length"} if name in ("tokens", "mask") else {0: "rows"} for name in names}
            example = tuple(torch.from_numpy(part[:8]) for part in samples[0])
            with (
                warnings.catch_warnings(action="ignore"),
                contextlib.redirect_stdout(io.StringIO()),
            ):  # both talk at length
                torch.onnx.export(
                    stage_of(network, stage), example, str(path), input_names=list(names), dynamic_axes=free, dynamo=False,
                    opset_version=17,
                )  # fmt: skip
                graph = quantise(onnx.load(path), [dict(zip(names, one, strict=True)) for one in samples])
            self._sessions[stage] = onnxruntime.InferenceSession(graph.SerializeToString(), options)

    def base(self, x: Floats, item_vec: Floats) -> Floats:
        return self._run("base", x, item_vec)

    def full(self, x: Floats, item_vec: Floats, tokens: Floats, mask: Floats) -> Floats:
        return self._run("full", x, item_vec, tokens, mask)

    def _run(self, stage: str, x: Floats, *others: Floats) -> Floats:
        given = [np.ascontiguousarray(part, np.float32) for part in (self._inputs.complete(x), *others)]
        told: Floats = self._sessions[stage].run(None, dict(zip(NAMES[stage], given, strict=True)))[0]
        return told.reshape(-1)


def made(recipe_of_demo: Any) -> tuple[Path, Path]:
    """(dataset, compressed) of the demo for the recipe's device, trained where it is not kept."""
    from tasks.compress import compress
    from tasks.finetune import finetune

    data, model = dataset(WORK, recipe_of_demo, PARTITION), WORK / "runtimes-model"
    out = WORK / f"runtimes-compressed-{recipe_of_demo.compression.device}"
    if not (out / "model").exists():
        for folder in (model, out):
            folder.mkdir(parents=True, exist_ok=True)
        finetune(data, recipe_of_demo, model, model, SEED, 1)
        compress(model, data, recipe_of_demo, WORK / "cache", out, SEED)
    return data, out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--compressed", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".freshrank/bench/encoders"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, compressed = (asked.dataset, asked.compressed) if asked.dataset else made(demo())
    sys.path.append(str(next((python_of_peers(asked.peers).parents[1] / "lib").glob("*/site-packages"))))
    model, items = compressed / "model", ItemState.load(data / "items")
    opened = Dataset.open(data)
    calibration = calibration_inputs(Corpus(opened, opened.split.train_days[-7:]), 40)
    with tempfile.TemporaryDirectory() as work:
        folders = {name: Path(work) / name for name in ("fp32", "onnx", "onnx-int8")}
        make_variant("fp32", model, calibration[:1], 1, folders["fp32"])
        for name in ("onnx", "onnx-int8"):
            folders[name].mkdir()
        scorers: dict[str, Scorer] = {
            OURS: open_scorer(model),
            "OpenVINO fp32": open_scorer(folders["fp32"]),
            "torch fp32": open_scorer(model, runtime="torch"),
            "ONNX Runtime fp32": ByLength(Onnx(model, calibration, folders["onnx"], lambda graph, _: graph)),
            "ONNX Runtime int8": ByLength(Onnx(model, calibration, folders["onnx-int8"], quantised)),
        }
        requests = [one for one in golden_requests(items) if one["surface"] == "recommendation"]
        asked = [convert_rank(request) for request in requests]
        spent = cpu_of_rounds({name: Engine(items, scorer) for name, scorer in scorers.items()}, asked)
    _, trials = choose(spent, {})
    ratio = {trial.name: float(trial.ratio or 0) for trial in trials if trial.name != OURS}
    mine = next(trial for trial in trials if trial.name == OURS)
    return (
        0
        if publish(
            "runtimes",
            [
                Row("CPU of a request in OpenVINO as chosen", float(mine.cpu_ms or 0) / len(requests), "ms"),
                at_least("the cheapest other runtime", min(ratio.values()), "of ours", 1 - SAVED, ratio),
            ],
            ("openvino", "torch", "nncf"),
        )
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
