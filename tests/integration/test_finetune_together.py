"""A training by two processes, here and as pods of a Job, one of which is killed on the way, against the same by one."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tasks.build_dataset import build_dataset
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import load_recipe
from tasks.finetune import CHECKPOINT, finetune
from tasks.finetune_in_cluster import finetune_in_cluster
from tasks.finetune_together import finetune_together
from tasks.ranker.distributed import HALVED
from tasks.ranker.runtime import PARENT
from tasks.ranker.training import Run
from tests.kubernetes_cluster import Cluster, needs_emulator
from tests.kubernetes_pods import PlayedPods, training_pattern
from tests.shop import open_shop

RECIPE = load_recipe("tiny")
ONE_EPOCH = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"epochs": 1})})
# sums of shares are in another order, and Adam makes whole steps of a gradient that is nothing but rounding
OF_THE_WEIGHTS, OF_THE_CURVES = 1e-3, 1e-5  # Euclidean, after three epochs; loss and NDCG of each
# read by every Python that starts with it on its path, so also by the processes that torchrun starts
KILL_ONE = """
import os, signal, pathlib, time
def arm():
    from tasks.ranker import training
    training.SAVED_EVERY_S, train = 0, training.Run._accumulated
    def dying(self, step, slates):
        once = pathlib.Path(os.environ["KILLED_ONCE"])
        if self.group.rank == 1 and step == 5 and not once.exists():
            once.touch()
            os.kill(os.getppid() if "KILL_ITS_POD" in os.environ else os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return train(self, step, slates)
    training.Run._accumulated = dying
if "LOCAL_RANK" in os.environ:
    arm()
"""


class Alone(NamedTuple):
    told: dict[str, Any]
    work: Path
    out: Path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("together")
    shop, out = open_shop(home / "shop"), home / "dataset"
    out.mkdir()
    build_dataset(shop.accepted, shop.plans, shop.catalogue, "2017-06-16", RECIPE, home / "cache", out, None)
    return out


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The training by one process."""
    work, out = folders(tmp_path_factory.mktemp("one"), "alone")
    return Alone(finetune(dataset, RECIPE, work, out, seed=1, threads=1), work, out)


@pytest.fixture
def killing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second process that starts from now on is killed in its fifth step, once; the file that says that it was."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(KILL_ONE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}:{Path(__file__).resolve().parents[2]}")
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    return tmp_path / "killed"


def folders(tmp_path: Path, name: str) -> tuple[Path, Path]:
    work, out = tmp_path / name / "work", tmp_path / name / "out"
    work.mkdir(parents=True)
    out.mkdir()
    return work, out


def test_two_processes_one_of_them_killed_make_the_weights_of_one_to_the_last_bit(
    dataset: Path, tmp_path: Path, alone: Alone, killing: Path
) -> None:
    work, out = folders(tmp_path, "together")
    together = finetune_together(dataset, RECIPE, work, out, 1, 1, None, 2)
    assert killing.exists()
    assert together.pop("processes") == 2
    assert together == alone.told
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.out.iterdir()}


def test_two_processes_with_a_share_of_the_weights_each_make_the_weights_of_one_within_rounding(
    dataset: Path, tmp_path: Path, alone: Alone, killing: Path
) -> None:
    """One is killed on the way, so that both have read the checkpoint, which is the file that one process writes."""
    sharded = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"parallel": "fsdp"})})
    work, out = folders(tmp_path, "sharded")
    told = finetune_together(dataset, sharded, work, out, 1, 1, None, 2)
    assert killing.exists() and told["parameters"] == alone.told["parameters"]
    ours, theirs = load_file(out / PARENT), load_file(alone.out / PARENT)
    assert ours.keys() == theirs.keys()
    apart = sum(float((value - theirs[name]).double().square().sum()) for name, value in ours.items()) ** 0.5
    length = sum(float(value.double().square().sum()) for value in theirs.values()) ** 0.5
    assert apart < OF_THE_WEIGHTS * length, apart / length
    curves = [json.loads((place / "curves.json").read_text()) for place in (out, alone.out)]
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, abs=OF_THE_CURVES)
    with safe_open(work / CHECKPOINT, "pt") as saved, safe_open(alone.work / CHECKPOINT, "pt") as plain:
        assert {name: saved.get_slice(name).get_shape() for name in saved.keys()} == {  # noqa: SIM118
            name: plain.get_slice(name).get_shape()
            for name in plain.keys()  # noqa: SIM118
        }


@needs_emulator
def test_two_pods_of_the_charts_job_one_of_them_killed_make_the_weights_of_one_to_the_last_bit(
    dataset: Path,
    tmp_path: Path,
    alone: Alone,
    killing: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pods are processes here, under the command of the rendered Job; the API is an emulator that stores it."""
    monkeypatch.setenv("KILL_ITS_POD", "1")
    (tmp_path / "training.yaml").write_text(training_pattern())
    work, out = folders(tmp_path, "cluster")
    cluster = Cluster()
    try:
        with PlayedPods(cluster) as pods:
            given = (dataset, RECIPE, work, out, 1, 1, None, tmp_path / "training.yaml")
            together = finetune_in_cluster(*given, api=cluster.api(), every_s=0.2)
            again = finetune_in_cluster(*given, api=cluster.api(), every_s=0.2)
        (job,) = cluster.objects("Job")
    finally:
        cluster.close()
    assert killing.exists() and pods.started >= 3, (
        "one pod was replaced; both, where the killed one held the rendezvous"
    )
    assert together == again, "a copy of the step that comes later takes the same results"
    assert together.pop("processes") == 2 and job["status"]["succeeded"] == 2
    assert together == alone.told
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.out.iterdir()}


def test_the_training_processes_end_with_the_task_that_is_killed(dataset: Path, tmp_path: Path) -> None:
    work, out = folders(tmp_path, "killed")
    endless = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"epochs": 1000})})
    task = multiprocessing.get_context("spawn").Process(
        target=finetune_together, args=(dataset, endless, work, out, 1, 1, None, 2), daemon=False
    )
    task.start()
    assert task.pid
    started = until(lambda: [p for p in psutil.Process(task.pid).children(recursive=True) if "-u" in p.cmdline()], 2)
    task.kill()
    task.join()
    assert psutil.wait_procs(started, timeout=60)[1] == []


def until(ask: Callable[[], list[psutil.Process]], many: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while len(found := ask()) < many:
        assert time.monotonic() < deadline, f"{len(found)} of {many} processes started"
        time.sleep(0.1)
    return found


def test_out_of_memory_once_is_overcome_by_half_of_each_micro_batch(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Run._loss

    def hungry(self: Run, model: object, batch: object) -> torch.Tensor:
        if self.pieces == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_loss", hungry)
    work, out = folders(tmp_path, "hungry")
    told = finetune(dataset, ONE_EPOCH, work, out, seed=1, threads=2)
    assert (work / HALVED).exists() and told["best_epoch"] == 1
    monkeypatch.setattr(Run, "_loss", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    work, out = folders(tmp_path, "too-hungry")
    with pytest.raises(InputRejected, match="lower slates_a_step"):
        finetune(dataset, ONE_EPOCH, work, out, seed=1, threads=2)
