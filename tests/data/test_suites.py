"""Each suite accepts the good sample and rejects each named bad one, by the expectation that is about it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import polars as pl
import pytest

from expectations.judge import Judge
from expectations.profile import Profile
from expectations.suites import EVENTS, SUITES, TRAINING_SET
from tests.suite_builders import BAD, USERS_WITH_AGE, good, spoil

ALL = (*SUITES, USERS_WITH_AGE)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    return Judge()


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_the_good_sample_is_accepted(judge, suite):
    judged, _ = judge.judge_profile(suite, Profile.of(suite, good(suite)))
    assert [one.expectation.name for one in judged] == [one.name for one in suite.expectations]
    assert len(judged) >= 3
    assert [one.expectation.name for one in judged if not one.success or one.error or one.rows] == []


@pytest.mark.parametrize(("suite", "name", "bad"), BAD, ids=[f"{suite.name}-{name}" for suite, name, _ in BAD])
def test_a_bad_row_is_rejected_by_the_expectation_about_it(judge, suite, name, bad):
    judged, _ = judge.judge_profile(suite, Profile.of(suite, spoil(good(suite), 3, **bad)))
    broken = {one.expectation.name: one.rows for one in judged if not one.success}
    assert list(broken) == [name]
    assert 3 in broken[name]


def test_a_few_slates_without_a_positive_are_usual_and_many_are_not(judge):
    for empty, success in ((2, True), (3, False)):
        frame = good(TRAINING_SET).with_columns(positives=pl.when(pl.col("row") < empty).then(0).otherwise(1))
        judged, _ = judge.judge_profile(TRAINING_SET, Profile.of(TRAINING_SET, frame))
        positives = next(one for one in judged if one.expectation.name == "positives_in_range")
        assert (positives.success, positives.count) == (success, empty)


def test_every_expectation_has_a_bad_sample_and_a_reason():
    named = {(suite.name, name) for suite, name, _ in BAD} | {("training_set", "positives_in_range")}
    known = {(suite.name, one.name) for suite in ALL for one in suite.expectations}
    assert len(known) >= 60
    assert named == known
    assert all(one.reason for suite in ALL for one in suite.expectations)


def test_no_two_expectations_of_a_suite_share_a_name():
    assert all(len({one.name for one in suite.expectations}) == len(suite.expectations) for suite in ALL)


def test_great_expectations_alone_passes_an_empty_day_and_a_column_of_nan(judge):
    """Why the rules exist: if this ever fails, Great Expectations learned it, and a rule may go."""
    for frame in (good(EVENTS).clear(), good(EVENTS).with_columns(value=pl.lit(math.nan))):
        judged, _ = judge.judge_frame(EVENTS, frame)
        assert all(one.success for one in judged)


def test_the_data_docs_page_gives_reasons_loads_nothing_and_follows_from_the_data_alone(judge):
    profile = Profile.of(EVENTS, spoil(good(EVENTS), 3, event_type="hover"))
    _, page = judge.judge_profile(EVENTS, profile)
    assert "hover" in page
    assert "an unknown kind of event has no grade" in page
    assert not re.search(r"https?://|<script|<link|<img", page)
    assert Judge().judge_profile(EVENTS, profile)[1] == page
