"""Injectors: nothing at strength 0, the same damage for the same seed, and a click log whose truth is known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl
import pytest

from expectations.suites import ITEMS, PLANS
from tasks.adapters.store import MemoryStore
from tasks.domain.contract import EVENT
from tasks.domain.errors import Conflict, InputRejected
from tasks.ingest import ingest
from tasks.red_team import KINDS, kind_named, kinds_table
from tasks.red_team.exposed import Exposed
from tasks.red_team.overlay import Overlay
from tasks.red_team.poison import Poisoned
from tasks.red_team.scene import OUTCOMES, Kind, Landing
from tasks.red_team.trial import SOUND, Judged, is_detected
from tasks.validate_data import load_policy
from tests.behaviour_builders import KEY, KEY_ID, TinySource

DAY = "2017-01-20"
EVENT_KINDS = [kind for kind in KINDS if kind.events or kind.items or kind.plan]
OBJECT_KINDS = [kind for kind in KINDS if kind.objects]


class AllDay(TinySource):
    """The tiny log with its rows spread over the 24 hours."""

    def events(self, day):
        minutes = pl.duration(minutes=8 * pl.int_range(pl.len()))
        rows = pl.DataFrame(super().events(day)).with_columns(pl.col("event_time") + minutes)
        return rows.to_arrow()


def source_of(kind: Kind):
    return Exposed(AllDay()) if kind.base == "exposure" else AllDay()


def tables(kind: Kind, strength: float, seed: int = 1):
    poisoned = Poisoned(source_of(kind), DAY, kind, strength, seed)
    return [pl.DataFrame(table) for table in (poisoned.events(DAY), poisoned.plan(DAY), poisoned.items())]


@cache
def exposed_day() -> pl.DataFrame:
    return pl.DataFrame(Exposed(TinySource()).events(DAY))


def each(kinds):
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in kinds])


def test_there_are_at_least_thirty_kinds_each_with_a_name_of_its_own_and_a_sentence():
    assert len(KINDS) >= 30
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.what.endswith(".") and len(kind.what) > 30 and kind.strength and kind.published > 0
        assert OUTCOMES.index(kind.outcome) > 0
        ways = [way for way in (kind.events, kind.items, kind.plan, kind.landing, kind.objects) if way]
        assert len(ways) == 1, kind.name


def test_every_rule_that_a_kind_names_is_in_the_policy_or_is_a_door():
    policy = load_policy()
    known = {*policy.rows, *policy.days, *policy.tables, "ingest", "reader"}
    named = {rule for kind in KINDS for rule in kind.rules}
    assert named - known == set()
    assert {PLANS.name, ITEMS.name} <= named


def test_every_rule_of_the_policy_has_a_kind_that_it_catches():
    policy = load_policy()
    caught = {rule for kind in KINDS for rule in kind.rules}
    bounds = {"over_cap"}  # it limits what one user may teach; nothing has to be wrong for that
    gaps = {"freshness"}  # about days that are not there; a kind damages the day that is
    assert {*policy.rows, *policy.days, *policy.tables} - caught == bounds | gaps


@each(EVENT_KINDS)
def test_strength_0_changes_nothing(kind):
    assert all(a.equals(b) for a, b in zip(tables(kind, 0), tables(SOUND_LIKE[kind.base], 0), strict=True))


SOUND_LIKE = {base: Kind("sound", "", "", 0, (), "pass", base) for base in ("purchases", "exposure")}


@each(EVENT_KINDS)
def test_the_published_strength_changes_the_day_and_one_seed_always_the_same_way(kind):
    once = tables(kind, kind.published)
    assert all(a.equals(b) for a, b in zip(once, tables(kind, kind.published), strict=True))
    assert not all(a.equals(b) for a, b in zip(once, tables(SOUND_LIKE[kind.base], 0), strict=True))


@each(OBJECT_KINDS)
def test_objects_stay_as_they_are_at_strength_0_and_change_at_the_published_one(kind):
    store = MemoryStore()
    ingest(TinySource(), store, DAY, KEY, KEY_ID)
    bent = Overlay(store)
    scene = Poisoned(TinySource(), DAY, kind, 1, 1).scene()
    before = {key: store.get(key) for key in store.list("")}
    kind.objects(bent, scene, 0)
    assert {key: bent.get(key) for key in bent.list("")} == before
    kind.objects(bent, scene, kind.published)
    assert {key: bent.get(key) for key in bent.list("")} != before
    assert {key: store.get(key) for key in store.list("")} == before


@each([kind for kind in KINDS if kind.landing])
def test_what_ingest_is_told_changes_above_strength_0_only(kind):
    landing = Landing(DAY, KEY, KEY_ID)
    assert kind.landing(landing, 0) == landing
    assert kind.landing(landing, kind.published) != landing


def test_changed_rows_are_counted_with_rows_that_come_twice():
    kind = kind_named("duplicated_file")
    assert Poisoned(TinySource(), DAY, kind, 0.1, 1).changed() == 15
    assert Poisoned(TinySource(), DAY, kind, 0, 1).changed() == 0
    assert Poisoned(TinySource(), DAY, kind_named("lost_parts"), 0.5, 1).changed() == 0


def test_more_than_all_of_a_day_cannot_be_added():
    with pytest.raises(InputRejected, match="choose a strength below 1"):
        tables(kind_named("bot_flood"), 1.0)


def test_an_unknown_kind_is_one_sentence_that_lists_the_kinds():
    with pytest.raises(InputRejected) as refused:
        kind_named("gremlins")
    assert all(kind.name in str(refused.value) for kind in KINDS)
    assert "\n" not in str(refused.value)


def test_the_page_shows_every_kind_as_it_is():
    page = Path("docs/red-team.md").read_text()
    assert kinds_table() in page, "put what tasks.red_team.kinds_table() returns into docs/red-team.md"


def judged(outcome, quarantined=0):
    return Judged(outcome, (), {}, quarantined, (), {})


@pytest.mark.parametrize(
    ("promised", "clean", "found", "changed", "detected"),
    [
        pytest.param("held", judged("pass"), judged("held"), 0, True, id="held as promised"),
        pytest.param("held", judged("pass"), judged("refused"), 0, True, id="refused is more than held"),
        pytest.param("refused", judged("pass"), judged("held"), 0, False, id="held is less than refused"),
        pytest.param("held", judged("held"), judged("held"), 0, False, id="the clean day was held too"),
        pytest.param("quarantined", judged("pass", 5), judged("pass", 85), 100, True, id="enough rows"),
        pytest.param("quarantined", judged("pass", 5), judged("pass", 84), 100, False, id="too few rows"),
        pytest.param("quarantined", judged("pass"), judged("pass"), 0, False, id="no row changed"),
        pytest.param("quarantined", judged("pass"), judged("held"), 100, True, id="the day instead of the rows"),
        pytest.param("held", judged("pass"), judged("pass", 80), 100, True, id="the rows instead of the day"),
    ],
)
def test_detected_means_worse_than_the_clean_day_and_at_least_as_promised(promised, clean, found, changed, detected):
    kind = Kind("kind", "", "", 1, (), promised)
    assert is_detected(kind, clean, found, changed) is detected
    assert is_detected(SOUND, clean, clean, changed) is False


class TestExposed:
    """The planted click log: tests/unit holds it to the model that its docstring tells."""

    def test_a_day_is_the_same_whichever_days_were_asked_for_before(self):
        source = Exposed(TinySource())
        source.events("2017-01-05")
        assert pl.DataFrame(source.events(DAY)).equals(exposed_day())
        assert not pl.DataFrame(Exposed(TinySource(), seed=1).events(DAY)).equals(exposed_day())

    def test_purchases_are_the_real_ones_but_for_the_list_that_led_to_them(self):
        touched = ("request_id", "surface", "query")
        real = pl.DataFrame(TinySource().events(DAY)).drop(touched).sort("event_id")
        kept = exposed_day().filter(pl.col("event_type") == "purchase").drop(touched).sort("event_id")
        assert kept.equals(real)
        assert exposed_day().columns == list(EVENT.names)

    def test_every_answer_has_an_impression_before_it_in_its_own_list_and_day(self):
        day = exposed_day()
        assert day["event_id"].is_unique().all()
        assert set(day["event_time"].dt.date().cast(pl.String)) == {DAY}
        shown = day.filter(pl.col("event_type") == "impression")
        answers = day.filter(pl.col("event_type").is_in(["click", "add_to_cart"]))
        assert len(answers) > 20
        of = ["request_id", "item_id", "user_id", "surface", "position"]
        joined = answers.join(shown.select(*of, shown_at="event_time"), on=of)
        assert len(joined) == len(answers)
        assert (joined["event_time"] > joined["shown_at"]).all()

    def test_positions_of_a_list_are_0_to_its_end(self):
        lists = exposed_day().filter(pl.col("event_type") == "impression").group_by("request_id")
        ends = lists.agg(pl.col("position").sort(), pl.col("item_id").n_unique().alias("items"))
        assert all(positions == list(range(items)) for _, positions, items in ends.iter_rows())

    def test_places_far_down_are_clicked_less(self):
        days = pl.concat(pl.DataFrame(Exposed(TinySource()).events(day)) for day in TinySource().days()[:20])
        counts = days.filter(pl.col("surface") == "recommendation").group_by("position", "event_type").len()
        rate = {
            place: counts.filter(position=place, event_type="click")["len"].sum()
            / counts.filter(position=place, event_type="impression")["len"].sum()
            for place in (0, 3, 9)
        }
        assert rate[0] > 1.5 * rate[3] > 1.5 * rate[9]

    def test_propensities_are_the_probabilities_of_the_places(self):
        """The mean of 1 / propensity is the number of places that the policy can choose: the length of the list."""
        days = pl.concat(pl.DataFrame(Exposed(TinySource()).events(day)) for day in TinySource().days())
        shown = days.filter((pl.col("event_type") == "impression") & (pl.col("surface") == "recommendation"))
        length = shown.group_by("request_id").len()["len"].mean()
        assert (1 / shown["propensity"]).mean() == pytest.approx(length, rel=0.1)

    def test_raw_ids_stand_only_where_ingest_replaces_them(self):
        day = exposed_day()
        text = day.select(pl.exclude("user_id", "session_id").cast(pl.String)).write_csv()
        assert "basket-" not in text and "user-" not in text


class TestOverlay:
    def test_what_is_written_or_deleted_stays_above(self):
        base = MemoryStore()
        base.put_new("a", b"1")
        base.put_new("b", b"2")
        over = Overlay(base)
        over.put_new("c", b"3")
        over.replace("a", b"changed")
        over.delete("b")
        assert over.list("") == ["a", "c"]
        assert (over.get("a"), over.exists("b")) == (b"changed", False)
        with pytest.raises(InputRejected, match="does not exist"):
            over.get("b")
        assert (base.list(""), base.get("a")) == (["a", "b"], b"1")

    def test_a_name_means_the_same_bytes_forever_here_too(self):
        base = MemoryStore()
        base.put_new("a", b"1")
        over = Overlay(base)
        over.put_new("a", b"1")
        with pytest.raises(Conflict):
            over.put_new("a", b"2")

    def test_hidden_keys_are_not_there_but_can_be_written(self, tmp_path):
        base = MemoryStore()
        base.put_new("secret/a", b"1")
        over = Overlay(base, hidden=lambda key: key.startswith("secret/"))
        assert (over.list(""), over.exists("secret/a")) == ([], False)
        over.put_new("secret/a", b"2")
        over.download("secret/a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"2"
        assert base.get("secret/a") == b"1"
