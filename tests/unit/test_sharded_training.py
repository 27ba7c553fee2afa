"""Weights in shares (FSDP): two gloo processes on a CPU make what one makes, and their checkpoint is the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import RECIPES, load_recipe
from tests.unit.test_distributed import together

# five steps of four shares: two a process, one exchange; the second half resumes from whole tensors
PROGRAM = """
import copy, json, sys, torch
from tasks.ranker.distributed import Together, joined, like, whole
from tasks.ranker.training import OPTIMIZERS
from torch.distributed.tensor import DTensor
torch.manual_seed(1)
rows, told = torch.randn(64, 9), {}
first = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
def loss_by(model, number):
    mine = rows.chunk(4)[number]
    return (model(mine) - mine.sum(1, keepdim=True)).pow(2).mean() / 4
def optimizer_of(model, kind):
    return OPTIMIZERS[kind](model.parameters(), lr=0.02, weight_decay=0.01, **({"fused": True} if kind == "adamw" else {}))
with joined() as group:
    for kind in OPTIMIZERS:
        alone = copy.deepcopy(first)
        optimizer = optimizer_of(alone, kind)
        for _ in range(6):
            optimizer.zero_grad()
            losses = [loss_by(alone, number) for number in range(4)]
            sum(losses).backward()
            torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
            optimizer.step()
        saved = None
        for _ in range(2):
            model = copy.deepcopy(first)
            shared = Together(model, group, parallel="fsdp")
            optimizer = optimizer_of(model, kind)
            if saved:
                own = model.state_dict()
                model.load_state_dict({name: like(value, own[name]) for name, value in saved[0].items()})
                state = {n: {k: like(v, list(model.parameters())[n]) for k, v in one.items()} for n, one in saved[1].items()}
                optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            for _ in range(3):
                optimizer.zero_grad()
                loss = shared.backward(lambda number: loss_by(model, number), 4)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            state = optimizer.state_dict()["state"]
            saved = (
                {name: whole(value.detach()).clone() for name, value in model.state_dict().items()},
                {n: {k: whole(v).clone() for k, v in one.items()} for n, one in state.items()},
            )
        with shared.gathered():
            answers = model(rows[:3]).flatten().tolist()
        furthest = max(float((saved[0][name] - value).abs().max()) for name, value in alone.state_dict().items())
        held = sum(value.to_local().numel() for value in model.parameters() if isinstance(value, DTensor))
        told[kind] = [furthest, abs(loss - sum(losses).item()), held, answers, alone(rows[:3]).flatten().tolist()]
    sys.stdout.write(json.dumps([group.rank, told]) + "\\n")  # in one write: two processes share the pipe
"""
TOLERANCE = 1e-6  # sums of the same numbers in another order


def test_two_processes_with_half_of_the_weights_each_make_the_weights_of_one(tmp_path: Path) -> None:
    told = together(tmp_path, PROGRAM)
    for kind in ("adamw", "nadam", "adagrad"):
        for furthest, loss, _, answers, wanted in (told[0][kind], told[1][kind]):
            assert furthest < TOLERANCE and loss < TOLERANCE, kind
            assert answers == pytest.approx(wanted, abs=TOLERANCE)
        weights = 9 * 7 + 7 + 7 + 1
        assert told[0][kind][2] + told[1][kind][2] == weights and max(told[0][kind][2], told[1][kind][2]) < weights


def test_a_recipe_that_asks_for_shares_and_small_gradients_is_refused(tmp_path: Path) -> None:
    text = (RECIPES / "tiny.yaml").read_text().replace("training:\n", "training:\n  parallel: fsdp\n  exchange: bf16\n")
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputRejected, match="exchange bf16 needs parallel ddp"):
        load_recipe(str(tmp_path / "own.yaml"))
