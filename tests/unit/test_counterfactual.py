"""SNIPS by hand, on a made-up log whose truth is known, and on the Open Bandit sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from tasks.domain.counterfactual import doubly_robust, snips
from tasks.evaluation.counterfactual import counterfactual
from tasks.ranker.arrays import iso_day
from tasks.ranker.build import StateBuilder
from tasks.ranker.features import COLUMN
from tasks.ranker.log import Plans
from tasks.ranker.rank import recommend
from tasks.ranker.shown import Shown
from tests.ranker_builders import texts_of
from tests.serving_builders import DAY, USERS, a_log

OPEN_BANDIT = Path(__file__).parent / "open_bandit" / "all.parquet"


def test_by_hand():
    # weights 2, 0, 1: (2 * 1 + 1 * 0) / 3; effective sample 9 / 5
    told = snips(np.array([1.0, 1, 0]), np.array([1, 0, 0.5]), np.array([0.5, 0.5, 0.5]), least_effective=1)
    assert told.value == pytest.approx(2 / 3)
    assert told.effective_sample == pytest.approx(9 / 5)
    assert told.standard_error == pytest.approx(np.sqrt(4 * (1 / 3) ** 2 + (2 / 3) ** 2) / 3)


def test_a_policy_that_the_log_hardly_knows_is_inconclusive():
    told = snips(np.ones(1_000), np.r_[np.ones(5), np.zeros(995)], np.full(1_000, 0.01))
    assert told.value is None and told.effective_sample == pytest.approx(5)
    assert told.sentence == "inconclusive: 1000 logged events are worth 5 for this policy, 100 are needed"
    assert snips(np.ones(3), np.zeros(3), np.ones(3)).value is None


@pytest.mark.parametrize(
    ("reward", "target", "propensity", "said"),
    [
        ([1.0], [1.0], [0.0], "propensity"),
        ([1.0], [1.0], [float("nan")], "propensity"),
        ([1.0], [1.5], [0.5], "target chance"),
        ([float("nan")], [1.0], [0.5], "reward"),
        ([1.0, 0.0], [1.0], [0.5], "lengths differ: 2 rewards"),
    ],
)
def test_chances_that_are_none_are_refused(reward, target, propensity, said):
    with pytest.raises(ValueError, match=said):
        snips(np.array(reward), np.array(target), np.array(propensity))


def test_it_finds_the_truth_that_the_mean_of_the_log_misses():
    rng = np.random.default_rng(1)
    pays, logged = np.array([0.02, 0.1, 0.3]), np.array([0.7, 0.2, 0.1])
    wanted = np.array([0.1, 0.2, 0.7])
    action = rng.choice(3, 40_000, p=logged)
    reward = (rng.random(40_000) < pays[action]).astype(float)
    told = snips(reward, wanted[action], logged[action])
    assert told.value == pytest.approx(pays @ wanted, abs=3 * told.standard_error)
    assert abs(reward.mean() - pays @ wanted) > 20 * told.standard_error


def test_doubly_robust_by_hand():
    # predicted .5 for the target, and it misses .5, 0, -.5 with weights 2, 0, 1: .5 + (2 * .5 + 1 * -.5) / 3
    told = doubly_robust(
        np.array([1.0, 1, 0]),
        np.array([1, 0, 0.5]),
        np.array([0.5, 0.5, 0.5]),
        np.array([0.5, 1, 0.5]),
        np.full(3, 0.5),
        least_effective=1,
    )
    assert told.value == pytest.approx(0.5 + 0.5 / 3)


@pytest.mark.parametrize("wrong", ["predictions", "propensities"])
def test_doubly_robust_is_right_where_either_the_predictions_or_the_propensities_are(wrong):
    rng = np.random.default_rng(2)
    pays, logged, wanted = np.array([0.1, 0.3, 0.6]), np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
    action = rng.choice(3, 40_000, p=logged)
    reward = (rng.random(40_000) < pays[action]).astype(float)
    believed = np.array([0.5, 0.1, 0.2]) if wrong == "predictions" else pays
    chances = np.full(40_000, 1 / 3) if wrong == "propensities" else logged[action]
    robust = doubly_robust(reward, wanted[action], chances, believed[action], np.full(40_000, believed @ wanted))
    plain = snips(reward, wanted[action], chances)
    assert robust.value == pytest.approx(pays @ wanted, abs=3 * robust.standard_error)
    if wrong == "propensities":
        assert abs(plain.value - pays @ wanted) > 10 * plain.standard_error


class Popular:
    def base(self, x, item_vec):
        return x[:, COLUMN["sales_28d"]]

    def full(self, x, item_vec, tokens, mask):
        return self.base(x, item_vec)


def lists(builder, day, each=20):
    """Lists of one place: every other one shows the model's choice; every fourth of those is answered, others always."""
    morning, rows = builder.morning(day), []
    item_of = {row: item for item, row in enumerate(morning.row_of.tolist()) if row >= 0}
    for user in builder.users.tolist():
        offered, ranking = recommend(Popular(), morning.items, morning.histories[user], day=day)
        first, last = (item_of[int(offered[ranking.order[at]])] for at in (0, -1))
        rows += [(user, first if n % 2 else last, n % 8 == 1 or n % 2 == 0) for n in range(each)]
    user, item, answered = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Shown(
        day=np.full(n, day, np.int32),
        request=np.arange(n, dtype=np.int32),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        position=np.zeros(n, np.int16),
        propensity=np.full(n, 0.5, np.float32),
        grade=answered.astype(np.uint8),
    )


def test_only_places_that_show_what_the_model_would_show_say_something_about_it():
    log, day = a_log(), DAY - 1
    users = np.arange(USERS, dtype=np.int32)
    builder = StateBuilder(log, Plans({}), users, texts_of(log))
    builder.shown = lists(builder, day, each=40)
    told = counterfactual(SimpleNamespace(whole=builder), (iso_day(day),), Popular())
    assert told["events"] == 40 * USERS and told["effective_sample"] == pytest.approx(20 * USERS)
    assert told["value"] == pytest.approx(0.25)
    robust = told["doubly_robust"]
    assert robust["value"] == pytest.approx(0.25, abs=1e-6), (
        "the model's choice is what is shown: its error cancels out"
    )
    assert builder.shown.grade.mean() > 0.6, "the log as a whole was answered much more often"


def test_a_log_without_lists_or_without_chances_has_no_estimate():
    log, day = a_log(), DAY - 1
    builder = StateBuilder(log, Plans({}), np.arange(USERS, dtype=np.int32), texts_of(log))
    data = SimpleNamespace(whole=builder)
    assert counterfactual(data, (iso_day(day),), Popular()) is None
    shown = lists(builder, day)
    builder.shown = replace(shown, propensity=np.full_like(shown.propensity, np.nan))
    assert counterfactual(data, (iso_day(day),), Popular()) is None
    builder.shown = shown
    assert counterfactual(data, (iso_day(day - 1),), Popular()) is None, "another day's lists"


def campaign(policy):
    """Rounds of ZOZOTOWN's fashion recommendation of November 2019 (Saito et al., NeurIPS 2021), CC BY 4.0."""
    return pl.read_parquet(OPEN_BANDIT).filter(pl.col("policy") == policy)


def test_from_the_log_of_thompson_sampling_the_clicks_of_random_choice():
    logged, random = campaign("bts"), campaign("random")
    items = logged["item_id"].max() + 1
    told = snips(
        logged["click"].to_numpy().astype(float),
        np.full(len(logged), 1 / items),
        logged["propensity_score"].to_numpy(),
    )
    truth, rounds = random["click"].mean(), len(random)
    noise = np.hypot(told.standard_error, np.sqrt(truth * (1 - truth) / rounds))
    assert (len(logged), rounds, items) == (10_000, 10_000, 80)
    assert told.value == pytest.approx(truth, abs=3 * noise)
    assert told.effective_sample < 0.5 * len(logged), "Thompson sampling seldom shows what random choice would"


def test_one_item_for_everyone_cannot_be_judged_from_random_choice_of_eighty():
    logged = campaign("random").filter(pl.col("position") == 1)
    told = snips(
        logged["click"].to_numpy().astype(float),
        (logged["item_id"] == 0).cast(pl.Float64).to_numpy(),
        logged["propensity_score"].to_numpy(),
    )
    assert told.value is None and told.sentence.startswith("inconclusive")


def test_doubly_robust_agrees_on_open_bandit_with_what_random_choice_earned():
    """Click rates of the items, counted on one half of the log, as what is predicted on the other."""
    logged, random = campaign("bts"), campaign("random")
    half = np.arange(len(logged)) % 2 == 0
    item, click = logged["item_id"].to_numpy(), logged["click"].to_numpy().astype(float)
    counts = np.bincount(item[half], minlength=80)
    rate = (np.bincount(item[half], click[half], minlength=80) + 0.4) / (counts + 100)
    rest = ~half
    told = doubly_robust(
        click[rest],
        np.full(rest.sum(), 1 / 80),
        logged["propensity_score"].to_numpy()[rest],
        rate[item[rest]],
        np.full(rest.sum(), rate.mean()),
    )
    truth = random["click"].mean()
    noise = np.hypot(told.standard_error, np.sqrt(truth * (1 - truth) / len(random)))
    assert told.value == pytest.approx(truth, abs=3 * noise)
