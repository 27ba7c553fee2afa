"""Which slates each epoch of a training reads, in which order, and at which rate: all of it follows from the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.domain.recipe import Training

Slates = NDArray[np.int64]


@dataclass(frozen=True)
class Course:
    """Learning rate: warm-up, then a straight line or half a cosine (arXiv 1608.03983) down to the final share."""

    training: Training
    seed: int
    slates: Slates  # read once an epoch
    epochs: int
    peak: float  # of the learning rate

    @classmethod
    def fresh(cls, training: Training, slates: int, seed: int) -> Course:
        return cls(training, seed, np.arange(slates), training.epochs, training.learning_rate)

    @classmethod
    def warm(cls, training: Training, is_new: NDArray[np.bool_], seed: int) -> Course:
        """One short epoch for weights that were trained before: all slates they have not seen, others by lot.

        Old slates come along because a model that is trained on new ones alone forgets (replay).
        """
        wanted = max(1, round(training.warm.share * training.epochs * len(is_new)))
        rng = np.random.default_rng((seed, len(is_new)))
        first = np.where(is_new, -1.0, rng.random(len(is_new)))  # the new ones, then a lot among the others
        slates = np.argsort(first, kind="stable")[:wanted]
        return cls(training, seed, slates, 1, training.learning_rate * training.warm.rate)

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.slates) // self.training.slates_a_step)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_an_epoch

    def order(self, epoch: int) -> list[Slates]:
        """Slates of each step of an epoch (0 for the first)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.slates)
        size = self.training.slates_a_step
        return [order[start : start + size] for start in range(0, len(order), size)]

    def rate(self, step: int) -> float:
        """Learning rate of a step (0 for the first of the run)."""
        training = self.training
        if step < training.warmup_steps:
            return self.peak * (step + 1) / training.warmup_steps
        done = min(1.0, (step - training.warmup_steps) / max(1, self.steps - training.warmup_steps))
        left = 1 - done if training.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.peak * (training.final_share + (1 - training.final_share) * left)
