"""Histories altered in training: whole trips go or change their days, behind every candidate, and gaps are told anew."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.domain.recipe import Augmentation
from tasks.ranker.augment_history import OF_TYPE, TIMES, altered
from tasks.ranker.crowd import Crowd
from tasks.ranker.profile import Profile
from tasks.ranker.tokens import AGE, DUE, GAP, TOKEN, packed_tokens
from tests.ranker_builders import DAY, a_builder, a_log, stocked

QUANTITY = TOKEN.index("quantity")
TRIPS = {0: (1, 4, 9, 11, 20, 33), 1: (2, 3), 2: (6,)}  # user: ages
KEPT = Augmentation()


def a_history(trips=TRIPS, bought=4):
    """(tokens, lengths, slate) of three users' slates, six candidates each, as training reads them."""
    lines = stocked(
        [(DAY - age, user, item) for user, ages in trips.items() for age in ages for item in range(user, user + bought)]
    )
    quantity = np.arange(1, len(lines) + 1, dtype=np.float32)  # each line is known by its number
    builder = a_builder(a_log(lines, quantity=quantity))
    morning = builder.morning(DAY)
    crowd = Crowd(tuple(Profile(morning.items, morning.histories[user], DAY) for user in range(3)))
    owner = np.repeat(np.arange(3), 6)
    tokens, lengths = packed_tokens(crowd, np.tile(np.arange(6, dtype=np.int32), 3), owner)
    return tokens.astype(np.float16), lengths, owner


def trips_of(tokens, lengths, slate):
    """[slate] the ages of its trips, of all its rows."""
    at = slate[np.repeat(np.arange(len(lengths)), lengths)]
    return [set(ages_of(tokens[at == one]).tolist()) for one in range(3)]


def ages_of(tokens):
    return np.expm1(2 * tokens[:, AGE].astype(np.float32)).round().astype(int)


def draw(seed=1):
    return np.random.default_rng(seed)


def test_told_to_alter_nothing_everything_stays_as_serving_reads_it():
    tokens, lengths, slate = a_history()
    again, counts = altered(tokens, lengths, slate, KEPT, draw())
    assert (counts == lengths).all()
    assert np.allclose(again, tokens, atol=2e-3)  # gaps go through halves of ages


@pytest.mark.parametrize("plan", [Augmentation(mask_history=0.5), Augmentation(crop_history=0.7)])
def test_a_trip_that_is_left_out_is_behind_no_candidate_and_the_others_are_whole(plan):
    tokens, lengths, slate = a_history()
    fewer = 0
    for seed in range(20):
        found, counts = altered(tokens, lengths, slate, plan, draw(seed))
        left, before = trips_of(found, counts, slate), trips_of(tokens, lengths, slate)
        fewer += left != before
        row = np.repeat(np.arange(len(lengths)), lengths)
        stays = np.array([age in left[slate[at]] for at, age in zip(row, ages_of(tokens), strict=True)])
        assert (counts == np.bincount(row[stays], minlength=len(lengths))).all()
        others = [n for n in range(tokens.shape[1]) if n not in (GAP, DUE)]
        assert np.array_equal(found[:, others], tokens[stays][:, others])
    assert fewer >= 10


def test_gaps_are_those_of_a_user_who_never_made_the_trips():
    few = {0: (1, 4, 9, 20), 1: (2, 3), 2: (6,)}  # so few that tokens hold them all
    tokens, lengths, slate = a_history(few, bought=2)
    found, counts = altered(tokens, lengths, slate, Augmentation(mask_history=0.4), draw(3))
    left = trips_of(found, counts, slate)
    assert 1 < len(left[0]) < 4
    wanted, wanted_counts, _ = a_history(dict(enumerate(left)), bought=2)
    assert (counts == wanted_counts).all()
    assert np.allclose(found[:, [AGE, GAP, DUE]], wanted[:, [AGE, GAP, DUE]], atol=5e-3)


def test_cropped_what_is_left_are_trips_without_a_hole():
    tokens, lengths, slate = a_history()
    lengths_seen = set()
    for seed in range(30):
        left = trips_of(*altered(tokens, lengths, slate, Augmentation(crop_history=0.5), draw(seed)), slate)
        ages = sorted(TRIPS[0])
        inside = [age in left[0] for age in ages]
        first, last = inside.index(True), len(inside) - inside[::-1].index(True)
        assert all(inside[first:last]) and last - first >= 3
        assert left[2] == {6}, "the only trip stays"
        lengths_seen.add((first, last))
    assert len(lengths_seen) > 5


def test_reordered_trips_exchange_their_days_and_keep_what_was_bought():
    tokens, lengths, slate = a_history()
    plan = Augmentation(reorder_history=1.0)
    found, counts = altered(tokens, lengths, slate, plan, draw(2))
    assert (counts == lengths).all() and trips_of(found, counts, slate) == trips_of(tokens, lengths, slate)
    row = np.repeat(np.arange(len(lengths)), lengths)
    for at in range(len(lengths)):
        own, other = tokens[row == at], found[row == at]
        assert sorted(own[:, QUANTITY]) == sorted(other[:, QUANTITY])
        assert (np.diff(ages_of(other[other[:, OF_TYPE] == 1])) <= 0).all(), "oldest first"
    moved = {}  # of the first slate: the day of what was bought, before -> after, the same behind every candidate
    for at in np.flatnonzero(slate == 0):
        for mark in (0, 1):
            own, other = (
                rows[(row == at) & (rows[:, OF_TYPE] == mark) & (rows[:, TOKEN.index("of_type_day")] == 0)]
                for rows in (tokens, found)
            )
            of = dict(zip(own[:, QUANTITY].tolist(), ages_of(own).tolist(), strict=True))
            for mark_of, age in zip(other[:, QUANTITY].tolist(), ages_of(other).tolist(), strict=True):
                assert moved.setdefault(of[mark_of], age) == age
    assert any(before != after for before, after in moved.items()) and sorted(moved) == sorted(moved.values())
    times = {tuple(one) for one in tokens[:, TIMES].tolist()}
    assert {tuple(one) for one in found[:, TIMES].tolist()} <= times


def test_the_same_seed_alters_the_same_and_another_does_not():
    history, plan = a_history(), Augmentation(crop_history=0.3, mask_history=0.2, reorder_history=0.5)
    before = history[0].copy()
    once, again, other = (altered(*history, plan, draw(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(once, again) and not (once.shape == other.shape and np.array_equal(once, other))
    assert np.array_equal(history[0], before), "what training reads again is not written to"


def test_users_without_any_purchase_have_nothing_to_alter():
    none = np.zeros((0, len(TOKEN)), np.float16)
    tokens, lengths = altered(
        none,
        np.zeros(4, np.uint8),
        np.arange(4),
        Augmentation(crop_history=0.5, mask_history=0.5, reorder_history=1),
        draw(),
    )
    assert len(tokens) == 0 and lengths.tolist() == [0, 0, 0, 0]
