"""Great Expectations says the same of a profile that Polars computed as of the whole table on pandas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape

import numpy as np
import polars as pl
import pytest

from expectations import profile as profiles
from expectations.judge import Judge, judged_by
from expectations.profile import LIMIT, ROW, Profile, broken
from expectations.suites import EVENTS, ITEMS, PLANS, PREDICTIONS, SUITES, TRAINING_SET, Suite
from tests.suite_builders import INF, NAN, USERS_WITH_AGE, good, spoil

ALL = (*SUITES, USERS_WITH_AGE)
TEXTS = [None, "", " ", "\n", "\x1c", "\x85", "é", "é" * 128, "é" * 500, "x" * 513, "x" * 20_001]
TEXTS += ["a" * 64, "a" * 64 + "\n", "A" * 64, f"{4:064x}", "item-4", "hover", "click", "search", "Search"]
TEXTS += ["null", "nan", "NaN", "<b>'\"&amp;</b>"]
NUMBERS = [None, NAN, INF, -INF, -1.0, -0.0, 0.0, 1e-9, 1e-12, 0.1, 1.0, 1.0000001, 1e4, 6.1e4, 1e300, -1e301, 41.0]
WHOLE = [None, -(2**31), -1, 0, 1, 2, 2**31 - 1]
MOMENTS = [None, *(datetime(year, 1, 1, tzinfo=UTC) for year in (1970, 1999, 2000, 2100, 2101))]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    return Judge()


def faults(dtype: pl.DataType) -> list:
    if dtype.is_temporal():
        return MOMENTS
    if dtype.is_integer():
        return WHOLE
    return NUMBERS if dtype.is_float() else [None, True] if dtype == pl.Boolean else TEXTS


def peppered(suite: Suite, seed: int, rows: int = 120) -> pl.DataFrame:
    """A sound table with a few hundred faults of every kind that its columns can hold, and two rows of nothing."""
    rng, frame = np.random.default_rng(seed), good(suite, rows)
    for name in suite.columns:
        kinds = faults(frame.schema[name])
        chosen = rng.permutation(np.arange(len(frame)) % len(kinds))
        bent = pl.Series([kinds[n] for n in chosen], dtype=frame.schema[name])
        here = pl.Series(rng.random(len(frame)) < 0.6)
        frame = frame.with_columns(pl.when(here).then(bent).otherwise(name).alias(name))
    nothing = pl.when(pl.col(ROW).is_between(1, 2)).then(None)
    return frame.with_columns(nothing.otherwise(pl.col(name)).alias(name) for name in suite.columns)


def told(result) -> list[dict]:
    """Everything that Great Expectations says of each expectation, as it would be stored."""
    return [
        {"name": one["expectation_config"]["meta"]["name"], "success": one["success"], "result": one["result"]}
        for one in result.to_json_dict()["results"]
    ]


def words(page: str) -> str:
    """What a person reads in the Data Docs page, but for the part about when and where it ran."""
    reasons, _, rest = page.partition("</table>")
    return unescape(re.sub(r"<[^>]*>", " ", reasons + rest[rest.index('<div id="section-2"') :]))


def assert_agree(judge: Judge, suite: Suite, frame: pl.DataFrame) -> list[dict]:
    profile = Profile.of(suite, frame)
    ours, plain = judge.results_of_profile(suite, profile), judge.results_of_frame(suite, frame)
    assert told(ours) == told(plain)
    assert {name: found.count for name, found in profile.found.items()} == {
        one["name"]: one["result"]["unexpected_count"] for one in told(plain)
    }
    judged, page = judged_by(suite, ours)
    plain_judged, plain_page = judged_by(suite, plain)
    assert judged == plain_judged
    assert [one for one in judged if one.error] == []
    assert words(page) == words(plain_page)
    return told(ours)


@pytest.mark.parametrize("suite", ALL, ids=lambda suite: f"{suite.name}-{len(suite.columns)}")
def test_both_ways_agree_on_faults_of_every_kind(judge, suite):
    seen = assert_agree(judge, suite, peppered(suite, seed=1))
    assert all(one["result"]["unexpected_count"] > 0 for one in seen)
    assert any(one["result"].get("missing_count") for one in seen)


@pytest.mark.parametrize("suite", ALL, ids=lambda suite: f"{suite.name}-{len(suite.columns)}")
def test_both_ways_agree_on_no_row_and_on_one(judge, suite):
    assert_agree(judge, suite, good(suite).clear())
    assert_agree(judge, suite, peppered(suite, seed=2, rows=1))


def test_both_ways_agree_where_whole_columns_are_absent_or_wrong(judge):
    frame = good(EVENTS, 30).with_columns(
        event_type=pl.lit("hover"), value=pl.lit(NAN), position=pl.lit(-1, pl.Int32), item_id=pl.lit(None, pl.String)
    )
    assert_agree(judge, EVENTS, frame)


def test_one_changed_value_is_seen(judge):
    """The comparison can fail: a profile of another table does not pass for this one's."""
    frame, other = good(EVENTS), spoil(good(EVENTS), 3, value=-0.5)
    assert told(judge.results_of_profile(EVENTS, Profile.of(EVENTS, other))) != told(
        judge.results_of_frame(EVENTS, frame)
    )


@pytest.mark.parametrize("suite", ALL, ids=lambda suite: f"{suite.name}-{len(suite.columns)}")
def test_text_may_come_as_categories(suite):
    frame = peppered(suite, seed=7)
    texts = [name for name, of in frame.schema.items() if of == pl.String]
    plain = broken(suite, frame)
    assert list(plain) == [one.name for one in suite.expectations]
    assert {(mask.dtype, len(mask), mask.null_count()) for mask in plain.values()} == {(pl.Boolean, len(frame), 0)}
    enumerations = {name: pl.Enum(frame[name].drop_nulls().unique()) for name in texts}
    for coded in (frame.with_columns(pl.col(texts).cast(pl.Categorical)), frame.cast(enumerations)):
        assert {name: mask.to_list() for name, mask in broken(suite, coded).items()} == {
            name: mask.to_list() for name, mask in plain.items()
        }
        half = coded[: len(coded) // 2]  # keeps categories that it has no value of
        assert {name: mask.to_list() for name, mask in broken(suite, half).items()} == {
            name: mask.to_list() for name, mask in broken(suite, frame[: len(half)]).items()
        }


@pytest.mark.parametrize("suite", [EVENTS, TRAINING_SET], ids=lambda suite: suite.name)
def test_profiles_of_parts_add_up_to_that_of_the_whole(judge, suite):
    frame = peppered(suite, seed=8)
    coded = frame.with_columns(pl.col(pl.String).cast(pl.Categorical))
    parts = Profile.of(suite, frame[:50]) + Profile.of(suite, coded[50:51]) + Profile.of(suite, frame[51:])
    assert judge.judge_profile(suite, parts) == judge.judge_profile(suite, Profile.of(suite, frame))


@pytest.mark.parametrize("suite", [PLANS, ITEMS, PREDICTIONS], ids=lambda suite: suite.name)
def test_uniqueness_is_not_added_up(suite):
    with pytest.raises(ValueError, match="profile the table in one piece"):
        _ = Profile.of(suite, good(suite)) + Profile.of(suite, good(suite))


def test_a_profile_counts_all_and_names_the_first(judge, monkeypatch):
    monkeypatch.setattr(profiles, "LIMIT", 7)
    frame = peppered(EVENTS, seed=9)
    parts = Profile.of(EVENTS, frame[:40]) + Profile.of(EVENTS, frame[40:])
    judged, page = judge.judge_profile(EVENTS, parts)
    plain, _ = judge.judge_frame(EVENTS, frame)
    assert [(one.success, one.count, one.rows) for one in judged] == [
        (one.success, one.count, one.rows[:7]) for one in plain
    ]
    assert max(one.count for one in judged) > 20
    assert "Sampled Unexpected Values" in page
    assert LIMIT >= 200  # Great Expectations lists 200 values; fewer would change its page


def test_a_metric_that_the_profile_does_not_hold_is_an_error_and_no_pass(judge):
    frame = good(EVENTS)
    profile = Profile.of(EVENTS, frame)
    del profile.found["value_in_range"]
    judged, _ = judge.judge_profile(EVENTS, profile)
    assert [(one.expectation.name, bool(one.error)) for one in judged if not one.success] == [("value_in_range", True)]
