"""`finetune` by several processes of this machine: one for each GPU, or as many as the setting says.

Each is `python -m tasks.finetune_together REQUEST`, started by torchrun, which starts all of them again when one dies; they go
on from the checkpoint. The same command under `torchrun --nnodes` spans machines that share the work directory: in a cluster
the pods of a Job (tasks/finetune_in_cluster.py), whose uid is a second argument and names the folder of its results.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.atomic import write_atomically
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.recipe import Recipe
from tasks.machine import die_with_parent

RESTARTS = 3
# torchrun would keep one store through its restarts, where gloo finds the addresses of the processes that died: about one
# restart in six then waits for a connection that nobody opens (torch 2.13)
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
REQUEST, SUMMARY, REFUSED, OUT = "request.json", "summary.json", "refused.json", "out"
TASK = "FRSTACK_TASK_PID"  # not FRESHRANK_: those are settings, and an unknown one is refused


def processes_for(wanted: int) -> int:
    """What the setting says; 0 stands for one a CUDA device, one where there is none."""
    if wanted:
        return wanted
    if not Path("/proc/driver/nvidia/version").exists():
        return 1  # without importing torch
    import torch

    return max(1, torch.cuda.device_count())


def finetune_together(
    dataset: Path,
    recipe: Recipe,
    workdir: Path,
    out: Path,
    seed: int,
    threads: int,
    champion: Path | None,
    processes: int,
) -> dict[str, Any]:
    """As tasks.finetune.finetune, by `processes` of them.

    Raises:
        InputRejected: what the training itself raised. Unavailable: it was started again too often.
    """
    path = asked(workdir, dataset, recipe, out, seed, threads, champion)
    for earlier in (SUMMARY, REFUSED):
        (workdir / earlier).unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *(f"--max-restarts={RESTARTS}", "-m", "tasks.finetune_together", str(path)),
        ],
        check=False,
        env=os.environ | OWN_STORE | {TASK: str(os.getpid())},
        preexec_fn=die_with_task,
    )
    summary = told_by(workdir)
    if done.returncode or summary is None:
        raise Unavailable(
            f"{processes} training processes ended with {done.returncode} after {RESTARTS} new starts; their last lines are "
            f"in this log, and a retry goes on from the checkpoint"
        )
    return summary


def asked(
    workdir: Path,
    dataset: Path,
    recipe: Recipe,
    out: Path | None,
    seed: int,
    threads: int,
    champion: Path | None,
) -> Path:
    """The file that the processes read. Written whole: a second live copy of the step writes the same one."""
    request = {
        "dataset": str(dataset),
        "recipe": recipe.model_dump(mode="json"),
        "workdir": str(workdir),
        "out": str(out) if out else None,
        "seed": seed,
        "threads": threads,
        "champion": str(champion) if champion else None,
        "version": _version(),
    }
    return _write(workdir / REQUEST, request)


def told_by(folder: Path) -> dict[str, Any] | None:
    """What the training said at its end; None where it said nothing.

    Raises:
        InputRejected: what the training itself raised.
    """
    if (folder / REFUSED).exists():
        raise InputRejected(json.loads((folder / REFUSED).read_text()))
    if not (folder / SUMMARY).exists():
        return None
    told: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    return told


def die_with_task() -> None:
    """A killed task leaves no training behind: torchrun is killed with it, and with torchrun those that it started."""
    die_with_parent()
    if task := os.environ.get(TASK):
        os.kill(int(task), 0)  # raises where it died before the line above


def main(request: str, uid: str = "") -> int:
    die_with_task()
    from tasks.finetune import finetune
    from tasks.ranker.distributed import joined

    told = json.loads(Path(request).read_text())
    workdir = Path(told["workdir"])
    folder = workdir / uid
    out = Path(told["out"] or folder / OUT)
    out.mkdir(parents=True, exist_ok=True)
    if told["version"] != _version():
        _write(folder / REFUSED, _other_version(told["version"]))
        return 0
    with joined() as group:
        logging.basicConfig(level=logging.INFO if group.leads else logging.WARNING, format="%(name)s %(message)s")
        aside = workdir / f"out-{group.rank}"  # what the others would write is the same, and thrown away
        if not group.leads:
            aside.mkdir(exist_ok=True)
        try:
            summary = finetune(
                Path(told["dataset"]),
                Recipe.model_validate(told["recipe"]),
                workdir,
                out if group.leads else aside,
                told["seed"],
                told["threads"],
                Path(told["champion"]) if told["champion"] else None,
            )
        except InputRejected as err:
            _write(folder / REFUSED, str(err))
            return 0  # not started again: it would say the same
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if group.leads:
            _write(folder / SUMMARY, summary | {"processes": group.world})
    return 0


def _write(path: Path, told: Any) -> Path:
    write_atomically(path, json.dumps(told).encode())
    return path


def _version() -> dict[str, str]:
    from tasks.run import code_version, lock_digest

    return {"code": code_version(), "lock": lock_digest()}


def _other_version(wanted: dict[str, str]) -> str:
    differ = [
        f"{what} {own} where the step has {wanted[what]}" for what, own in _version().items() if own != wanted[what]
    ]
    return (
        f"the training's pods have {' and '.join(differ)}; the images worker-gpu and worker-cpu of the chart's values must be of "
        f"one build"
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
