"""Other ways to write a text: seeded, never empty, and for training alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.recipe import Augmentation
from tasks.ranker.augment import augmented

SHORT = {"choc": "chocolate", "oz": "ounce"}


def a_plan(**fields):
    return Augmentation(views=1, **fields)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("choc bar, 12 oz", "chocolate bar, 12 ounce"),
        ("Chocolate bar", "Choc bar"),
        ("CHOC BAR", "CHOCOLATE BAR"),
        ("chocolates", "chocolates"),
    ],
)
def test_abbreviations_are_spelled_out_and_words_abbreviated(text, other):
    assert augmented(text, a_plan(synonyms=SHORT, swap_words=1, drop_words=0), 1) == other


def test_without_synonyms_and_drops_a_text_stays_itself():
    assert augmented("Oat milk. FOOD > DAIRY", a_plan(drop_words=0), 1) == "Oat milk. FOOD > DAIRY"


@given(st.text(max_size=60), st.integers(0, 99), st.floats(0, 0.99))
def test_the_same_seed_writes_the_same_and_never_nothing(text, seed, drop):
    plan = a_plan(synonyms=SHORT, drop_words=drop)
    once = augmented(text, plan, seed)
    assert once == augmented(text, plan, seed)
    assert bool(once.strip()) >= any(letter.isalnum() for letter in text)


def test_seeds_write_different_ways():
    text = " ".join(f"word{n}" for n in range(30))
    ways = {augmented(text, a_plan(drop_words=0.3), seed) for seed in range(20)}
    assert len(ways) == 20
    kept = np.mean([len(way.split()) for way in ways])
    assert 17 < kept < 25, "three of ten words are left out"
