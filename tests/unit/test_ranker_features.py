"""Features of a shop small enough to count by hand, on one morning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.ranker.arrays import epoch_day, iso_day, weekday
from tasks.ranker.features import FEATURES, featurise
from tasks.ranker.log import Plans
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of, past_items, retrieve
from tasks.ranker.state import history_from_events
from tasks.ranker.tokens import MAX_TOKENS, TOKEN, tokenise
from tests.ranker_builders import DAY, a_builder, a_log, stocked

# user 0: item 0 on three trips, item 1 (same type) and item 7 (another category) once each
LINES = [(DAY - 20, 0, 0), (DAY - 10, 0, 0), (DAY - 10, 0, 1), (DAY - 4, 0, 0), (DAY - 2, 0, 7), (DAY - 3, 1, 0)]


@pytest.fixture(scope="module")
def morning():
    return a_builder(a_log(stocked(LINES))).morning(DAY)


def feature(morning, name, item, user=0):
    rows = morning.items.rows([f"item-{item:02d}"])
    features = featurise(morning.items, morning.histories.get(user), rows)
    return float(features.x[0, FEATURES.index(name)])


def test_counts_and_times_of_the_item_itself(morning):
    assert feature(morning, "count", 0) == pytest.approx(math.log1p(3))
    assert feature(morning, "days_since", 0) == pytest.approx(math.log1p(4))
    assert feature(morning, "trips_since", 0) == pytest.approx(math.log1p(1))
    assert feature(morning, "gap", 0) == pytest.approx(math.log1p(8))
    assert feature(morning, "due", 0) == pytest.approx(math.log(4.5 / 8.5))
    assert feature(morning, "trip_rate", 0) == pytest.approx(3 / 4)
    assert feature(morning, "decayed_15d", 0) == pytest.approx(
        math.log1p(sum(math.exp(-age / 15) for age in (20, 10, 4))), rel=1e-5
    )


def test_an_item_never_bought_is_unknown_not_zero_days_ago(morning):
    assert feature(morning, "bought", 5) == 0
    assert feature(morning, "days_since", 5) == pytest.approx(math.log1p(400))
    assert feature(morning, "gap_unknown", 5) == 1


def test_type_and_category_count_lines_of_their_items(morning):
    assert feature(morning, "type_lines", 2) == pytest.approx(math.log1p(4))
    assert feature(morning, "share_of_type_bought", 0) == pytest.approx(3 / 4)
    assert feature(morning, "category_share", 8) == pytest.approx(math.log1p(100 / 5))
    assert feature(morning, "type_gap", 1) == pytest.approx(math.log1p(8)), "type 0 was bought on 3 days over 16"


def test_market_counters_are_over_all_users(morning):
    assert feature(morning, "sales_7d", 0) == pytest.approx(math.log1p(2))
    assert feature(morning, "sales_90d", 0) == pytest.approx(math.log1p(4 + 5))
    assert feature(morning, "buyers_90d", 0) == pytest.approx(math.log1p(3))
    assert feature(morning, "first_time_sales_7d", 0) == pytest.approx(math.log1p(1)), "user 1 only"


def test_money_off_and_unit_prices():
    log = a_log(
        stocked([(DAY - 1, 0, 0), (DAY - 2, 1, 0)]),
        quantity=np.r_[[2.0, 1.0], np.ones(60)].astype(np.float32),
        value=np.r_[[4.0, 5.0], np.full(60, 2.0)].astype(np.float32),
        discount=np.r_[[1.0, 0.0], np.zeros(60)].astype(np.float32),
    )
    morning = a_builder(log).morning(DAY)
    assert feature(morning, "price", 0) == pytest.approx(math.log(9 / 3), rel=1e-5)
    assert feature(morning, "discounted_7d", 0) == pytest.approx(1.1 / 3)
    assert feature(morning, "discount_habit", 0) == 1.0


def test_a_plan_counts_on_its_own_day_only():
    promoted = {DAY: (np.array([4], np.int32), np.array([0.25], np.float32), np.array([0.5], np.float32))}
    builder = a_builder(a_log(stocked(LINES)), Plans(promoted))
    on, after = builder.morning(DAY), builder.morning(DAY + 1)
    assert (feature(on, "display", 4), feature(on, "mailer", 4)) == (0.25, 0.5)
    assert feature(after, "mailer", 4) == 0
    assert feature(builder.morning(DAY + 7), "mailer_change", 4) == -0.5


def test_nobody_has_finite_features_and_no_tokens(morning):
    features = featurise(morning.items, None, np.arange(morning.items.size, dtype=np.int32))
    assert np.isfinite(features.x).all()
    assert features.mask.sum() == 0 and features.tokens.sum() == 0


def test_the_catalogue_needs_five_sales_in_ninety_days():
    lines = [(DAY - 90 + n, n % 4, 0) for n in range(5)] + [(DAY - 91 + n, n % 4, 1) for n in range(5)]
    items = a_builder(a_log(lines)).morning(DAY).items
    assert items.ids[: items.size] == ["item-00"]
    assert items.ids[items.size :] == ["item-01"], "what left the catalogue is known, but cannot be ranked"
    assert items.rows(["item-01", "nothing", "item-00"]).tolist() == [-1, -1, 0]


def test_neighbours_are_scored_without_the_user_himself():
    lines = stocked([(DAY - 5, 0, 0), (DAY - 5, 1, 0), (DAY - 5, 1, 4), (DAY - 6, 2, 9)])
    morning = a_builder(a_log(lines), users=[0, 1, 2]).morning(DAY)
    assert feature(morning, "neighbours_known", 4, user=0) == 1
    assert feature(morning, "neighbours_known", 9, user=0) == 0
    assert feature(morning, "neighbours_known", 4, user=1) == 0, "only user 1 buys item 4"


def test_tokens_tell_the_item_its_type_and_the_days_of_its_type(morning):
    profile = Profile(morning.items, morning.histories[0], DAY)
    rows = morning.items.rows(["item-00", "item-02", "item-11"])
    tokens, mask = tokenise(profile, rows)
    assert mask.sum(1).tolist() == [3 + 1 + 3, 4 + 3, 0]
    first = tokens[0, :7]
    age = np.expm1(first[:, TOKEN.index("age")] * 2)
    assert age == pytest.approx([20, 10, 4, 10, 20, 10, 4], rel=1e-4)
    assert first[:, TOKEN.index("of_type")].tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert first[:, TOKEN.index("of_type_day")].tolist() == [0, 0, 0, 0, 1, 1, 1]
    gap = np.expm1(first[:, TOKEN.index("gap")] * 2)
    assert gap == pytest.approx([0, 10, 6, 0, 0, 10, 6], rel=1e-4)
    assert first[2, TOKEN.index("due")] == pytest.approx(math.log(4.5 / 6.5), rel=1e-4)
    assert first[5, TOKEN.index("same_brand_or_lines")] == pytest.approx(math.log1p(2)), "two lines on that day"
    assert tokens.shape == (3, MAX_TOKENS, len(TOKEN))


def test_tokens_stop_at_twenty_and_keep_the_latest():
    lines = stocked([*((DAY - n, 0, 0) for n in range(10, 20)), *((DAY - n, 0, 1) for n in range(1, 10))])
    morning = a_builder(a_log(lines)).morning(DAY)
    tokens, mask = tokenise(Profile(morning.items, morning.histories[0], DAY), morning.items.rows(["item-00"]))
    assert mask.sum() == MAX_TOKENS
    age = np.expm1(tokens[0, :, TOKEN.index("age")] * 2).round()
    assert age.tolist() == [15, 14, 13, 12, 11, 10, 8, 7, 6, 5, 4, 3, 2, 1, 6, 5, 4, 3, 2, 1]


def test_lines_of_the_item_itself_are_not_told_twice():
    lines = stocked([(DAY - n, 0, item) for n in range(1, 31) for item in (0, 1)])
    morning = a_builder(a_log(lines)).morning(DAY)
    tokens, mask = tokenise(Profile(morning.items, morning.histories[0], DAY), morning.items.rows(["item-00"]))
    assert mask.sum() == 6 + 4 + 6, "of the type's last eight lines half are the item's own"
    assert np.diff(np.flatnonzero(mask[0])).max() == 1, "valid tokens are packed to the front"
    assert tokens[0, 16:].sum() == 0


def test_retrieval_puts_the_habit_first_and_repeats_nothing(morning):
    profile = Profile(morning.items, morning.histories[0], DAY)
    candidates = candidates_of(profile)
    assert morning.items.ids[past_items(profile)[0]] == "item-00"
    assert len(set(candidates.tolist())) == len(candidates) == morning.items.size
    assert len(retrieve(morning.items, None, 3)) == 3


def test_a_history_sent_along_counts_like_a_stored_one(morning):
    events = [
        {"item_id": "item-00", "event_time": f"{iso_day(DAY - ago)}T12:00:00Z", "quantity": 1, "value": 2.0}
        for ago in (20, 10, 4)
    ]
    sent = history_from_events(morning.items, [*events, {"item_id": "nothing"}])
    assert sent.days.tolist() == [DAY - 20, DAY - 10, DAY - 4]
    x = featurise(morning.items, sent, morning.items.rows(["item-00"])).x[0]
    assert x[FEATURES.index("gap")] == pytest.approx(math.log1p(8))


def test_what_happens_later_counts_as_yesterday(morning):
    sent = history_from_events(morning.items, [{"item_id": "item-00", "event_time": "2030-01-01T00:00:00Z"}])
    assert sent.days.tolist() == [DAY - 1]


def test_days_are_counted_from_1970_and_weeks_start_on_monday():
    assert epoch_day("1970-01-02") == 1 and iso_day(1) == "1970-01-02"
    assert weekday(epoch_day("2017-07-03")) == 0
