"""What each switch of the training earns: the demo's recipe with one thing changed, on the holdout of one update.

    make bench NAME=training_switches          # about a minute of one core a switch the first time

Paired differences to the recipe as it is, households resampled; one seed each, so that a difference within the noise of seeds
(two seeds differ by .003 at this size, docs/benchmarks.md) shows nothing. A switch that does not pay is off by default.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks._table import Row, publish
from benchmarks._updates import METRICS, SEED, WORK, data_of, recipe
from tasks.domain.statistics import paired_differences
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import judge, prepare
from tasks.ranker.runtime import TorchScorer

UPDATE = 1
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "schedule: cosine": {"schedule": "cosine"},
    "optimizer: nadam": {"optimizer": "nadam"},
    "optimizer: adagrad, rate .02": {"optimizer": "adagrad", "learning_rate": 0.02},
    "encoder_rate: .1": {"encoder_rate": 0.1},
    "precision: bf16": {"precision": "bf16"},
}


def main() -> int:
    ranked = {name: _ranked(name, dict(changed)) for name, changed in SWITCHES.items()}
    base, rows = ranked.pop("as it is"), []
    user = np.array(base["user"], np.int64)
    for name, told in ranked.items():
        both = (np.array(one["metrics"], float) for one in (base, told))
        found = paired_differences(user, *both, seed=SEED, allowed_loss=[0.0] * len(METRICS))
        for metric, one in zip(METRICS, found, strict=True):
            bounds = {"lower bound": one.lower, "upper bound": one.upper}
            rows.append(Row(f"{name}: {metric}, difference", one.difference, "", peers=bounds))
        rows.append(Row(f"{name}: CPU / the recipe's as it is", told["cpu_s"] / base["cpu_s"], ""))
    return 0 if publish("training_switches", rows, ("torch",)) else 1


def _ranked(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    made = recipe("fresh")
    made = made.model_copy(update={"training": made.training.model_copy(update=changed)})
    path = WORK / f"switch-{made.digest[:10]}.json"
    if not path.exists():
        from tasks.finetune import finetune

        out = WORK / "models" / f"switch-{made.digest[:10]}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        began = time.process_time()
        finetune(data_of(UPDATE), made, out, out, seed=SEED, threads=1)
        spent = time.process_time() - began
        data, scorer = Dataset.open(data_of(UPDATE)), TorchScorer.load(out)
        slates = prepare(data.mornings(data.split.holdout_days))
        judged = [judge(scorer, one) for one in slates]
        told = {"user": [int(one.slate.user) for one in slates], "cpu_s": spent}
        path.write_text(json.dumps(told | {"metrics": [[row.get(m, float("nan")) for m in METRICS] for row in judged]}))
        print(f"{name}: {spent:.0f} CPU s", flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
