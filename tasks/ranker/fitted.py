"""What is learnt from training rows before any weights: how unknown values are filled in, how features are scaled.

Fitted on the training days only and never on validation or holdout. `Inputs` travels with the weights: training, judging
and serving turn features into model input by the same `complete`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record, canonical_json
from tasks.ranker.arrays import Floats, Halves
from tasks.ranker.features import FEATURES, UNKNOWN
from tasks.ranker.knowledge import NULLABLE

FILE = "fitted.json"
SAMPLED_ROWS = 200_000
NEVER_VARIES = 1e-4  # deviation below which a feature is left out


class Inputs(Record):
    """How features become model input: by name, unknown values filled in, each with a column that says so."""

    features: tuple[str, ...] = FEATURES
    nullable: tuple[str, ...] = ()
    fills: tuple[float, ...] = ()  # of the nullable ones: the median of what was known in training
    position: bool = False  # the place in the list is an input too, in training; who serves asks about the first place

    @property
    def columns(self) -> tuple[str, ...]:
        return self.features + tuple(f"{name}_unknown" for name in self.nullable) + ("position",) * self.position

    @cached_property
    def _nullable(self) -> list[int]:
        return [self.features.index(name) for name in self.nullable]

    def complete(self, x: Floats, position: NDArray[np.int16] | None = None) -> Floats:
        """Model input of feature rows; columns behind those that the model was trained on are left out.

        Args:
            position: where each row was shown, for training; -1 and None are the first place.

        Raises:
            InputRejected: the state cannot fill all features of the model.
        """
        if x.shape[1] < len(self.features):
            raise InputRejected(
                f"the model reads {len(self.features)} features and the state fills {x.shape[1]}; missing: "
                f"{', '.join(self.features[x.shape[1] :])}. Build the state with the recipe of the weights"
            )
        x = x[:, : len(self.features)]
        if not self.nullable and not self.position:
            return x
        unknown = np.isnan(x[:, self._nullable])
        known = x.copy()
        known[:, self._nullable] = np.where(unknown, np.array(self.fills, np.float32), x[:, self._nullable])
        parts = [known, unknown.astype(np.float32)]
        if self.position:
            place = np.zeros(len(x)) if position is None else np.maximum(position, 0)
            parts.append(np.log1p(place).astype(np.float32)[:, None])
        return np.concatenate(parts, axis=1)


class Fitted(Record):
    """fitted.json: everything that was counted over the training rows, and over which."""

    first_day: str
    last_day: str
    rows: int
    inputs: Inputs
    mean: tuple[float, ...]  # of each input column, unknown values filled in
    scale: tuple[float, ...]  # 1 / standard deviation; 0 where a column never varies, which leaves it out
    unknown_share: dict[str, float]  # of the nullable features
    constants: dict[str, tuple[float, str]] = UNKNOWN  # feature -> what stands for unknown, and the feature that tells
    vocabularies: dict[str, tuple[str, ...]]  # values that the training days' catalogues held
    looked_at: tuple[float, ...] = ()  # chance that each place of a list is looked at, see position_bias.py
    most_weight: float = 1.0  # of an answer at a place that is seldom looked at; 1 corrects nothing

    def save(self, directory: Path) -> None:
        (directory / FILE).write_bytes(canonical_json(self.model_dump(mode="json")))

    @classmethod
    def load(cls, directory: Path) -> Fitted:
        return cls.model_validate_json((directory / FILE).read_bytes())


def fit(
    days: Sequence[str],
    names: tuple[str, ...],
    x: Iterable[Halves],
    rows: int,
    vocabularies: dict[str, tuple[str, ...]],
    *,
    position: bool = False,
) -> Fitted:
    """Fit on the feature rows `x` of the training days, part by part; every nth of `rows` rows is looked at."""
    sample = _every(x, max(1, rows // SAMPLED_ROWS), len(names))
    nullable = tuple(name for name in names if name in NULLABLE)
    at = [names.index(name) for name in nullable]
    fills = tuple(float(np.median(known)) if len(known := of[~np.isnan(of)]) else 0.0 for of in sample[:, at].T)
    known = tuple(float(np.float32(fill)) for fill in fills)
    inputs = Inputs(features=names, nullable=nullable, fills=known, position=position)
    shares = np.isnan(sample[:, at]).mean(0) if len(sample) else np.zeros(len(at))
    complete = inputs.complete(sample)
    mean, deviation = (complete.mean(0), complete.std(0)) if len(complete) else np.zeros((2, len(inputs.columns)))
    scale = np.where(deviation > NEVER_VARIES, 1 / np.maximum(deviation, NEVER_VARIES), 0)
    if position:  # a logarithm of a small number: as it is
        mean[-1], scale[-1] = 0, 1
    return Fitted(
        first_day=days[0],
        last_day=days[-1],
        rows=rows,
        inputs=inputs,
        mean=tuple(mean.astype(np.float32).tolist()),
        scale=tuple(scale.astype(np.float32).tolist()),
        unknown_share=dict(zip(nullable, shares.tolist(), strict=True)),
        vocabularies=vocabularies,
    )


def _every(parts: Iterable[Halves], step: int, width: int) -> Floats:
    """Every `step`th row of all parts together, as float64."""
    kept, seen = [np.zeros((0, width))], 0
    for part in parts:
        kept.append(part[-seen % step :: step].astype(np.float64))
        seen += len(part)
    return np.concatenate(kept)
