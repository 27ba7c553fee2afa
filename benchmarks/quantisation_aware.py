"""Does training with int8 in the loop pay beside static int8? The demo's ranker, both against its fp32 parent on validation.

    python -m benchmarks.quantisation_aware --dataset DIR --model DIR      # outputs of a run, in data/inputs

NNCF puts fake quantisers with SmoothQuant into the torch network, its scales from the same 120 training slates as `int8`; then
the network learns the parent's scores again on those slates (squared error, and the cross-entropy of the softmax over a slate).
Nothing is compiled: NNCF would build a C++ extension on first use, for minutes, and no machine of ours needs a compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._table import Row, publish
from tasks.compress import CALIBRATION_DAYS, QUALITY
from tasks.compression.quantise import Inputs, converted, quantised, save_graph, stage_of
from tasks.compression.variants import calibration_inputs, make_variant
from tasks.domain.recipe import load_recipe
from tasks.domain.statistics import PairedDifference, paired_difference
from tasks.ranker.corpus import Corpus
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import Judged, judge, prepare
from tasks.ranker.model import load_model
from tasks.ranker.runtime import PARENT, OpenVinoScorer, Scorer, TorchScorer

WORK = Path(".freshrank/bench/quantisation_aware")
EPOCHS, RATE = 2, 2e-4
STAGES = {"base": 2, "full": 4}  # inputs of each
EXACT = (".*skip.*", ".*base_out.*", ".*delta.3.*")  # as KEPT_EXACT


def taught(student: nn.Module, samples: list[tuple[Tensor, ...]], scores: list[Tensor]) -> None:
    """The student learns `scores`, one slate a step; changed in place."""
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer, draw = torch.optim.Adam(learned, lr=RATE), np.random.default_rng(0)
    for _ in range(EPOCHS):
        for n in draw.permutation(len(samples)).tolist():
            optimizer.zero_grad()
            ours, theirs = student(*samples[n]), scores[n]
            order = (theirs.softmax(0) * (theirs.log_softmax(0) - ours.log_softmax(0))).sum()
            ((ours - theirs).square().mean() + order).backward()
            optimizer.step()
    student.eval()


def quantisation_aware(model: Path, calibration: list[Inputs], out: Path) -> float:
    """Write the variant to `out`; CPU seconds of quantising and training."""
    os.environ |= {"CXX": "false", "TORCHDYNAMO_DISABLE": "1"}  # NNCF then takes torch's own operations
    import nncf

    nncf.set_log_level(logging.ERROR)
    began = time.process_time()
    for stage, width in STAGES.items():
        samples = [tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in one[:width]) for one in calibration]
        with torch.inference_mode():
            scores = [stage_of(load_model(model), stage)(*one).clone() for one in samples]
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars know no other switch
            student: Any = quantised(stage_of(load_model(model), stage), samples, EXACT)
        taught(student, samples, scores)
        with warnings.catch_warnings(action="ignore"):  # tracing speaks of every number of levels
            save_graph(
                converted(student, stage, tuple(part[:8] for part in calibration[0][:width])), out / f"{stage}.xml"
            )
    for name in ("config.json", PARENT):
        shutil.copyfile(model / name, out / name)
    return time.process_time() - began


def static(model: Path, calibration: list[Inputs], out: Path) -> float:
    """The recipe's `int8`; CPU seconds."""
    began = time.process_time()
    make_variant("int8", model, calibration, 1, out)
    return time.process_time() - began


def judged_all(scorer: Scorer, judged: list[Judged]) -> np.ndarray:
    return np.array([judge(scorer, one)[QUALITY] for one in judged])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, plan = Dataset.open(asked.dataset), load_recipe("demo").compression
    calibration = calibration_inputs(Corpus(data, data.split.train_days[-CALIBRATION_DAYS:]), plan.calibration_slates)
    work = WORK / hashlib.sha256((asked.model / PARENT).read_bytes()).hexdigest()[:12]
    seconds, ways = {}, {"static int8": work / "static", "int8 in training": work / "aware"}
    for (name, out), make in zip(ways.items(), (static, quantisation_aware), strict=True):
        if not (out / "seconds.json").exists():  # a run that was stopped goes on
            took = make(asked.model, calibration, out)
            (out / "seconds.json").write_text(json.dumps(took))
        seconds[name] = float(json.loads((out / "seconds.json").read_text()))
        print(f"{name}: {seconds[name]:.1f} CPU s", flush=True)
    judged = prepare(data.mornings(data.split.validation_days))
    users = np.array([one.slate.user for one in judged])
    parent = judged_all(TorchScorer.load(asked.model), judged)
    found = {name: judged_all(OpenVinoScorer(of), judged) for name, of in ways.items()}
    size = {name: float(sum(path.stat().st_size for path in of.glob("*.bin"))) for name, of in ways.items()}

    def against(name: str, other: np.ndarray) -> PairedDifference:
        return paired_difference(users, other, found[name], seed=0)

    rows = [Row("parent in fp32", float(parent.mean()), "NDCG@10")]
    for name in ways:
        told = against(name, parent)
        rows += [
            Row(f"{name}: difference from the parent", told.difference, "NDCG@10"),
            Row(f"{name}: lower bound of it, 95 %", told.lower, "NDCG@10"),
            Row(f"{name}: kB of weights", size[name] / 1e3, "kB"),
        ]
    gain = against("int8 in training", found["static int8"])
    rows += [
        Row("int8 in training against static int8", gain.difference, "NDCG@10"),
        Row("... lower and upper bound, 95 %: lower", gain.lower, "NDCG@10"),
        Row("... upper", gain.upper, "NDCG@10"),
        Row("CPU to make it", seconds["int8 in training"], "s", peers={"static int8": seconds["static int8"]}),
    ]
    return 0 if publish("quantisation_aware", rows, ("torch", "nncf", "openvino")) else 1


if __name__ == "__main__":
    sys.exit(main())
