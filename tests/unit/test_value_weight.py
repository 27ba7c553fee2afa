"""Gains by value: what costs more counts more, within bounds, and all positives together count what they counted before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.ranker.corpus import MOST_WORTH, Corpus, by_value
from tasks.ranker.features import feature_names
from tasks.ranker.log import Plans
from tasks.ranker.loss import slate_softmax
from tasks.ranker.rows import Sampling, training_rows
from tests.ranker_builders import DAY, a_builder, a_log, stocked


def test_a_dearer_answer_gains_in_proportion_to_its_price_to_the_power():
    gain = np.array([1, 0, 1, 1], np.float32)
    told = by_value(gain, np.log(np.array([1, 50, 2, 4], np.float32)), 0.5)
    assert told[1] == 0
    assert told[2] / told[0] == pytest.approx(2**0.5)
    assert told[3] / told[0] == pytest.approx(2)
    assert told.sum() == pytest.approx(3)


def test_one_television_is_not_ten_thousand_breads():
    told = by_value(np.ones(3, np.float32), np.log(np.array([1, 1, 10_000], np.float32)), 1.0)
    assert told[2] / told[0] == pytest.approx(MOST_WORTH)


def test_the_loss_pulls_harder_at_the_dearer_of_two_positives():
    scores, price = torch.zeros(20, requires_grad=True), np.ones(20, np.float32)
    price[1] = 8
    gain = torch.from_numpy(by_value((np.arange(20) < 2).astype(np.float32), np.log(price), 0.5))
    slate_softmax(scores, gain, torch.ones(20), torch.zeros(20, dtype=torch.long), 1).backward()
    assert scores.grad is not None
    assert scores.grad[1] < scores.grad[0] < 0 < scores.grad[2]


def test_a_corpus_reads_prices_from_the_rows_and_leaves_them_alone_unless_asked():
    lines = stocked([(DAY - n, user, item) for user in range(3) for n in (1, 4, 9) for item in range(user, user + 3)])
    builder = a_builder(a_log(lines), Plans({}))
    digests = np.arange(len(builder.texts.row) * 16, dtype=np.uint8).reshape(-1, 16)
    rows = training_rows(builder, DAY - 1, digests, Sampling(1.0, 1.0, 0.0, seed=1))
    names = list(feature_names(builder.items(DAY - 1)[0]))
    rows.x[:, names.index("price")] = np.log(np.arange(1, len(rows.x) + 1))
    data = SimpleNamespace(
        builder=builder,
        split=SimpleNamespace(train_days=("2017-06-19",)),
        fitted=SimpleNamespace(looked_at=(), most_weight=1.0, inputs=SimpleNamespace(features=names)),
        text_digests=np.unique(rows.digests, axis=0),
        training_rows=lambda days: [rows],
    )
    plain, valued = Corpus(data), Corpus(data, value_weight=0.5)
    assert (plain.gain[plain.label == 1] == 1).all()
    positive = valued.gain[valued.label == 1]
    assert (np.diff(positive) >= 0).all() and positive[-1] > positive[0] > 0
    assert (valued.gain[valued.label == 0] == 0).all() and (valued.label == plain.label).all()
