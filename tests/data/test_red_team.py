"""Every kind of damage at its published strength, on a real day, through both doors; and none of it with its rules off.

The whole matrix, more days and strengths: `make bench NAME=red_team`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day
from tasks.domain.errors import InputRejected
from tasks.red_team import KINDS
from tasks.red_team.exposed import Exposed
from tasks.red_team.overlay import Overlay
from tasks.red_team.poison import Window
from tasks.red_team.rehearsal import as_text, rehearse
from tasks.red_team.scene import Landing
from tasks.red_team.trial import DOORS, SOUND, Trial, accept_days, caught_by, is_detected, without
from tasks.settings import Secrets, Settings
from tasks.sources.completejourney import CompleteJourney
from tasks.validate_data import load_policy
from tests.behaviour_builders import KEY, KEY_ID

DAY, SEED, PAST_DAYS = "2017-05-18", 3, 35
BY_NAME = [pytest.param(kind, id=kind.name) for kind in KINDS]


class Remembered(Window):
    """Weeks of a source that are made once, with the items that they sold: 92,000 items are most of a day's cost."""

    def __init__(self, source):
        super().__init__(source, next_day(DAY, -PAST_DAYS), DAY)
        self._events = {day: source.events(day) for day in self.days()}
        sold = pl.concat(pl.DataFrame(events).select("item_id") for events in self._events.values())
        self._items = (
            pl.DataFrame(source.items()).join(sold, on="item_id", how="semi", maintain_order="left").to_arrow()
        )

    def events(self, day):
        return self._events[day]

    def items(self):
        return self._items


@pytest.fixture(scope="module")
def without_pages():
    """Data Docs are written after the verdict and take half of a day's time; tests/data/test_validate_data.py reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.validate_data._data_docs", lambda tables: {})
        yield


@pytest.fixture(scope="module")
def trials(without_pages, tmp_path_factory):
    """For each base: a trial of the day against 36 accepted days, and what becomes of the day as it is."""
    policy, out, made = load_policy(), tmp_path_factory.mktemp("past"), {}
    for base, source in (("purchases", CompleteJourney()), ("exposure", Exposed(CompleteJourney()))):
        source = Remembered(source)
        landing, past = Landing(DAY, KEY, KEY_ID), MemoryStore()
        accept_days(source, next_day(DAY, -PAST_DAYS), next_day(DAY, -1), past, landing, policy, out)
        trial = Trial(source, past, landing, policy)
        made[base] = trial, trial.judge(SOUND, 0, SEED, out)
    return made


@pytest.mark.parametrize("base", ["purchases", "exposure"])
def test_the_day_as_it_is_passes(trials, base):
    _, clean = trials[base]
    assert (clean.outcome, clean.sentences) == ("pass", ())


@pytest.mark.parametrize("kind", BY_NAME)
def test_damage_at_its_published_strength_is_seen_by_a_rule_that_the_kind_names(trials, kind, tmp_path):
    trial, clean = trials[kind.base]
    judged = trial.judge(kind, kind.published, SEED, tmp_path)
    assert is_detected(kind, clean, judged, trial.changed(kind, kind.published, SEED)), judged
    assert set(caught_by(clean, judged)) & set(kind.rules) or not kind.rules
    if judged.outcome in ("held", "refused"):
        assert any(rule in sentence for sentence in judged.sentences for rule in judged.stopped_by)


@pytest.mark.parametrize("kind", [p for p in BY_NAME if p.values[0].rules and not set(p.values[0].rules) & DOORS])
def test_without_its_rules_the_damage_goes_through(trials, kind, tmp_path):
    trial, clean = trials[kind.base]
    blind = Trial(trial.source, trial.past, trial.landing, without(trial.policy, kind.rules))
    judged = blind.judge(kind, kind.published, SEED, tmp_path)
    assert not is_detected(kind, clean, judged, trial.changed(kind, kind.published, SEED)), judged


def test_a_trial_leaves_the_past_as_it_is(trials, tmp_path):
    trial, _ = trials["purchases"]
    before = {key: trial.past.get(key) for key in trial.past.list("")}
    for kind in KINDS:
        if kind.objects:
            trial.judge(kind, kind.published, SEED, tmp_path)
    assert {key: trial.past.get(key) for key in trial.past.list("")} == before


def a_stack(home, key):
    """Settings of a stack that is down, with its secrets."""
    secrets = Secrets.generate().model_copy(update={"pseudonym_key": key.hex(), "pseudonym_key_id": KEY_ID})
    (home / "secrets.json").write_text(secrets.model_dump_json())
    (home / "secrets.json").chmod(0o600)
    return Settings(home=home)


def test_a_rehearsal_reads_the_stacks_days_and_writes_nothing_there(trials, tmp_path, monkeypatch):
    live = Overlay(trials["purchases"][0].past)
    live.put_new("accepted/dt=2017-05-19/manifest.json", b"what a later day left is not looked at")
    before = {key: live.get(key) for key in live.list("")}
    monkeypatch.setattr("tasks.red_team.rehearsal.open_store", lambda settings: live)
    told = rehearse(a_stack(tmp_path, KEY), DAY, "retry_storm", None, tmp_path / "out")
    assert (told["outcome"], told["clean_outcome"], told["detected"]) == ("pass", "pass", True)
    assert told["caught_by"] == ["retry"]
    assert told["against"].startswith("the 28 days before it in memory://")
    assert "retry" in Path(told["report"]).read_text()
    text = as_text(told)
    assert "pass (without the damage: pass), detected by retry" in text and " rows quarantined" in text
    assert "nothing was landed or published" in text
    assert {key: live.get(key) for key in live.list("")} == before


def test_without_a_stack_the_past_is_made_in_memory_and_no_secret_is_left(without_pages, tmp_path):
    told = rehearse(Settings(home=tmp_path / "home"), DAY, "bot_flood", 0.4, tmp_path / "out")
    assert told["detected"] and told["clean_outcome"] == "pass"
    assert told["against"] == "the days from 2017-04-12 on, made in memory"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("day", "kind", "strength", "sentence"),
    [
        pytest.param(DAY, "gremlins", None, "there is no kind 'gremlins'", id="kind"),
        pytest.param("2019-01-01", "bot_flood", None, "ends on 2018-01-01", id="a day after the end"),
        pytest.param("2017-01-05", "bot_flood", None, "rehearse 2017-01-29 or a later day", id="a day too early"),
        pytest.param("2017-12-25", "boosted_item", None, "no event", id="a day without events"),
        pytest.param(DAY, "bot_flood", -1, "a strength of -1", id="a strength below 0"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_in_one_sentence(tmp_path, day, kind, strength, sentence):
    with pytest.raises(InputRejected, match=sentence):
        rehearse(Settings(home=tmp_path / "home"), day, kind, strength, tmp_path / "out")
