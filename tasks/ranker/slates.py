"""A slate: what one user bought on one day, to be found in the catalogue of that morning; and its training rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tasks.ranker.arrays import Floats, Halves, Ints
from tasks.ranker.build import Morning, StateBuilder
from tasks.ranker.features import columns, feature_names
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.state import UserHistory
from tasks.ranker.tokens import TOKEN_WIDTH, tokenise

STRANGERS, MOST_LINES = 0.3, 60  # of the barely known: share without any history, and most lines of the others


@dataclass(frozen=True, slots=True)
class Slate:
    """`positives` are catalogue rows of the morning; `new` marks those that the user had never bought before."""

    day: int
    user: int
    positives: Ints
    new: NDArray[np.bool_]


def slates_of(builder: StateBuilder, day: int, row_of: Ints, size: int) -> list[Slate]:
    """One slate for each selected user who bought of the catalogue on `day`. Reads the day itself: these are labels."""
    log = builder.log
    first, after = log.before(day), log.before(day + 1)
    rows = row_of[log.item[first:after]]
    kept = (rows >= 0) & (rows < size) & np.isin(log.user[first:after], builder.users)
    rows, users, new = rows[kept], log.user[first:after][kept], builder.previous[first:after][kept] < 0
    slates = []
    for user in np.unique(users):
        mine = users == user
        order = np.argsort(rows[mine])
        slates.append(Slate(day, int(user), rows[mine][order].astype(np.int32), new[mine][order]))
    return slates


def slates_on(builder: StateBuilder, day: int) -> tuple[Morning, list[Slate]]:
    """The morning of `day` and its slates, with the histories of exactly their users."""
    items, row_of = builder.items(day)
    slates = slates_of(builder, day, row_of, items.size)
    users = np.array([slate.user for slate in slates], np.int32)
    return builder.with_histories(items, row_of, users), slates


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows of whole slates. Tokens of all rows lie behind each other, `lengths` says how many each has."""

    ptr: Ints  # slate s holds rows ptr[s]:ptr[s + 1]
    x: Halves  # [rows, features]
    text: Ints  # row of `digests`, -1 without text
    digests: NDArray[np.uint8]  # [texts, 16]: texts by digest, so that a file outlives any numbering
    lengths: NDArray[np.uint8]
    tokens: Halves  # [sum of lengths, TOKEN_WIDTH]
    label: NDArray[np.uint8]
    weight: Floats  # 1 / share kept

    def save(self, path: Path) -> None:
        save_file({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Rows:
        return cls(**load_file(path))

    @staticmethod
    def features_of(path: Path) -> Halves:
        """x alone: the tokens are most of a file."""
        with safe_open(path, framework="numpy") as file:
            x: Halves = file.get_tensor("x")
        return x


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which candidates become rows, see recipe.Data."""

    keep_bought: float
    keep_other: float
    barely_known: float
    seed: int


def training_rows(builder: StateBuilder, day: int, text_digests: NDArray[np.uint8], sampling: Sampling) -> Rows:
    """Rows of every slate of `day`: retrieved positives, and a share of the rest weighted to stand for all of it.

    Some slates come twice, the second time as if the user were barely known: else the model would have no idea of
    strangers, because every selected user has a long history.
    """
    morning, slates = slates_on(builder, day)
    parts = []
    for slate in slates:
        history = morning.histories[slate.user]
        rng = np.random.default_rng((sampling.seed, day, slate.user))
        seen_as = [history, barely_known(history, rng)] if rng.random() < sampling.barely_known else [history]
        for user in seen_as:
            profile = Profile(morning.items, user, day)
            rows, weight, label = _sampled(profile, slate, sampling, rng)
            tokens, mask = tokenise(profile, rows)
            parts.append((rows, weight, label, columns(profile, rows), tokens, mask > 0))
    if not parts:
        return _no_rows(len(feature_names(morning.items)))
    rows, weight, label, x, tokens, mask = (np.concatenate(column) for column in zip(*parts, strict=True))
    # a state numbers its own texts; the file names them by digest
    table_row = builder.texts.row[builder.catalogue(day)][rows]
    used, text = np.unique(table_row[table_row >= 0], return_inverse=True)
    local = np.full(len(rows), -1, np.int32)
    local[table_row >= 0] = text
    return Rows(
        ptr=np.cumsum([0, *(len(part[0]) for part in parts)]).astype(np.int32),
        x=x.astype(np.float16),
        text=local,
        digests=text_digests[used],
        lengths=mask.sum(1).astype(np.uint8),
        tokens=tokens[mask].astype(np.float16),
        label=label.astype(np.uint8),
        weight=weight,
    )


def barely_known(history: UserHistory, rng: np.random.Generator) -> UserHistory:
    """The user as a stranger, or with the last few lines only: no store, no neighbours."""
    lines = 0 if rng.random() < STRANGERS else int(np.exp(rng.uniform(0, np.log(MOST_LINES))))
    first = max(len(history.rows) - lines, 0)
    return UserHistory(
        rows=history.rows[first:],
        days=history.days[first:],
        quantity=history.quantity[first:],
        price=history.price[first:],
        discounted=history.discounted[first:],
    )


def _sampled(
    profile: Profile, slate: Slate, sampling: Sampling, rng: np.random.Generator
) -> tuple[Ints, Floats, NDArray[np.bool_]]:
    """Rows to train on, what each stands for, and which of them are positive.

    Positives that retrieval missed are left out: beside negatives that were all retrieved they would teach that what
    looks unlikely is bought.
    """
    candidates, past = candidates_of(profile), profile.by_item.keys
    label, bought = np.zeros(profile.items.size, bool), np.zeros(profile.items.size, bool)
    label[slate.positives] = True
    bought[past[past < len(bought)]] = True
    label, bought = label[candidates], bought[candidates]
    share = np.where(bought, sampling.keep_bought, sampling.keep_other).astype(np.float32)
    share[label] = 1
    kept = rng.random(len(candidates)) < share
    return candidates[kept], np.float32(1) / share[kept], label[kept]


def _no_rows(features: int) -> Rows:
    return Rows(
        ptr=np.zeros(1, np.int32),
        x=np.zeros((0, features), np.float16),
        text=np.zeros(0, np.int32),
        digests=np.zeros((0, 16), np.uint8),
        lengths=np.zeros(0, np.uint8),
        tokens=np.zeros((0, TOKEN_WIDTH), np.float16),
        label=np.zeros(0, np.uint8),
        weight=np.zeros(0, np.float32),
    )
