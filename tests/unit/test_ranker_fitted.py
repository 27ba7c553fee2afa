"""What is fitted before training: on training rows only, with a number and a flag for everything unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.domain.errors import InputRejected
from tasks.ranker.features import FEATURES, UNKNOWN, featurise
from tasks.ranker.fitted import Fitted, Inputs, fit
from tasks.ranker.knowledge import KNOWLEDGE, NULLABLE
from tests.ranker_builders import DAY, a_builder, a_log, stocked

NAMES = FEATURES + KNOWLEDGE
DAYS = ("2017-06-01", "2017-06-02")
NAN = float("nan")


def rows_of(n, seed=0, **columns):
    x = np.random.default_rng(seed).normal(size=(n, len(NAMES))).astype(np.float16)
    for name, values in columns.items():
        x[:, NAMES.index(name)] = values
    return x


def fitted(*parts):
    return fit(DAYS, NAMES, parts, sum(map(len, parts)), {"type": ("A", "B")})


def test_the_median_stands_for_the_unknown_and_a_flag_says_so():
    one = fitted(rows_of(5, bought_together=[1, NAN, 3, NAN, 8]))
    complete = one.inputs.complete(rows_of(2, bought_together=[NAN, 5]).astype(np.float32))
    assert complete.shape == (2, len(one.inputs.columns)) == (2, len(NAMES) + len(NULLABLE))
    assert complete[:, NAMES.index("bought_together")].tolist() == [3, 5]
    assert complete[:, one.inputs.columns.index("bought_together_unknown")].tolist() == [1, 0]
    assert np.isfinite(complete).all()
    assert one.unknown_share["bought_together"] == pytest.approx(2 / 5)


def test_columns_are_scaled_to_what_training_held_and_constant_ones_left_out():
    x = rows_of(300, seed=1, sales_2d=7.0)
    one = fitted(x[:100], x[100:100], x[100:])
    complete = one.inputs.complete(x.astype(np.float32)).astype(np.float64)
    np.testing.assert_allclose(one.mean, complete.mean(0), rtol=1e-5, atol=1e-6)
    normal = (complete - one.mean) * one.scale
    varying = np.array(one.scale) > 0
    np.testing.assert_allclose(normal[:, varying].std(0), 1, rtol=1e-4)
    assert one.scale[NAMES.index("sales_2d")] == 0


def test_what_is_fitted_survives_the_disk_to_the_last_bit(tmp_path):
    one = fitted(rows_of(40, bought_together=NAN))
    one.save(tmp_path)
    assert Fitted.load(tmp_path) == one
    assert one.inputs.fills[one.inputs.nullable.index("bought_together")] == 0, (
        "never known: nothing to take a median of"
    )


def test_a_large_training_set_is_sampled_evenly_over_its_parts(monkeypatch):
    monkeypatch.setattr("tasks.ranker.fitted.SAMPLED_ROWS", 25)
    x = rows_of(100, seed=2)
    one, other = fitted(x), fitted(x[:33], x[33:34], x[34:])
    assert one == other
    np.testing.assert_allclose(one.mean[0], x[::4, 0].astype(np.float64).mean(), rtol=1e-5)


def test_a_model_reads_its_own_features_of_a_state_with_more():
    x = rows_of(3).astype(np.float32)
    np.testing.assert_array_equal(Inputs().complete(x), x[:, : len(FEATURES)])


def test_a_state_with_fewer_features_than_the_model_is_refused_by_name():
    with pytest.raises(InputRejected, match="missing: category_sales_28d, .*recipe of the weights"):
        Inputs(features=NAMES).complete(rows_of(3).astype(np.float32)[:, : len(FEATURES)])


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_constant_that_stands_for_unknown_is_told_by_another_feature(name):
    """Nobody's features: each constant is where the table says, and the feature beside it gives it away."""
    constant, teller = UNKNOWN[name]
    morning = a_builder(a_log(stocked([(DAY - 20, 0, 0), (DAY - 3, 0, 0), (DAY - 3, 1, 0)]))).morning(DAY)
    rows = morning.items.rows(["item-00"])
    nobody = featurise(morning.items, None, rows).x[0]
    known = featurise(morning.items, morning.histories[0], rows).x[0]
    value, flag = FEATURES.index(name), FEATURES.index(teller)
    assert nobody[value] == pytest.approx(constant)
    assert nobody[flag] != known[flag]
    assert math.isfinite(known[value])
