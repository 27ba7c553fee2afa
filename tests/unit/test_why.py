"""`freshrank why`: the parts add up to the score that is served, and a linear model's parts are known without Shapley."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tasks.cli import app
from tasks.domain.behaviour import pseudonym
from tasks.domain.errors import InputRejected
from tasks.domain.requests import RankRequest
from tasks.explain.why import HISTORY, TEXT, Side, contributions, groups_of, why
from tasks.ranker.features import FEATURES
from tasks.serving.engine import Engine
from tasks.serving.release import verify
from tasks.settings import Settings
from tests.serving_builders import PSEUDONYM_KEY, a_release

USER = pseudonym("user-3", bytes.fromhex(PSEUDONYM_KEY))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return a_release(tmp_path_factory.mktemp("release"))


def served(released, user):
    engine = Engine.open(verify(released[0]), released[1])
    return engine.rank(RankRequest(surface="recommendation", k=60), user)


def test_the_place_and_the_score_are_those_that_are_served_and_the_parts_add_up(released):
    answer = served(released, USER)
    for place in (0, 7):
        told = why(verify(released[0]), released[1], USER, answer.items[place])
        assert (told["place"], told["stage"], told["user_known"]) == (place + 1, "full", True)
        assert told["served_score"] == pytest.approx(answer.scores[place], abs=1e-4)
        added = sum(one["contribution"] for one in told["contributions"])
        assert added == pytest.approx(told["score"] - told["typical_score"], abs=1e-3)
        assert abs(told["contributions"][0]["contribution"]) > 0.01
    assert {HISTORY, TEXT} <= {one["group"] for one in told["contributions"]}


def test_of_a_linear_model_each_group_adds_what_its_own_columns_say():
    rng = np.random.default_rng(1)
    weights, groups = rng.normal(size=len(FEATURES)), groups_of(FEATURES)
    empty = np.zeros((2, 3), np.float32)
    ours, typical = (
        Side(rng.normal(size=len(FEATURES)).astype(np.float32), np.full(4, v, np.float32), empty, np.zeros(2))
        for v in (1.0, 0.0)
    )

    def score(sides):
        return np.array([one.x @ weights + one.item_vec.sum() for one in sides])

    told = {one["group"]: one["contribution"] for one in contributions(score, ours, typical, groups)}
    for name, at in groups.items():
        alone = float((ours.x[at] - typical.x[at]) @ weights[at]) + 4 * (name == TEXT)
        assert told[name] == pytest.approx(alone, abs=1e-5), name
    assert HISTORY not in told, "there were no purchases to leave out"


def test_every_feature_is_in_one_group_and_every_group_has_some():
    groups = groups_of(FEATURES)
    assert sorted(column for at in groups.values() for column in at) == list(range(len(FEATURES)))
    assert len(groups) == 8
    assert groups_of((*FEATURES, "added_later"))["all else"][-1] == len(FEATURES)


def test_the_nearest_purchases_begin_with_the_item_itself(released):
    answer = served(released, USER)
    told = why(verify(released[0]), released[1], USER, answer.items[0])
    history = told["history"]
    assert 0 < len(history) <= 5 and all(one["times"] >= 1 and one["days_since"] >= 1 for one in history)
    ranks = [("item", "type", "category", "text").index(one["same"]) for one in history]
    assert ranks == sorted(ranks)


def test_a_stranger_is_explained_by_what_sells(released):
    told = why(verify(released[0]), released[1], "f" * 64, "item-003")
    assert (told["user_known"], told["stage"], told["history"]) == (False, "base", [])
    assert np.isfinite(told["served_score"])


def test_an_item_that_cannot_be_ranked_is_one_sentence(released):
    with pytest.raises(InputRejected, match="cannot rank 'no-such-item'"):
        why(verify(released[0]), released[1], USER, "no-such-item")


def test_the_raw_user_id_is_hashed_and_never_shown(released, tmp_path, monkeypatch):
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    assert Settings().secrets, "made at first use"
    kept = json.loads((tmp_path / "secrets.json").read_text())
    (tmp_path / "secrets.json").write_text(json.dumps(kept | {"pseudonym_key": PSEUDONYM_KEY}))
    asked = ["why", "user-3", "item-003", "--release", str(released[0].parent)]
    for more in ([], ["--json"]):
        done = CliRunner().invoke(app, [*asked, *more])
        assert done.exit_code == 0, done.output
        assert "user-3" not in done.output and USER[:8] in done.output and USER not in done.output
    by_pseudonym = CliRunner().invoke(app, ["why", USER, "item-003", "--pseudonym", *asked[3:], "--json"])
    assert json.loads(by_pseudonym.output) == json.loads(done.output)
