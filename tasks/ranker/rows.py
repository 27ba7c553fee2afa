"""Slates -> training rows: which candidates become rows, what each stands for, and the file of a day's rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tasks.ranker.arrays import Floats, Halves, Ints
from tasks.ranker.build import StateBuilder
from tasks.ranker.crowd import Crowd
from tasks.ranker.features import crowd_columns, feature_names
from tasks.ranker.log import BEST
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.slates import ShownSlate, Slate, shown_on, slates_of
from tasks.ranker.state import ItemState, UserHistory
from tasks.ranker.tokens import TOKEN_WIDTH, packed_tokens

SHOWN_ONLY = ("grade", "position", "propensity")
STRANGERS, MOST_LINES = 0.3, 60  # of the barely known: share without any history, and most lines of the others


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows of whole slates. Tokens of all rows lie behind each other, `lengths` says how many each has.

    The last three say what a log of purchases alone leaves open, and are saved only where they say more.
    """

    ptr: Ints  # slate s holds rows ptr[s]:ptr[s + 1]
    x: Halves  # [rows, features]
    text: Ints  # row of `digests`, -1 without text
    digests: NDArray[np.uint8]  # [texts, 16]: texts by digest, so that a file outlives any numbering
    lengths: NDArray[np.uint8]
    tokens: Halves  # [sum of lengths, TOKEN_WIDTH]
    label: NDArray[np.uint8]  # 1 where the grade is above 0
    weight: Floats  # 1 / share kept
    grade: NDArray[np.uint8]  # 0 nothing, 1 click, 2 cart, 3 purchase
    position: NDArray[np.int16]
    propensity: Floats

    def save(self, path: Path) -> None:
        arrays = {f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}
        if np.array_equal(self.grade, BEST * self.label) and (self.position < 0).all():
            for name in SHOWN_ONLY:
                arrays.pop(name)
        save_file(arrays, path)

    @classmethod
    def load(cls, path: Path) -> Rows:
        arrays = load_file(path)
        n = len(arrays["label"])
        arrays.setdefault("grade", BEST * arrays["label"])
        arrays.setdefault("position", np.full(n, -1, np.int16))
        arrays.setdefault("propensity", np.full(n, np.nan, np.float32))
        return cls(**arrays)

    @staticmethod
    def features_of(path: Path) -> Halves:
        """x alone: the tokens are most of a file."""
        with safe_open(path, framework="numpy") as file:
            x: Halves = file.get_tensor("x")
        return x


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which slates are made, and which candidates become rows, see recipe.Data and recipe.Exposure."""

    keep_bought: float
    keep_other: float
    barely_known: float
    seed: int
    hard_negatives: int = 0
    slates: str = "bought"
    keep_unseen: float = 0.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """Candidates of one slate that become rows."""

    rows: Ints
    weight: Floats
    grade: NDArray[np.uint8]
    position: NDArray[np.int16]
    propensity: Floats


def training_rows(builder: StateBuilder, day: int, text_digests: NDArray[np.uint8], sampling: Sampling) -> Rows:
    """Rows of every slate of `day`: retrieved positives, and a share of the rest weighted to stand for all of it.

    Some slates come twice, the second time as if the user were barely known: else the model would have no idea of
    strangers, because every selected user has a long history.
    """
    items, row_of = builder.items(day)
    bought = slates_of(builder, day, row_of, items.size) if sampling.slates != "shown" else []
    shown = shown_on(builder, day, row_of, items.size) if sampling.slates != "bought" else []
    users = np.unique(np.array([slate.user for slate in bought] + [listed.user for listed in shown], np.int32))
    morning = builder.with_histories(items, row_of, users)
    made = []
    for slate in bought:
        history = morning.histories[slate.user]
        rng = np.random.default_rng((sampling.seed, day, slate.user))
        seen_as = [history, barely_known(history, rng)] if rng.random() < sampling.barely_known else [history]
        for user in seen_as:
            profile = Profile(items, user, day)
            made.append((profile, _sampled(profile, slate, sampling, rng)))
    for listed in shown:
        rng = np.random.default_rng((sampling.seed, day, listed.user, listed.request))
        profile = Profile(items, morning.histories[listed.user], day)
        made.append((profile, _listed(profile, listed, sampling, rng)))
    return _rows(builder, items, made, text_digests)


def _rows(
    builder: StateBuilder, items: ItemState, made: list[tuple[Profile, Chosen]], text_digests: NDArray[np.uint8]
) -> Rows:
    if not made:
        return _no_rows(len(feature_names(items)))
    crowd, sizes = Crowd([profile for profile, _ in made]), [len(chosen.rows) for _, chosen in made]
    parts = ((one.rows, one.weight, one.grade, one.position, one.propensity) for _, one in made)
    rows, weight, grade, position, propensity = (np.concatenate(column) for column in zip(*parts, strict=True))
    owner = np.repeat(np.arange(len(made)), sizes)
    tokens, lengths = packed_tokens(crowd, rows, owner)
    # a state numbers its own texts; the file names them by digest
    table_row = builder.texts.row[builder.catalogue(items.day)][rows]
    used, text = np.unique(table_row[table_row >= 0], return_inverse=True)
    local = np.full(len(rows), -1, np.int32)
    local[table_row >= 0] = text
    return Rows(
        ptr=np.cumsum([0, *sizes]).astype(np.int32),
        x=crowd_columns(crowd, rows, owner).astype(np.float16),
        text=local,
        digests=text_digests[used],
        lengths=lengths.astype(np.uint8),
        tokens=tokens.astype(np.float16),
        label=(grade > 0).astype(np.uint8),
        weight=weight,
        grade=grade,
        position=position,
        propensity=propensity,
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


def _sampled(profile: Profile, slate: Slate, sampling: Sampling, rng: np.random.Generator) -> Chosen:
    """Rows of what was bought of the catalogue.

    Positives that retrieval missed are left out: beside negatives that were all retrieved they would teach that what
    looks unlikely is bought.
    """
    candidates, past = candidates_of(profile), profile.by_item.keys
    label, known = np.zeros(profile.items.size, bool), np.zeros(profile.items.size, bool)
    label[slate.positives] = True
    known[past[past < len(known)]] = True
    label, known = label[candidates], known[candidates]
    share = np.where(known, sampling.keep_bought, sampling.keep_other).astype(np.float32)
    share[label] = 1
    for group in (known, ~known):  # candidates come best first
        share[np.flatnonzero(group & ~label)[: sampling.hard_negatives]] = 1
    kept = rng.random(len(candidates)) < share
    n = int(kept.sum())
    return Chosen(
        rows=candidates[kept],
        weight=np.float32(1) / share[kept],
        grade=(BEST * label[kept]).astype(np.uint8),
        position=np.full(n, -1, np.int16),
        propensity=np.full(n, np.nan, np.float32),
    )


def _listed(profile: Profile, slate: ShownSlate, sampling: Sampling, rng: np.random.Generator) -> Chosen:
    """Rows of a list that was shown: all of it, the unanswered as hard negatives, and a share of what was not shown."""
    unseen = np.setdiff1d(candidates_of(profile), slate.rows) if sampling.keep_unseen else slate.rows[:0]
    unseen = unseen[rng.random(len(unseen)) < sampling.keep_unseen]
    n = len(unseen)
    return Chosen(
        rows=np.concatenate([slate.rows, unseen]).astype(np.int32),
        weight=np.r_[np.ones(len(slate.rows)), np.full(n, 1 / (sampling.keep_unseen or 1))].astype(np.float32),
        grade=np.r_[slate.grade, np.zeros(n, np.uint8)].astype(np.uint8),
        position=np.r_[slate.position, np.full(n, -1)].astype(np.int16),
        propensity=np.r_[slate.propensity, np.full(n, np.nan)].astype(np.float32),
    )


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
        grade=np.zeros(0, np.uint8),
        position=np.zeros(0, np.int16),
        propensity=np.zeros(0, np.float32),
    )
