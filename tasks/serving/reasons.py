"""Which inputs moved an item: its score against the score with one input as it is for a typical item of the catalogue.

Occlusion against a reference (Zeiler and Fergus 2014; Robnik-Sikonja and Kononenko 2008): one input at a time, so effects
need not add up. The reference is the median over what sells best, for the same user: what is the same for every item
(how often the user shops) has no effect, because it moves none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.domain.requests import Reason
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.features import columns, feature_names
from tasks.ranker.profile import Profile
from tasks.ranker.runtime import Scorer

EXPLAINED = 10  # items of a list
NAMED = 5  # inputs of an item
REFERENCE = 200  # items that sell best
ITEM_TEXT, HISTORY = "item_text", "purchase_history"


def reasons_of(scorer: Scorer, profile: Profile, rows: Ints, scores: Floats, stage: str) -> list[list[Reason]]:
    """For each catalogue row of a ranked list, the inputs that moved it most, the largest effect first.

    Args:
        rows: [n], -1 for an unknown item, which has no reasons.
        scores: [n], as ranked; with stage `full` what they are above stage 1 is what the history transformer added.
    """
    shown = np.flatnonzero(rows >= 0)[:EXPLAINED]
    reasons: list[list[Reason]] = [[] for _ in rows]
    if not len(shown):
        return reasons
    items, names = profile.items, feature_names(profile.items)
    x, vectors = columns(profile, rows[shown]), items.vectors(rows[shown])
    reference = np.argsort(-items.sales28, kind="stable")[:REFERENCE].astype(np.int32)
    typical = np.nanmedian(columns(profile, reference), axis=0)
    n, width = x.shape
    varied = np.repeat(x, width + 2, axis=0).reshape(n, width + 2, width)  # as is, one feature typical, text typical
    varied[:, np.arange(1, width + 1), np.arange(width)] = typical
    texts = np.repeat(vectors, width + 2, axis=0).reshape(n, width + 2, -1)
    texts[:, -1] = items.vectors(reference).mean(axis=0)
    told = scorer.base(varied.reshape(-1, width), texts.reshape(n * (width + 2), -1)).reshape(n, width + 2)
    for at, row in enumerate(shown.tolist()):
        base, *without = told[at].tolist()
        effects = {name: base - other for name, other in zip((*names, ITEM_TEXT), without, strict=True)}
        if stage == "full":
            effects[HISTORY] = float(scores[row]) - base
        reasons[row] = strongest(effects)
    return reasons


def strongest(effects: dict[str, float]) -> list[Reason]:
    """The inputs with the largest effects, up or down; those without any are left out."""
    ordered: Sequence[tuple[str, float]] = sorted(effects.items(), key=lambda one: (-abs(one[1]), one[0]))
    return [Reason(name, round(effect, 4)) for name, effect in ordered[:NAMED] if round(effect, 4)]
