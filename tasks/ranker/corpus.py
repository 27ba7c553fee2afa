"""All training rows in memory, and batches of whole slates as tensors, histories packed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Augmentation
from tasks.ranker.arrays import Floats, Halves, epoch_day, ranges
from tasks.ranker.augment_history import altered
from tasks.ranker.dataset import Dataset
from tasks.ranker.fitted import Fitted
from tasks.ranker.loss import Answers
from tasks.ranker.packing import Layout, pack, padded
from tasks.ranker.position_bias import inverse_propensity
from tasks.ranker.rows import Rows

MOST_WORTH = 10.0  # times the middle price: one television is not fifty breads


@dataclass(frozen=True, slots=True)
class Batch:
    x: Tensor
    item_vec: Tensor  # of the texts that the rows have, each once: half of the rows share theirs
    text: Tensor  # [rows] which of them
    tokens: Tensor  # of all rows behind each other
    layout: Layout  # where the network lays them
    answers: Answers

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        names = ("x", "item_vec", "text", "tokens")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return Batch(**moved, layout=self.layout.to(device), answers=self.answers.to(device))

    def padded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What serving gives a model: x, the text vector of each row, [rows, MAX_TOKENS, TOKEN_WIDTH], and its mask."""
        return self.x, self.item_vec[self.text], *padded(self.tokens, self.layout)


class Corpus:
    def __init__(
        self,
        dataset: Dataset,
        days: tuple[str, ...] | None = None,
        *,
        value_weight: float = 0.0,
        augmentation: Augmentation | None = None,
    ) -> None:
        """
        Args:
            days: read only these training days.
            value_weight: see recipe.Training.
            augmentation: how batches that are drawn alter histories. How texts are written, the dataset knows.
        """
        self.augmentation = augmentation or Augmentation()
        parts = list(dataset.training_rows(days))
        self.ptr = _joined_ptr(parts)
        named = [epoch_day(day) for day in (dataset.split.train_days if days is None else days)]
        self.days = np.repeat(named, [len(part.ptr) - 1 for part in parts])  # of each slate
        if self.slates == 0:
            raise InputRejected("the training days hold no slate; the recipe's days or users do not fit the data")
        self.fitted = dataset.fitted
        self.x: Halves = np.concatenate([part.x for part in parts])
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.tokens: Halves = np.concatenate([part.tokens for part in parts])
        self.offset = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self.label = np.concatenate([part.label for part in parts])
        if self.label.min() == self.label.max():
            every = "is a positive" if self.label.max() else "is a negative"
            raise InputRejected(
                f"each of the {len(self.label):,} training rows {every}, so there is nothing to tell apart; look at the "
                f"recipe's goal and at keep_bought and keep_other"
            )
        self.weight: Floats = np.concatenate([part.weight for part in parts])
        self.position = np.concatenate([part.position for part in parts])
        grade, propensity = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("grade", "propensity")
        )
        self.gain, self.inverse = gains(grade, self.position, propensity, self.fitted)
        if value_weight:
            price = self.x[:, self.fitted.inputs.features.index("price")].astype(np.float32)
            self.gain = by_value(self.gain, price, value_weight)
        self.text = _joined_texts(parts, dataset.text_digests)
        texts = dataset.builder.texts
        views = texts.vectors[None] if texts.views is None else np.concatenate([texts.vectors[None], texts.views])
        nothing = np.zeros((len(views), 1, views.shape[2]), np.float32)
        self.vectors = np.concatenate([views.astype(np.float32), nothing], axis=1)  # [views, texts]; row -1: no text

    @property
    def slates(self) -> int:
        return len(self.ptr) - 1

    def batch(self, slates: NDArray[np.int64], draw: np.random.Generator | None = None) -> Batch:
        """Rows of whole slates. `draw` chooses how each text is written, where the dataset knows other ways, and alters
        histories, where the recipe wants it."""
        counts = self.ptr[slates + 1] - self.ptr[slates]
        rows = ranges(self.ptr[slates], counts)
        owner = np.repeat(np.arange(len(slates)), counts)
        lengths = self.lengths[rows]
        view = draw.integers(len(self.vectors), size=len(rows)) if draw is not None and len(self.vectors) > 1 else 0
        texts, text = np.unique(
            view * self.vectors.shape[1] + self.text[rows] % self.vectors.shape[1], return_inverse=True
        )
        tokens = self.tokens[ranges(self.offset[rows], lengths.astype(np.int64))]
        if draw is not None and self.augmentation.alters_histories:
            tokens, lengths = altered(tokens, lengths, owner, self.augmentation, draw)
        return Batch(
            x=torch.from_numpy(self.fitted.inputs.complete(_single(self.x[rows]).numpy(), self.position[rows])),
            item_vec=torch.from_numpy(self.vectors.reshape(-1, self.vectors.shape[2])[texts]),
            text=torch.from_numpy(text),
            tokens=_single(tokens),
            layout=pack(lengths),
            answers=Answers(
                label=torch.from_numpy(self.label[rows].astype(np.float32)),
                gain=torch.from_numpy(self.gain[rows]),
                weight=torch.from_numpy(self.weight[rows]),
                odds_weight=torch.from_numpy(self.weight[rows] * self.inverse[rows]),
                slate=torch.from_numpy(owner),
                slates=len(slates),
            ),
        )


def _single(halves: Halves) -> Tensor:
    """float32; torch does it ten times as fast as numpy."""
    return torch.from_numpy(halves).float()


def gains(
    grade: NDArray[np.uint8], position: NDArray[np.int16], propensity: Floats, fitted: Fitted
) -> tuple[Floats, Floats]:
    """(what each answer is worth, its inverse propensity); the best grade of the training set is worth 1.

    2^grade - 1, as NDCG counts it, times the inverse propensity. Rows that nothing came of are worth 0 and not corrected.
    """
    inverse = inverse_propensity(position, propensity, np.array(fitted.looked_at, np.float32), fitted.most_weight)
    inverse[grade == 0] = 1
    worth = (np.exp2(np.arange(256)) - 1)[grade]
    return (worth / max(worth.max(initial=0), 1) * inverse).astype(np.float32), inverse


def by_value(gain: Floats, log_price: Floats, power: float) -> Floats:
    """Gains times price to a power, ten times the middle at most; those of all positives together stay what they were."""
    positive = gain > 0
    level = log_price - np.median(log_price[positive])
    worth = gain * np.exp(power * level).clip(1 / MOST_WORTH, MOST_WORTH)
    return (worth * (gain[positive].sum() / worth[positive].sum())).astype(np.float32)


def _joined_ptr(parts: list[Rows]) -> NDArray[np.int64]:
    sizes = [np.diff(part.ptr) for part in parts]
    return np.concatenate([[0], np.cumsum(np.concatenate([*sizes, np.zeros(0)]))]).astype(np.int64)


def _joined_texts(parts: Iterable[Rows], table: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Row of the dataset's text table for every row; -1 without text."""
    number = {bytes(digest): n for n, digest in enumerate(table)}
    joined = []
    for part in parts:
        local = np.array([*(number[bytes(digest)] for digest in part.digests), -1], np.int32)
        joined.append(local[part.text])
    return np.concatenate(joined)
