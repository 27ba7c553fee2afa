"""A dataset whose labels are missing, or that learnt on another world, is named before anything trains on it."""

from __future__ import annotations

import pytest

from tasks.domain.errors import InputRejected
from tasks.training_set import allowed
from tasks.validate_data import load_policy

RULES = load_policy().training


def test_a_sound_dataset_passes_without_a_word():
    assert allowed({"train_holdout_drift": 0.1, "class_balance": 1.1}, RULES) == []


def test_drift_is_marked_and_lost_labels_are_refused():
    assert "train_holdout_drift: 9" in allowed({"train_holdout_drift": 9.0, "class_balance": 1.1}, RULES)[0]
    with pytest.raises(InputRejected, match="class_balance: 8, allowed 3; times more, or less, positives"):
        allowed({"train_holdout_drift": 0.1, "class_balance": 8.0}, RULES)
