"""One training run that can be killed at any moment: its whole state is a safetensors file, written after each epoch.

Randomness is seeded anew for each step, so that a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Training
from tasks.progress import Progress
from tasks.ranker.corpus import Batch, Corpus
from tasks.ranker.loss import log_odds, slate_softmax
from tasks.ranker.model import Dropout, Ranker

log = logging.getLogger("freshrank.finetune")
QUALITY = "ndcg_at_10[all]"  # chooses the epoch
PARTS = 2


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
        self, model: Ranker, corpus: Corpus, training: Training, device: torch.device, seed: int, threads: int
    ) -> None:
        self.model, self.corpus, self.training, self.device, self.seed = model, corpus, training, device, seed
        self.epoch = 0
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        # The matrices are so small that two threads inside one product take longer than one. So a step is always made
        # of the same halves, whose gradients are added: as fast as two threads should be, and equal on one.
        self.parts = [Part(one, model, device) for one in (model, *(copy.deepcopy(model) for _ in range(PARTS - 1)))]
        workers = min(threads, PARTS) if device.type == "cpu" else 1
        self.pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))

    @property
    def steps_an_epoch(self) -> int:
        return -(-self.corpus.slates // self.training.slates_a_step)

    @property
    def best_epoch(self) -> int:
        """1 for the first. The earliest of equals."""
        return 1 + int(np.argmax([epoch[QUALITY] for epoch in self.curve]))

    def train_epoch(self, bar: Progress) -> float:
        """Mean loss of one pass over all slates.

        Raises:
            InputRejected: the loss is not finite any more; the weights of earlier epochs are in the checkpoint.
        """
        losses: list[float] = []
        for step, slates in enumerate(self._steps(), start=self.epoch * self.steps_an_epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
            loss = self._backward(step, slates)
            if not np.isfinite(loss):
                raise InputRejected(
                    f"the training loss became {loss} in step {step + 1} (epoch {self.epoch + 1}, learning rate "
                    f"{self.learning_rate(step):.2g}); nothing was published. Look for features that are not finite, "
                    f"or lower learning_rate in the recipe"
                )
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
            self.optimizer.step()
            losses.append(loss)
            bar.advance(1, f"epoch {self.epoch + 1}/{self.training.epochs}, loss {np.mean(losses[-20:]):.4f}")
        return float(np.mean(losses))

    def _backward(self, step: int, slates: NDArray[np.int64]) -> float:
        """Loss of these slates; its gradients are in the model afterwards."""
        shares = [share for share in np.array_split(slates, PARTS) if len(share)]

        def run(number: int) -> float:
            part, share = self.parts[number], shares[number]
            part.generator.manual_seed((self.seed * 1_000_003 + step) * PARTS + number)
            part.model.train()
            part.model.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                batch = self.corpus.batch(share, np.random.default_rng((self.seed, step, number)))
                loss = self._loss(part.model, batch.to(self.device)) * (len(share) / len(slates))
            loss.backward()
            return float(loss.detach())

        losses = list(self.pool.map(run, range(len(shares))))
        for part in self.parts[1 : len(shares)]:
            for own, other in zip(self.model.parameters(), part.model.parameters(), strict=True):
                if own.grad is not None and other.grad is not None:
                    own.grad += other.grad
        return sum(losses)

    def learning_rate(self, step: int) -> float:
        """Warm-up, then a straight line down to the final share."""
        training, total = self.training, self.training.epochs * self.steps_an_epoch
        if step < training.warmup_steps:
            return training.learning_rate * (step + 1) / training.warmup_steps
        left = 1 - (step - training.warmup_steps) / max(1, total - training.warmup_steps)
        return training.learning_rate * (training.final_share + (1 - training.final_share) * left)

    def finish_epoch(self, loss: float, quality: dict[str, float]) -> None:
        self.epoch += 1
        self.curve.append({"epoch": self.epoch, "loss": loss, **quality})
        if self.best_epoch == self.epoch:
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def _steps(self) -> Iterator[NDArray[np.int64]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.corpus.slates)
        for start in range(0, len(order), self.training.slates_a_step):
            yield order[start : start + self.training.slates_a_step]

    def _loss(self, model: Ranker, batch: Batch) -> Tensor:
        losses = [self._loss_of(member, batch) for member in model.members]
        return torch.stack(losses).mean()

    def _loss_of(self, model: Ranker, batch: Batch) -> Tensor:
        base, full = model.both(batch.x, batch.item_vec, batch.tokens, batch.mask, batch.cuts)
        losses = [
            self.training.listwise_weight * slate_softmax(scores, batch.gain, batch.weight, batch.slate, batch.slates)
            + self.training.calibration_weight * log_odds(scores, batch.label, batch.odds_weight)
            for scores in (full, base)
        ]
        return losses[0] + self.training.base_weight * losses[1]

    def save(self, path: Path, identity: str) -> None:
        """Write the checkpoint whole or not at all."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        metadata = {"identity": identity, "epoch": str(self.epoch), "curve": json.dumps(self.curve)}
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft, metadata)
        draft.replace(path)

    def resume(self, path: Path, identity: str) -> None:
        """Go on from the checkpoint, if there is one of this very run."""
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["identity"] != identity:
                log.info("checkpoint=%s outcome=ignored reason=other-data-recipe-or-seed", path)
                return
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        self.epoch, self.curve = int(metadata["epoch"]), json.loads(metadata["curve"])
        self.model.load_state_dict(_under("model.", tensors))
        self.best = _under("best.", tensors)
        state: dict[int, dict[str, Any]] = {}
        for name, value in _under("optimizer.", tensors).items():
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        log.info("checkpoint=%s outcome=resumed epoch=%d", path, self.epoch)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
