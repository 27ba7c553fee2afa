"""Clicks made with a known liking of every item and a known look at every place: naive counts are fooled, ours are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from tasks.domain.exploration import drawn
from tasks.ranker.corpus import gains
from tasks.ranker.fitted import Fitted, Inputs
from tasks.ranker.loss import slate_softmax
from tasks.ranker.position_bias import examination, inverse_propensity

ITEMS, PLACES, LISTS = 16, 8, 20_000
LOOK = (1 + np.arange(PLACES)) ** -1.0
LIKE = np.random.default_rng(1).permutation(np.linspace(0.3, 0.6, ITEMS))
UNKNOWN = np.float32(np.nan)


@pytest.fixture(scope="module")
def clicks():
    """A shop that puts what it believes in on top, and believes the opposite of the truth."""
    rng = np.random.default_rng(7)
    belief = -12 * LIKE + rng.gumbel(0, 1.0, (LISTS, ITEMS))
    item = np.argsort(-belief, axis=1)[:, :PLACES].astype(np.int32)
    position = np.broadcast_to(np.arange(PLACES, dtype=np.int16), item.shape)
    clicked = rng.random(item.shape) < LOOK[position] * LIKE[item]
    return item.ravel(), position.ravel().copy(), clicked.ravel()


def fitted(looked_at, most):
    return Fitted(
        first_day="2017-06-01", last_day="2017-06-02", rows=1, inputs=Inputs(), mean=(), scale=(), unknown_share={},
        vocabularies={}, looked_at=looked_at, most_weight=most,
    )  # fmt: skip


def rate(item, worth):
    return np.bincount(item, worth, ITEMS) / np.bincount(item, minlength=ITEMS)


def agreement(scores):
    return kendalltau(scores, LIKE).statistic


def test_the_planted_look_is_found(clicks):
    item, position, clicked = clicks
    looked = examination(item, position, clicked)
    assert looked[0] == 1
    np.testing.assert_allclose(looked, LOOK, atol=0.04)


def test_naive_rates_are_fooled_and_weighted_ones_are_not(clicks):
    item, position, clicked = clicks
    naive = rate(item, clicked)
    nothing = np.full(len(item), UNKNOWN)
    weight = inverse_propensity(position, nothing, examination(item, position, clicked), most=20)
    corrected = rate(item, clicked * weight)
    assert agreement(naive) < 0.7 < 0.85 < agreement(corrected)
    np.testing.assert_allclose(corrected, LIKE, atol=0.08)


@pytest.mark.parametrize(("most", "right"), [(1.0, False), (20.0, True)])
def test_training_on_weighted_clicks_recovers_the_order(clicks, most, right):
    """One score an item, trained by the loss of the ranker: 1 is the recipe's `ignored`."""
    torch.set_num_threads(1)  # two would wait for each other, a hundred times as long
    item, position, clicked = clicks
    looked = tuple(examination(item, position, clicked).tolist())
    gain, _ = gains(clicked.astype(np.uint8), position, np.full(len(item), UNKNOWN), fitted(looked, most))
    scores = torch.zeros(ITEMS, requires_grad=True)
    rows, slate = torch.from_numpy(item).long(), torch.arange(LISTS).repeat_interleave(PLACES)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = slate_softmax(scores[rows], torch.from_numpy(gain), torch.ones(len(rows)), slate, LISTS)
        loss.backward()
        optimizer.step()
    found = agreement(scores.detach().numpy())
    assert found > 0.85 if right else found < 0.7


def test_the_look_at_a_place_goes_before_a_logged_propensity_and_is_clipped():
    looked = np.array([1.0, 0.5, 0.01], np.float32)
    position = np.array([0, 1, 2, 1, -1, 9], np.int16)
    logged = np.array([UNKNOWN, UNKNOWN, UNKNOWN, 0.25, UNKNOWN, 1e-9], np.float32)
    assert inverse_propensity(position, logged, looked, 10).tolist() == [1, 2, 10, 2, 1, 10]
    nowhere = np.full(len(position), -1, np.int16)
    assert inverse_propensity(nowhere, logged, looked, 10).tolist() == [1, 1, 1, 4, 1, 10]
    nothing = np.zeros(0, np.float32)
    assert inverse_propensity(position, logged, nothing, 10).tolist() == [1, 1, 1, 4, 1, 10]
    assert inverse_propensity(position, logged, looked, 1).tolist() == [1] * 6, "most 1 corrects nothing"


def belief_lists(spread):
    """Lists of a shop that is fairly sure of the opposite of the truth."""
    rng = np.random.default_rng(7)
    return rng, np.argsort(12 * LIKE - rng.gumbel(0, spread, (3 * LISTS, ITEMS)), axis=1)[:, :PLACES]


def swapped(rng, best):
    """The service's exploration, of a list whose neighbours are all near ties."""
    near = np.ones(PLACES - 1, bool)
    drawn_lists = [drawn(f"request-{n}", 0.05, near) for n in range(len(best))]
    return np.stack([one[0] for one in drawn_lists]), np.stack([one[1] for one in drawn_lists])


def at_random(rng, best):
    """One list in five in a random order: every item may come to every place."""
    order = np.where(
        rng.random((len(best), 1)) < 0.2, rng.permuted(np.arange(PLACES) + 0 * best, axis=1), np.arange(PLACES)
    )
    return order, 0.8 * (order == np.arange(PLACES)) + 0.2 / PLACES


@pytest.mark.parametrize("explore", [swapped, at_random])
def test_explored_lists_are_weighed_by_the_look_and_not_by_their_chance(explore):
    rng, best = belief_lists(0.5)
    order, chance = explore(rng, best)
    item, position = (
        np.take_along_axis(best, order, 1).ravel().astype(np.int32),
        np.tile(np.arange(PLACES, dtype=np.int16), len(best)),
    )
    clicked = rng.random(len(item)) < LOOK[position] * LIKE[item]
    looked, logged = examination(item, position, clicked), chance.ravel().astype(np.float32)
    by_look = rate(item, clicked * inverse_propensity(position, logged, looked, 10))
    by_chance = rate(item, clicked * inverse_propensity(position, logged, np.zeros(0, np.float32), 10))
    assert agreement(by_chance) < 0.8 < 0.85 < agreement(by_look)


def test_places_that_no_item_connects_are_left_alone(clicks):
    item, position, clicked = (part[:4_000] for part in clicks)
    far = position >= 5
    apart = np.where(far, item + ITEMS, item).astype(np.int32)  # other items below the fifth place
    looked = examination(apart, position, clicked)
    assert (looked[5:] == 1).all() and (looked[1:5] < 1).all()


def test_without_places_nothing_is_estimated():
    assert len(examination(np.zeros(3, np.int32), np.full(3, -1, np.int16), np.ones(3, bool))) == 0


def test_unanswered_rows_are_not_corrected_and_the_best_grade_is_worth_one():
    position = np.array([1, 1, 0, 1], np.int16)
    gain, inverse = gains(np.array([0, 1, 3, 3], np.uint8), position, np.full(4, UNKNOWN), fitted((1.0, 0.5), 10))
    assert inverse.tolist() == [1, 2, 1, 2]
    assert gain.tolist() == pytest.approx([0, 2 / 7, 1, 2])
    clicks_only, _ = gains(np.array([0, 1], np.uint8), position[:2], np.full(2, UNKNOWN), fitted((), 1))
    assert clicks_only.tolist() == [0, 1]


def test_a_place_that_is_an_input_is_the_first_one_when_serving():
    inputs = Inputs(position=True)
    x = np.zeros((3, len(inputs.features)), np.float32)
    assert inputs.columns[-1] == "position"
    assert inputs.complete(x)[:, -1].tolist() == [0, 0, 0]
    trained = inputs.complete(x, np.array([0, 3, -1], np.int16))[:, -1]
    assert trained.tolist() == pytest.approx([0, np.log(4), 0])
