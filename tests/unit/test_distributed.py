"""Shares of a step between processes: all of them, each once; one exchange a step, whatever is added up before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import InputRejected, Unavailable
from tasks.ranker.distributed import Group, halve, pieces

ROOT = Path(__file__).resolve().parents[2]
# two processes, a step of four shares: each adds up two of them, then they exchange
PROGRAM = """
import json, sys, torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from tasks.ranker.distributed import Together, joined
rows, told = torch.arange(24, dtype=torch.float32).reshape(8, 3) / 10, []
with joined() as group:
    model = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(model.weight, 0.5)
    torch.nn.init.zeros_(model.bias)
    together = Together(model, group)
    exchanges = []
    together.module.register_comm_hook(None, lambda state, bucket: exchanges.append(1) or allreduce_hook(state, bucket))
    def loss_of(number):
        return (model(rows.chunk(4)[number]) ** 2).mean() / 4
    for shares in (4, 1):  # of one share only, the second process has none
        model.zero_grad(set_to_none=True)
        exchanges.clear()
        loss = together.backward(loss_of, shares)
        told.append([loss, model.weight.grad.tolist(), len(exchanges)])
    sys.stdout.write(json.dumps([group.rank, told]) + "\\n")  # in one write: two processes share the pipe
"""


@given(shares=st.integers(1, 40), world=st.integers(1, 9))
def test_the_shares_of_all_processes_are_disjoint_and_complete(shares: int, world: int) -> None:
    taken = [number for rank in range(world) for number in Group(rank, world).mine(shares)]
    assert sorted(taken) == list(range(shares))


def together(folder: Path, program: str) -> dict[int, Any]:
    """What two processes that torchrun started say: rank -> answer."""
    (folder / "program.py").write_text(program)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*line, str(folder / "program.py")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_two_processes_exchange_once_a_step_and_have_the_gradients_of_one(tmp_path: Path) -> None:
    told = together(tmp_path, PROGRAM)
    rows = (np.arange(24, dtype=np.float32).reshape(8, 3) / 10).reshape(4, 2, 3)
    scores = rows.sum(2) * 0.5
    for at, shares in enumerate((4, 1)):
        loss = (scores[:shares] ** 2).mean(1).sum() / 4
        gradient = (2 * scores[:shares, :, None] * rows[:shares]).mean(1).sum(0) / 4
        assert told[0][at] == told[1][at], "both processes stand at the same place after the step"
        assert told[0][at][2] == 1
        np.testing.assert_allclose(told[0][at][0], loss, rtol=1e-6)
        np.testing.assert_allclose(told[0][at][1][0], gradient, rtol=1e-6)


# 14 steps, four after those that PowerSGD leaves whole; what the last one sent is counted where torch's hooks send it
COMPRESSED = """
import json, sys, torch
import torch.distributed as dist
from tasks.ranker.distributed import Together, joined
torch.manual_seed(1)
rows, told, send = torch.randn(64, 32), {}, dist.all_reduce
with joined() as group:
    for exchange in ("fp32", "bf16", "powersgd"):
        torch.manual_seed(2)
        model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
        together, optimizer = Together(model, group, exchange), torch.optim.SGD(model.parameters(), lr=0.05)
        def loss_of(number):
            mine = rows.chunk(2)[number]
            return (model(mine) - mine.sum(1, keepdim=True)).pow(2).mean() / 2
        losses, sent = [], []
        def counted(tensor, *given, **more):
            sent.append(tensor.numel() * tensor.element_size())
            return send(tensor, *given, **more)
        dist.all_reduce = counted
        for _ in range(14):
            model.zero_grad(set_to_none=True)
            sent.clear()
            losses.append(together.backward(loss_of, 2))
            optimizer.step()
        dist.all_reduce = send
        digest = sum(float(weight.detach().double().sum()) for weight in model.parameters())
        told[exchange] = [losses[0], losses[-1], sum(sent), digest]
    sys.stdout.write(json.dumps([group.rank, told]) + "\\n")  # in one write: two processes share the pipe
"""


def test_gradients_travel_smaller_where_the_recipe_says_so_and_the_training_still_learns(tmp_path: Path) -> None:
    told = together(tmp_path, COMPRESSED)
    assert told[0] == told[1], "all processes have one model after the last step"
    whole = 4 * (32 * 64 + 64 + 64 + 1)
    assert told[0]["fp32"][2] == 0, "the exchange of DistributedDataParallel itself, which no hook replaces"
    assert told[0]["bf16"][2] == whole / 2
    # (32 + 64) and (64 + 1) numbers of the two matrices, and biases as they are; the smaller matrix is not worth it
    assert 0 < told[0]["powersgd"][2] < whole / 5
    exact = told[0]["fp32"]
    for exchange, allowed in (("bf16", 0.01), ("powersgd", 0.2)):
        first, last, _, weights = told[0][exchange]
        assert last < 0.8 * first and abs(last - exact[1]) < allowed * exact[0], exchange
        assert weights != exact[3], f"{exchange} is no switch if it changes nothing"


def test_out_of_memory_halves_once_and_is_remembered(tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint"
    assert pieces(saved) == 1
    assert halve(saved, Group(), MemoryError("CUDA out of memory")) == 2 == pieces(saved)
    with pytest.raises(InputRejected, match="not even half of a micro-batch"):
        halve(saved, Group(), MemoryError("CUDA out of memory"))


def test_out_of_memory_in_a_group_starts_all_of_it_again(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="start again with half"):
        halve(tmp_path / "checkpoint", Group(1, 2), MemoryError("CUDA out of memory"))
    assert pieces(tmp_path / "checkpoint") == 2
