"""Several processes that train one model: each takes its share of every step, and gradients are exchanged once a step.

Data parallel by torch's DistributedDataParallel (Li et al., 2020, arXiv:2006.15704) or, where weights and moments should not lie
whole on every device, by fully_shard (FSDP2; Zhao et al., 2023, arXiv:2304.11277); started by torchrun: nccl between GPUs, gloo
between processes on a CPU. With two processes a step is the same two halves whose gradients one process adds up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tasks.domain.errors import InputRejected, Unavailable

PATIENCE = timedelta(minutes=30)  # the others wait while the first one judges an epoch
WHOLE_STEPS = 10  # before PowerSGD: the first gradients are the largest, and buckets are rebuilt after the first
HALVED = "micro-batch-halved"  # a file beside the checkpoint
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """Which of `world` processes this is. One process is a group too."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """The one that judges, and writes what is kept."""
        return self.rank == 0

    def mine(self, shares: int) -> list[int]:
        """Numbers of the shares of a step that are this process's: disjoint, and all of them together."""
        return list(range(self.rank, shares, self.world))

    def agreed(self, ask: Callable[[], T]) -> T:
        """The first one's answer, for all: a decision that each took by itself could part them."""
        if self.world == 1:
            return ask()
        answer: list[Any] = [ask() if self.leads else None]
        dist.broadcast_object_list(answer)
        found: T = answer[0]
        return found

    def require_equal(self, value: int, what: str) -> None:
        """Raises Unavailable where the processes do not agree: they would train different models."""
        if self.world == 1:
            return
        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, value)
        if len(set(told)) > 1:
            raise Unavailable(
                f"the {self.world} training processes stand at {what} {told}; they need one directory that all can read, "
                f"with the checkpoint in it"
            )


def current() -> Group:
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Group()


@contextmanager
def joined() -> Iterator[Group]:
    """Be one of the processes that torchrun started (its variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR say which)."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield current()
    finally:
        dist.destroy_process_group()


class Together:
    """Exchanges the gradients of one model between the processes of a group."""

    def __init__(self, model: nn.Module, group: Group, exchange: str = "fp32", parallel: str = "ddp") -> None:
        """Before the optimizer is made: `fsdp` puts other parameters into the model, each process's share of the old ones.

        exchange: fp32; bf16, half the bytes; powersgd, two thin matrices for each gradient that is one (Vogels et al.,
        2019, arXiv:1905.13727), whose remainders are added to the next step's and are lost when the training starts again.
        """
        self.group, self.is_sharded = group, parallel == "fsdp"
        self.module: nn.Module = _Passed(model)
        if self.is_sharded:
            device = next(model.parameters()).device.type
            # one unit: the losses call methods of the parts, not their forward, where units of their own would be gathered
            fully_shard(self.module, mesh=init_device_mesh(device, (group.world,)))
            return
        # buffers are constants of the data, and the same everywhere
        wrapped = DistributedDataParallel(self.module, broadcast_buffers=False, find_unused_parameters=True)
        if exchange == "bf16":
            # under its own name torch refuses it without NCCL, and gloo adds up bf16 as well
            wrapped.register_comm_hook(None, lambda state, bucket: bf16_compress_hook(state, bucket))
        elif exchange == "powersgd":
            state = PowerSGDState(None, start_powerSGD_iter=WHOLE_STEPS)
            wrapped.register_comm_hook(state, lambda state, bucket: _powersgd(state, bucket))  # torch reads annotations
        self.module = wrapped

    def backward(self, loss_of: Callable[[int], Tensor], shares: int) -> float:
        """Add up this process's shares, exchange once, at the last of them. Returns the loss of the whole step.

        Args:
            loss_of: number of a share -> its part of the step's loss, by the model that was wrapped.
        """
        # a step of fewer shares than processes: who has none helps with nothing, but must meet the others
        mine, weight = self.group.mine(shares) or [0], float(self.group.rank < shares)
        total = torch.zeros((), dtype=torch.float64)
        for number in mine:
            with self._exchanging(number == mine[-1]):
                loss = self.module(loss_of, number) * weight
                (loss * self.group.world).backward()  # the exchange divides by it
            total += loss.detach().double().cpu()
        return sum(_gathered(float(total), self.group))

    @contextmanager
    def _exchanging(self, now: bool) -> Iterator[None]:
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(now)
            yield
        elif now or not isinstance(self.module, DistributedDataParallel):
            yield
        else:
            with self.module.no_sync():
                yield

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Every process has the whole model inside, to score with; all of them must come here."""
        if not isinstance(self.module, FSDPModule):
            yield
            return
        self.module.unshard()
        try:
            yield
        finally:
            self.module.reshard()


def whole(value: Tensor) -> Tensor:
    """A tensor of which each process may have a share, on all of them; all of them must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, known: Tensor) -> Tensor:
    """This process's share of a whole tensor, cut as `known` is, if it is."""
    if not isinstance(known, DTensor) or value.shape != known.shape:
        return value
    here = value.to(known.device)
    # nothing is sent: each process has read the whole
    return distribute_tensor(here, known.device_mesh, known.placements, src_data_rank=None)


def _powersgd(state: PowerSGDState, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """torch's hook, to its end. It sends in three turns, each begun by the answer to the one before; with gloo that is
    another thread's, and what DistributedDataParallel itself sends meanwhile came between them on one process and not on the
    other (three runs in nine ended with "collective mismatch")."""
    sent = powerSGD_hook(state, bucket)
    if not bucket.buffer().is_cuda:
        sent.wait()
    return sent


class _Passed(nn.Module):
    """Calls a loss from inside `forward`, where both ways prepare for the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss_of: Callable[[int], Tensor], number: int) -> Tensor:
        return loss_of(number)


def _gathered(value: float, group: Group) -> list[float]:
    told: list[Any] = [0.0] * group.world
    dist.all_gather_object(told, value)
    return told


def pieces(saved: Path) -> int:
    """Into how many a share of a step is cut: 2 once it did not fit into the device's memory."""
    return 2 if (saved.parent / HALVED).exists() else 1


def halve(saved: Path, group: Group, err: BaseException) -> int:
    """After out-of-memory: cut every share in two from now on, also after a restart. Only once.

    Raises:
        InputRejected: it was halved before. Unavailable: several processes train; all of them start again.
    """
    if pieces(saved) > 1:
        raise InputRejected(
            f"the device's memory holds not even half of a micro-batch ({str(err).splitlines()[0]}); lower slates_a_step in "
            f"the recipe"
        ) from err
    (saved.parent / HALVED).touch()
    if group.world > 1:  # the others wait in the middle of an exchange that never comes
        raise Unavailable("out of memory: the training processes start again with half the micro-batch") from err
    return pieces(saved)
