"""Other ways to write an item's text, for training alone: words spelled out, abbreviated or left out, by a seed."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from tasks.domain.recipe import Augmentation

WORD = re.compile(r"\w+")


def augmented(text: str, plan: Augmentation, seed: int) -> str:
    """Another view of `text`: the same for the same text, plan and seed. At least one word stays."""
    digest = hashlib.sha256(text.encode()).digest()
    rng = np.random.default_rng((seed, int.from_bytes(digest[:8])))
    swaps = plan.synonyms | {long: short for short, long in plan.synonyms.items()}
    words = WORD.findall(text)
    kept = rng.random(len(words)) >= plan.drop_words
    if len(words) and not kept.any():
        kept[rng.integers(len(words))] = True
    swapped = rng.random(len(words)) < plan.swap_words
    number = iter(range(len(words)))

    def write(match: re.Match[str]) -> str:
        n, word = next(number), match.group()
        if not kept[n]:
            return ""
        other = swaps.get(word.lower()) if swapped[n] else None
        if other is None:
            return word
        return other.upper() if word.isupper() else other.title() if word.istitle() else other

    return re.sub(r"\s+", " ", WORD.sub(write, text)).strip()
