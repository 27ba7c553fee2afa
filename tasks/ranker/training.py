"""One training run that can be killed at any moment: its whole state is a checkpoint, written every few seconds.

Randomness is seeded anew for each step, so that a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Training
from tasks.progress import Progress
from tasks.ranker import checkpoint, distributed
from tasks.ranker.adversarial import with_worst
from tasks.ranker.corpus import Batch, Corpus
from tasks.ranker.course import Course
from tasks.ranker.loss import training_loss
from tasks.ranker.model import Dropout, Ranker

log = logging.getLogger("freshrank.finetune")
QUALITY = "ndcg_at_10[all]"  # chooses the epoch
PARTS = 2
SAVED_EVERY_S = 5.0  # so much work a kill may cost; a checkpoint of the demo takes .01 s
OPTIMIZERS = {"adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam, "adagrad": torch.optim.Adagrad}


class Part:
    """One half of every step: a model that shares the weights of the run's, with gradients and randomness of its own."""

    def __init__(self, model: Ranker, weights: Ranker, device: torch.device) -> None:
        self.model = model
        self.generator = torch.Generator(device)
        for own, shared in zip(model.parameters(), weights.parameters(), strict=True):
            own.data = shared.data
        for module in model.modules():
            if isinstance(module, Dropout):
                module.generator = self.generator


class Run:
    def __init__(
        self,
        model: Ranker,
        corpus: Corpus,
        course: Course,
        device: torch.device,
        threads: int,
        saved: Path,
        identity: str,
    ) -> None:
        """saved, identity: where the checkpoint lies, and the name of this very run: data, recipe, seed, first weights."""
        self.model, self.corpus, self.course, self.device = model, corpus, course, device
        self.training, self.seed = course.training, course.seed
        self.saved, self.identity = saved, identity
        self.epoch = 0
        self.losses: list[float] = []  # of the steps of this epoch that are done
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.group, self.pieces = distributed.current(), distributed.pieces(saved)
        self.together = (
            distributed.Together(model, self.group, self.training.exchange, self.training.parallel)
            if self.group.world > 1
            else None
        )
        self.optimizer = optimizer_of(model, self.training)
        # The matrices are so small that two threads inside one product take longer than one. So a step is always made
        # of the same halves, whose gradients are added: as fast as two threads should be, and equal on one.
        # Several processes take the halves as theirs, and need no second model.
        others = () if self.together else (copy.deepcopy(model) for _ in range(PARTS - 1))
        self.parts = [Part(one, model, device) for one in (model, *others)]
        workers = min(threads, PARTS) if device.type == "cpu" else 1
        self.pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    @property
    def steps_done(self) -> int:
        return self.epoch * self.course.steps_an_epoch + len(self.losses)

    @property
    def is_sharded(self) -> bool:
        return self.together is not None and self.together.is_sharded

    @property
    def best_epoch(self) -> int:
        """1 for the first. The earliest of equals."""
        return 1 + int(np.argmax([epoch[QUALITY] for epoch in self.curve]))

    @property
    def is_over(self) -> bool:
        waited = self.epoch - self.best_epoch if self.curve else 0
        return self.epoch >= self.course.epochs or bool(self.training.patience and waited >= self.training.patience)

    def train_epoch(self, bar: Progress) -> float:
        """Mean loss of one pass over the slates, or over what is left of it after a kill.

        Raises:
            InputRejected: the loss is not finite any more; the weights of earlier steps are in the checkpoint.
        """
        saved_at = time.monotonic()
        for slates in self.course.order(self.epoch)[len(self.losses) :]:
            step = self.steps_done
            rate = self.course.rate(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["share"]
            loss = self._backward(step, slates)
            if not np.isfinite(loss):
                raise InputRejected(
                    f"the training loss became {loss} in step {step + 1} (epoch {self.epoch + 1}, learning rate "
                    f"{rate:.2g}); nothing was published. Look for features that are not finite, or lower learning_rate "
                    f"in the recipe"
                )
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
            self.optimizer.step()
            self.losses.append(loss)
            mean = np.mean(self.losses[-20:])
            bar.advance(1, f"epoch {self.epoch + 1}/{self.course.epochs}, loss {mean:.4f}, rate {rate:.1e}")
            due = time.monotonic() - saved_at >= SAVED_EVERY_S
            if self.group.agreed(partial(bool, due)) if self.is_sharded else due:  # shares are gathered from all
                self.save()
                saved_at = time.monotonic()
        self.save()  # before the epoch is judged, which takes a while too
        return float(np.mean(self.losses))

    def _backward(self, step: int, slates: NDArray[np.int64]) -> float:
        """Loss of these slates; its gradients are in the model afterwards. Out of memory, it is tried in halves once."""
        while True:
            try:
                return self._accumulated(step, slates)
            except torch.OutOfMemoryError as err:
                self.pieces = distributed.halve(self.saved, self.group, err)
                torch.cuda.empty_cache()

    def _accumulated(self, step: int, slates: NDArray[np.int64]) -> float:
        count = max(PARTS, self.group.world) * self.pieces
        shares = [share for share in np.array_split(slates, count) if len(share)]
        half = self.device.type == "cuda" or self.training.precision == "bf16"

        def loss_of(number: int, part: Part) -> Tensor:
            share = shares[number]
            part.generator.manual_seed((self.seed * 1_000_003 + step) * PARTS + number)
            part.model.train()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                batch = self.corpus.batch(share, np.random.default_rng((self.seed, step, number)))
                return self._loss(part.model, batch.to(self.device)) * (len(share) / len(slates))

        def run(number: int) -> float:
            total, part = 0.0, self.parts[number]
            for share in range(number, len(shares), PARTS):
                loss = loss_of(share, part)
                loss.backward()
                total += float(loss.detach())
            return total

        for part in self.parts:
            part.model.zero_grad(set_to_none=True)
        if self.together:
            return self.together.backward(lambda number: loss_of(number, self.parts[0]), len(shares))
        used = min(PARTS, len(shares))
        losses = list(self.pool.map(run, range(used)))
        for part in self.parts[1:used]:
            for own, other in zip(self.model.parameters(), part.model.parameters(), strict=True):
                if own.grad is not None and other.grad is not None:
                    own.grad += other.grad
        return sum(losses)

    def finish_epoch(self, loss: float, quality: dict[str, float]) -> None:
        self.epoch, self.losses = self.epoch + 1, []
        self.curve.append({"epoch": self.epoch, "loss": loss, **quality})
        if self.best_epoch == self.epoch:
            self.best = {name: value.cpu().clone() for name, value in self._weights().items()}
        self.save()

    def _loss(self, model: Ranker, batch: Batch) -> Tensor:
        return torch.stack([self._loss_of(member, batch) for member in model.members]).mean()

    def _loss_of(self, member: Ranker, batch: Batch) -> Tensor:
        def loss(tokens: Tensor) -> Tensor:
            base, full = member.both(batch.x, batch.item_vec, batch.text, tokens, batch.layout)
            return training_loss(base, full, batch.answers, self.training)

        radius = self.training.adversarial
        if not radius or not len(batch.tokens):
            return loss(batch.tokens)
        return with_worst(loss, batch.tokens, batch.layout.row, batch.layout.candidates, radius)

    def gathered(self) -> AbstractContextManager[None]:
        """Inside, the model scores on every process, also where each holds a share of it."""
        return self.together.gathered() if self.together else nullcontext()

    def _weights(self) -> dict[str, Tensor]:
        return {name: distributed.whole(value.detach()) for name, value in self.model.state_dict().items()}

    def save(self) -> None:
        if not self.group.leads and not self.is_sharded:
            return
        tensors = {f"model.{name}": value for name, value in self._weights().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": distributed.whole(value) for name, value in state.items()}
        told = {"epoch": self.epoch, "losses": self.losses, "curve": self.curve}
        if self.group.leads:
            checkpoint.save(self.saved, self.identity, tensors, told)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of this very run."""
        self._restore(checkpoint.load(self.saved, self.identity))
        self.group.require_equal(self.steps_done, "step")

    def _restore(self, found: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        if found is None:
            return
        tensors, told = found
        self.epoch, self.losses, self.curve = told["epoch"], told["losses"], told["curve"]
        own = self.model.state_dict()
        saved = checkpoint.under("model.", tensors)
        self.model.load_state_dict({name: distributed.like(value, own[name]) for name, value in saved.items()})
        self.best = checkpoint.under("best.", tensors)
        weights = [one for group in self.optimizer.param_groups for one in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, value in checkpoint.under("optimizer.", tensors).items():
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = distributed.like(value, weights[int(number)])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        log.info("checkpoint=%s outcome=resumed epoch=%d step=%d", self.saved.name, self.epoch, self.steps_done)


def optimizer_of(model: Ranker, training: Training) -> torch.optim.Optimizer:
    """Two groups: the history encoder, and all else. `share` of each is taken of the course's rate."""
    encoder = [parameter for member in model.members for parameter in member.history.parameters()]
    mine = {id(parameter) for parameter in encoder}
    others = [parameter for parameter in model.parameters() if id(parameter) not in mine]
    groups = [{"params": others, "share": 1.0}, {"params": encoder, "share": training.encoder_rate}]
    kind: Any = OPTIMIZERS[training.optimizer]
    # NAdam has no fused form, and Adagrad's does not know shares (torch 2.13)
    plain = training.optimizer == "nadam" or (training.optimizer == "adagrad" and training.parallel == "fsdp")
    fused = {} if plain else {"fused": True}
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=training.learning_rate, weight_decay=training.weight_decay, **fused
    )
    return optimizer
