"""Models that answer differently to the same question, or forget habits, are seen; so are encoders that miss."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.domain.requests import convert_rank
from tasks.evaluation.behaviour import behaviour_checks, with_purchases
from tasks.evaluation.queries import in_another_case, query_checks, with_accents, with_typo, without_last_word
from tasks.evaluation.skew import evaluator_scores, request_of, skew_check
from tasks.ranker.build import StateBuilder
from tasks.ranker.features import COLUMN
from tasks.ranker.judge import prepare
from tasks.ranker.log import Plans
from tasks.ranker.runtime import OpenVinoScorer
from tasks.ranker.slates import slates_on
from tasks.ranker.state import NOBODY, ItemState, UserHistory, View, history_from_events
from tasks.serving.engine import Engine
from tasks.serving.release import verify
from tests.ranker_builders import texts_of
from tests.serving_builders import DAY, USERS, WORDS, a_log, a_morning, a_release, word_vectors


class Habits:
    """More of the item in the past, a higher score."""

    weight = 1.0

    def base(self, x, item_vec):
        return self.weight * x[:, COLUMN["count"]] + 0.01 * item_vec[:, 0]

    def full(self, x, item_vec, tokens, mask):
        return self.base(x, item_vec) + 0.001 * mask.sum(1)


class Forgetful(Habits):
    weight = -1.0


class ByPlace(Habits):
    def base(self, x, item_vec):
        return super().base(x, item_vec) + 0.1 * (np.arange(len(x)) % 3)


class Centred(Habits):
    def base(self, x, item_vec):
        scores = super().base(x, item_vec)
        return scores - scores.mean()


class Broken(Habits):
    def base(self, x, item_vec):
        return np.full(len(x), np.nan, np.float32)


@pytest.fixture(scope="module")
def judged():
    log = a_log()
    builder = StateBuilder(log, Plans({}), np.arange(USERS, dtype=np.int32), texts_of(log))
    return prepare([slates_on(builder, DAY - 1)])


def failed(scorer, judged):
    return {one.name for one in behaviour_checks(scorer, judged) if not one.ok}


@pytest.mark.parametrize(
    ("scorer", "wrong"),
    [
        (Habits(), set()),
        (Forgetful(), {"a_habit_does_not_lower_an_item"}),
        (ByPlace(), {"same_items_in_another_order", "same_items_in_another_batch"}),
        (Centred(), {"same_items_in_another_batch"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_each_kind_of_model_fails(judged, scorer, wrong):
    assert failed(scorer, judged) == wrong


def test_scores_that_are_no_numbers_pass_nothing_about_order_or_batch(judged):
    assert {"same_items_in_another_order", "same_items_in_another_batch"} <= failed(Broken(), judged)
    with pytest.raises(ValueError, match="no slate"):
        behaviour_checks(Habits(), [])


def test_a_purchase_more_is_put_where_its_day_is(judged):
    user = judged[0].ranked.profile.user
    more = with_purchases(user, 7, np.array([int(user.days[0]), int(user.days[-1])], np.int32))
    assert len(more.rows) == len(user.rows) + 2 and (np.diff(more.days) >= 0).all()
    assert (more.rows == 7).sum() == (user.rows == 7).sum() + 2
    assert len(with_purchases(NOBODY, 3, np.array([DAY - 1], np.int32)).rows) == 1


class Words:
    """The mean of word vectors; a word that it does not know, it ignores."""

    fold = staticmethod(str.lower)

    def encode(self, text):
        plain = self.fold(text).replace("á", "a").replace("é", "e").replace("í", "i").replace("ó", "o")
        known = [WORDS.index(word) for word in plain.split() if word in WORDS] or [len(WORDS)]
        mean = word_vectors()[known].mean(0)
        return mean / np.linalg.norm(mean)


class CaseMatters(Words):
    fold = staticmethod(str)


def test_titles_are_found_in_another_case_and_accent_but_less_well_with_a_typo_or_a_word_less():
    items = a_morning().items
    texts = [a_log().items.texts[int(item[-3:])] for item in items.ids[: items.size]]
    checks, told = query_checks(Words(), items, texts)
    assert [one.name for one in checks if not one.ok] == []
    ndcg = told["ndcg_at_10"]
    assert ndcg["plain"] > 0.8 > ndcg["dropped_word"] and ndcg["plain"] > ndcg["typo"]
    assert ndcg["stuffed_titles"] < ndcg["plain"], "ten words of abuse push the honest ones down"
    wrong = [one.name for one in query_checks(CaseMatters(), items, texts)[0] if not one.ok]
    assert wrong == ["query_in_another_case"]


def test_an_encoder_that_knows_nothing_fails_to_find_titles():
    class Deaf(Words):
        def encode(self, text):
            return word_vectors()[-1]

    items = a_morning().items
    texts = [a_log().items.texts[int(item[-3:])] for item in items.ids[: items.size]]
    assert "a_title_finds_its_item" in [one.name for one in query_checks(Deaf(), items, texts)[0] if not one.ok]
    with pytest.raises(ValueError, match="no catalogue item has a text"):
        query_checks(Words(), items, [""] * items.size)


def test_how_a_query_is_changed():
    assert in_another_case("Fresh MILK") == "fRESH milk"
    assert with_accents("Milk tea") == "Mílk téá"
    assert with_typo("red bananas") == "red baannas" and with_typo("tea") == "tea"
    assert without_last_word("fresh red apples") == "fresh red" and without_last_word("apples") == "apples"


def test_the_service_scores_what_the_evaluator_scores_and_another_model_is_seen(tmp_path):
    src, view = a_release(tmp_path)
    release = verify(src)
    engine, items = Engine.open(release, view), ItemState.load(release.directory / "items")

    def ask(request):
        ranking = engine.rank(convert_rank(request))
        return ranking.items, ranking.scores

    scored = evaluator_scores(OpenVinoScorer(release.directory / "model"), items, View(view))
    check = skew_check(scored, ask)
    assert check.ok and len(scored) == USERS and check.value < 1e-3
    assert not skew_check([], ask).ok, "no request is no proof"

    other = verify(a_release(tmp_path / "other", seed=1)[0])
    skewed = skew_check(evaluator_scores(OpenVinoScorer(other.directory / "model"), items, View(view)), ask)
    assert not skewed.ok and skewed.value > 0.01
    assert not skew_check(scored, lambda request: (["item-000"], [0.0])).ok


def test_a_line_of_quantity_zero_is_read_from_a_request_as_from_the_log():
    items = a_morning().items
    line = {"item_id": items.ids[3], "event_time": "2017-06-20T12:00:00Z", "value": 2.0}
    assert history_from_events(items, [line | {"quantity": 0.0}]).quantity.tolist() == [0.0]
    assert history_from_events(items, [line]).quantity.tolist() == [1.0], "not said is one piece"


def test_a_made_up_request_says_every_line_of_a_history_as_it_is():
    items, residue = a_morning().items, np.float32(4.440892e-10)  # 4e-16 of value over quantity 0, as a log had it
    history = UserHistory(
        rows=np.array([2, 3, 4], np.int32),
        days=np.array([items.day - 3, items.day - 3, items.day - 1], np.int32),
        quantity=np.array([2.0, 0.0, 0.0], np.float32),
        price=np.array([1.5, residue, 0.0], np.float32),
        discounted=np.array([1.0, 0.0, 0.0], np.float32),
    )
    read = history_from_events(items, request_of(items, history, history.rows)["history"])
    for name in ("rows", "days", "quantity", "price", "discounted"):
        assert getattr(read, name).tolist() == getattr(history, name).tolist(), name
