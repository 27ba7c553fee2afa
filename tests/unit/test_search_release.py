"""From a dataset's searches to a release that answers them: the same numbers in torch, in numpy and in the engine."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file
from search_builders import TITLES, a_plan, films, judged, tiny_bert, titles_asked
from serving_builders import a_morning

from tasks.compression.search_encoders import export_search
from tasks.domain.errors import InputRejected
from tasks.domain.recipe import Recipe, load_recipe
from tasks.domain.requests import convert_rank
from tasks.ranker.rank import LOWEST
from tasks.ranker.search.dataset import load_lists, read_catalogue, read_lists, write_search
from tasks.ranker.search.documents import load_documents, save_documents
from tasks.ranker.search.fit import fit_search
from tasks.ranker.search.head import ProductHead
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.ranker import Head, SearchRanker
from tasks.serving.engine import Engine


class Known:
    """An encoder that knows a few words by heart."""

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, text: str) -> np.ndarray:
        vectors = np.random.default_rng(len(text)).normal(size=(2, self.width)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class NoScorer:
    """Recommendation is not what these tests ask."""

    def base(self, x, item_vec):
        return np.zeros(len(x), np.float32)

    def full(self, x, item_vec, tokens, mask):
        return np.zeros(len(x), np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def plan(home):
    torch.manual_seed(0)
    return a_plan(encoder=str(tiny_bert(home / "bert")), passes=2, head_epochs=8, trees=True)


@pytest.fixture(scope="module")
def dataset(home):
    home = home / "dataset"
    home.mkdir()
    parts = {"train": titles_asked(6), "validation": titles_asked(2), "holdout": titles_asked(1)}
    assert write_search(home, films(), parts) == {
        "search_train_lists": 48, "search_validation_lists": 16, "search_holdout_lists": 8,
    }  # fmt: skip
    return home


@pytest.fixture(scope="module")
def trained(home, dataset, plan):
    out = home / "trained"
    return out, fit_search(dataset, plan, home, out, seed=1)


@pytest.fixture(scope="module")
def ranker(home, trained, plan):
    out = home / "release"
    told = export_search(trained[0], plan, calibration=4, out=out)
    assert min(told.values()) > 0.9
    return SearchRanker.open(out)


@pytest.fixture(scope="module")
def engine(ranker):
    return Engine(a_morning().items, NoScorer(), search=ranker)


def test_training_reports_what_it_reached_on_validation(trained):
    out, told = trained
    assert told["search_validation.all"] > 0.9
    config = json.loads((out / "config.json").read_bytes())
    assert "encoder" not in config["plan"] and sorted(config["weights"]) == ["cosine", "head", "trees"]
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".txt"}


def test_what_is_served_orders_lists_that_it_never_saw(ranker, dataset):
    lists = load_lists(dataset, "holdout")
    scores = [ranker.scores(lists.queries[n], lists.rows[lists.ptr[n] : lists.ptr[n + 1]]) for n in range(len(lists))]
    assert ndcg(lists, np.concatenate(scores)).mean() > 0.9


def test_the_release_holds_no_file_of_a_kind_that_is_refused(home, ranker):
    assert {path.suffix for path in (home / "release").rglob("*") if path.is_file()} == {
        ".json", ".safetensors", ".xml", ".bin",
    }  # fmt: skip


def test_the_head_in_numpy_is_the_head_that_was_trained():
    torch.manual_seed(2)
    head = ProductHead(5, 16).eval()
    head.standardise(np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32))
    rng = np.random.default_rng(1)
    x, query, items = (rng.normal(size=size).astype(np.float32) for size in ((7, 5), (16,), (9, 16)))
    rows = np.array([0, 3, 8, -1, 2, 2, 5], np.int32)
    weights = {name: value.numpy() for name, value in head.state_dict().items()}
    with torch.inference_mode():
        told = head(torch.from_numpy(x), torch.from_numpy(query).expand(7, -1), torch.from_numpy(items[rows]))
    assert Head(weights, items).scores(x, query, rows) == pytest.approx(told.numpy(), abs=1e-4)


def test_documents_come_back_from_json_as_they_were(tmp_path):
    documents = films()
    documents.numbers[2, 1] = math.nan
    save_documents(tmp_path / "documents.json", documents)
    again = load_documents(tmp_path / "documents.json")
    assert (again.ids, again.values, again.fields, again.written) == (
        documents.ids, documents.values, documents.fields, documents.written,
    )  # fmt: skip
    assert np.array_equal(again.numbers, documents.numbers, equal_nan=True)


@pytest.mark.parametrize("query", ["heat", "", "   ", "!!!", "🚂", "电影", "x" * 512, "heat " * 80])
def test_any_query_and_any_item_get_a_finite_score(ranker, query):
    rows = np.array([*range(len(TITLES)), -1], np.int32)
    assert np.isfinite(ranker.scores(query, rows)).all()
    assert len(ranker.scores(query, rows[:0])) == 0


def test_what_the_members_say_adds_up_to_the_score(ranker):
    rows = np.arange(-1, len(TITLES), dtype=np.int32)
    parts = ranker.parts("the heat cast", rows)
    assert sorted(parts) == ["cosine", "head", "trees"] and all(np.ptp(values) > 0 for values in parts.values())
    assert np.array_equal(sum(parts.values()), ranker.scores("the heat cast", rows))


def test_a_score_does_not_depend_on_the_rest_of_the_list(ranker):
    rows = np.arange(-1, len(TITLES), dtype=np.int32)
    together = ranker.scores("the heat cast", rows)
    alone = [ranker.scores("the heat cast", rows[[n]])[0] for n in range(len(rows))]
    assert together == pytest.approx(alone, abs=1e-5)


def test_the_engine_asks_the_trained_ranker_and_puts_strangers_last(engine):
    given = ["film-5", "nobody-knows", "film-0", "film-1"]
    ranking = engine.rank(convert_rank({"surface": "search", "query": "heat", "candidates": given}))
    assert ranking.stage == "search" and sorted(ranking.items) == sorted(given)
    assert ranking.items[0] == "film-0" and ranking.items[-1] == "nobody-knows"
    assert ranking.scores[-1] == LOWEST and np.isfinite(ranking.scores).all()


def test_without_candidates_only_items_of_the_state_are_found(engine):
    """The films are no items of this state's catalogue, so that nothing can be answered."""
    assert engine.rank(convert_rank({"surface": "search", "query": "heat", "k": 5})).items == []


def test_reasons_are_worked_out_for_the_best_ten_alone(engine, ranker, monkeypatch):
    given = [str(item) for item in a_morning().items.ids[:20]]
    asked, parts = [], ranker.parts
    monkeypatch.setattr(ranker, "parts", lambda query, rows: asked.append(len(rows)) or parts(query, rows))
    ranking = engine.rank(
        convert_rank({"surface": "search", "query": "heat", "candidates": [*given, "nobody-knows"], "explain": True})
    )
    assert asked == [20, 10], "the list once, and its best items"
    assert [bool(reasons) for reasons in ranking.reasons] == [True] * 10 + [False] * 11


def test_nearest_finds_by_vector_and_by_word(ranker):
    found = ranker.nearest("alien", 4)
    assert len(found) <= 4 and TITLES.index("Alien") in found.tolist()


def test_a_ranker_of_other_features_is_refused(home, ranker, tmp_path):
    for path in (home / "release").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"features": config["features"][1:]}))
    with pytest.raises(InputRejected, match="other search features"):
        SearchRanker(tmp_path, Known(16))


def test_too_few_lists_say_what_to_do(tmp_path, plan):
    write_search(tmp_path, films(), {"train": titles_asked(1), "validation": judged([], [])})
    with pytest.raises(InputRejected, match=r"8 training and 0 validation lists .* section `search`"):
        fit_search(tmp_path, plan, tmp_path, tmp_path / "out", seed=0)


def test_lists_are_read_from_accepted_days_and_columns_that_a_log_lacks_are_unknown(tmp_path):
    folder = tmp_path / "dt=2020-01-01"
    folder.mkdir()
    pl.DataFrame(
        {
            "event_id": ["a", "b"], "user_id": ["u", "u"], "surface": ["search", "search"], "query": ["heat", "heat"],
            "item_id": ["film-0", "film-1"], "event_type": ["click", "impression"],
        }
    ).with_columns(event_time=pl.datetime(2020, 1, 1, time_zone="UTC")).write_parquet(folder / "accepted-1.parquet")  # fmt: skip
    rows = [{"item_id": f"film-{n}", "title": title} for n, title in reversed(list(enumerate(TITLES)))]
    pl.DataFrame(rows).write_parquet(tmp_path / "catalogue.parquet")
    documents = read_catalogue(tmp_path / "catalogue.parquet", films().fields)
    assert documents.ids == [f"film-{n}" for n in range(len(TITLES))]
    lists, users = read_lists([folder / "accepted-1.parquet"], documents)
    assert users == {"u"}
    assert (lists.queries, lists.rows.tolist(), lists.grade.tolist()) == (["heat"], [0, 1], [1, 0])


def test_a_recipe_without_search_is_named_as_before():
    recipe = load_recipe("tiny")
    told = recipe.model_dump(mode="json")
    assert recipe.search is None and "search" in told
    with_search = Recipe(**{**recipe.model_dump(), "search": a_plan().model_dump()})
    assert with_search.digest != recipe.digest
    assert recipe.digest == Recipe(**{name: of for name, of in recipe.model_dump().items() if name != "search"}).digest


def test_vectors_are_stored_as_halves(trained):
    assert {of.dtype for of in load_file(trained[0] / "vectors.safetensors").values()} == {np.dtype(np.float16)}
