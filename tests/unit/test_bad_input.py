"""What a caller, a log or a training set may hold that is not as it should be: an answer that is finite, or one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from tasks.build_dataset import chosen_users
from tasks.domain.errors import InputRejected
from tasks.domain.requests import RequestRefused, convert_rank
from tasks.ranker.corpus import Corpus
from tasks.ranker.features import featurise
from tasks.ranker.log import Plans, read_log
from tasks.ranker.rows import Sampling, training_rows
from tasks.serving.engine import Engine
from tasks.serving.release import verify
from tests.ranker_builders import DAY, a_builder, a_log, stocked
from tests.serving_builders import ITEMS, a_release

IDS = [f"item-{n:03d}" for n in range(ITEMS)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    src, view = a_release(tmp_path_factory.mktemp("release"))
    return Engine.open(verify(src), view)


def a_history(count, **more):
    start = datetime(2017, 6, 30, 9, tzinfo=UTC)
    times = [(start - timedelta(days=n % 90)).isoformat() for n in range(count)]
    return [{"item_id": IDS[n % ITEMS], "event_time": times[n], **more} for n in range(count)]


REQUESTS = {
    "a household with no history": {"history": [], "k": 20},
    "a user nobody knows": {"user_id": "never-seen", "k": 20},
    "a history of products never seen": {"history": [{"item_id": "gone"}], "k": 20},
    "candidates never seen": {"candidates": ["gone-1", "gone-2"]},
    "some candidates never seen": {"candidates": ["gone", "item-003", "item-004"]},
    "10,000 events of history": {"history": a_history(10_000), "k": 20},
    "a future event": {"history": [{"item_id": "item-003", "event_time": "2031-01-01T00:00:00Z"}], "k": 20},
    "a price of 0": {"history": a_history(5, value=0.0), "k": 20},
    "a price of a million": {"history": a_history(5, value=1e6), "k": 20},
    "words that the vocabulary lacks": {"surface": "search", "query": "牛奶 ☃ zzzz", "k": 5},
}


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_what_is_unusual_is_answered_with_finite_scores(engine, request_of):
    ranking = engine.rank(convert_rank({"surface": "recommendation", **request_of}))
    assert len(ranking.items) == len(set(ranking.items)) > 0
    chance = 1 / (1 + np.exp(-np.array(ranking.scores, np.float64)))
    assert np.isfinite(ranking.scores).all() and ((chance >= 0) & (chance <= 1)).all()
    assert ranking.scores == sorted(ranking.scores, reverse=True)
    if wanted := request_of.get("candidates"):
        assert sorted(ranking.items) == sorted(wanted)


def test_a_future_event_counts_as_yesterdays(engine):
    asked = {"surface": "recommendation", "k": 20}
    future, yesterday = (
        engine.rank(convert_rank(asked | {"history": [{"item_id": "item-003", "event_time": f"{day}T12:00:00Z"}]}))
        for day in ("2031-01-01", "2017-06-30")
    )
    assert future == yesterday


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        ({"candidates": ["item-003", "item-003"]}, "candidates 0 and 1 are the same item"),
        ({"surface": "search", "query": "", "k": 5}, "query"),
        ({"surface": "search", "query": "   ", "k": 5}, "query"),
        ({"history": [{"item_id": "item-003", "value": float("nan")}]}, "numbers must be finite"),
        ({"history": a_history(10_001)}, "10000"),
        ({"history": [{"item_id": "item-003", "event_time": "1900-01-01T00:00:00Z"}]}, "of the year 1900"),
    ],
    ids=["a repeated candidate", "an empty text", "a blank text", "a NaN price", "10,001 events", "an event of 1900"],
)
def test_what_cannot_be_answered_is_refused_with_one_sentence(request_of, says):
    with pytest.raises(RequestRefused, match=says) as refused:
        convert_rank({"surface": "recommendation", **request_of})
    assert "\n" not in str(refused.value)


def test_a_nan_price_in_a_log_counts_as_unknown(tmp_path):
    path = tmp_path / "dt=2017-06-01" / "accepted-1.parquet"
    path.parent.mkdir()
    frame = {"event_id": ["a", "b"], "event_time": [datetime(2017, 6, 1, tzinfo=UTC)] * 2, "user_id": ["u", "v"]}
    frame |= {"item_id": ["milk", "milk"], "event_type": ["purchase"] * 2, "value": [float("nan"), float("inf")]}
    pl.DataFrame(frame | {"quantity": [float("nan"), 2.0]}).write_parquet(path)
    names = {"item_id": ["milk"], "title": ["milk"], "category_path": ["FOOD > MILK"], "brand": ["b"]}
    pl.DataFrame(names).write_parquet(tmp_path / "items.parquet")
    log = read_log([path], tmp_path / "items.parquet")
    assert sorted(log.quantity.tolist()) == [1, 2] and log.value.tolist() == [0, 0]


def test_ten_thousand_events_of_one_household_make_finite_features():
    rng = np.random.default_rng(1)
    days, items = rng.integers(0, 900, 10_000).tolist(), rng.integers(0, 12, 10_000).tolist()
    lines = {(DAY - 1 - day, 0, item) for day, item in zip(days, items, strict=True)}
    morning = a_builder(a_log(stocked(sorted(lines)))).morning(DAY)
    features = featurise(morning.items, morning.histories[0], np.arange(12, dtype=np.int32))
    assert len(morning.histories[0].rows) > 6_000
    assert np.isfinite(features.x).all() and np.isfinite(features.tokens).all()


class _Data:
    """A dataset of these rows, as Corpus reads it."""

    def __init__(self, rows, builder):
        self.rows, self.builder = rows, builder
        self.split = SimpleNamespace(train_days=("2017-06-19",))
        self.fitted = SimpleNamespace(looked_at=(), most_weight=1.0)
        self.text_digests = np.unique(rows.digests, axis=0)

    def training_rows(self, days):
        return [self.rows]


def test_a_training_set_of_one_class_says_so():
    lines = stocked([(DAY - n, user, item) for user in range(3) for n in (1, 4, 9) for item in range(user, user + 3)])
    builder = a_builder(a_log(lines), Plans({}))
    digests = np.arange(len(builder.texts.row) * 16, dtype=np.uint8).reshape(-1, 16)
    rows = training_rows(builder, DAY - 1, digests, Sampling(1.0, 1.0, 0.0, seed=1))
    assert Corpus(_Data(rows, builder)).label.any()
    for label, says in ((0, "is a negative"), (1, "is a positive")):
        one = replace(rows, label=np.full_like(rows.label, label))
        with pytest.raises(InputRejected, match=says):
            Corpus(_Data(one, builder))


def test_a_training_set_of_one_user_says_so(tmp_path):
    log = a_log([(DAY, 0, 0), (DAY, 1, 0)])
    (tmp_path / "users.json").write_text(json.dumps({"users": [log.user_ids[0]]}))
    with pytest.raises(InputRejected, match="only one user"):
        chosen_users(log, tmp_path)
