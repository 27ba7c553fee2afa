"""One small encoder in place of two: it serves the same way, and only where it is not worse than what it was made of."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from search_builders import a_plan, films, tiny_bert, titles_asked

from tasks.compression import search_encoders, search_student
from tasks.compression.distil import Student
from tasks.compression.search_encoders import export_search
from tasks.compression.search_student import make_teachers, ship_student, taught
from tasks.domain.recipe import SearchStudent
from tasks.ranker.search.dataset import load_lists, write_search
from tasks.ranker.search.encoder import SentenceEncoder, vectors_of
from tasks.ranker.search.fit import fit_search
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.ranker import SearchRanker

SHAPE = SearchStudent(
    layers=2, feed_forward=16, heads=1, one_layer=True, pieces=100, piece_width=8, epochs=2, margin=0.2
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("student")
    (home / "dataset").mkdir()
    parts = {"train": titles_asked(4), "validation": titles_asked(2), "holdout": titles_asked(1)}
    write_search(home / "dataset", films(), parts)
    return home


@pytest.fixture(scope="module")
def plan(home):
    torch.manual_seed(0)
    return a_plan(encoder=str(tiny_bert(home / "bert", layers=2)), passes=1, head_epochs=3, student=SHAPE)


@pytest.fixture(scope="module")
def exported(home, plan):
    fit_search(home / "dataset", plan, home, home / "trained", seed=1)
    opened = []

    class Counted(search_encoders.QueryEncoder):
        def __init__(self, folder, **others):
            opened.append(folder.name)
            super().__init__(folder, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_encoders, "QueryEncoder", Counted)
        export_search(home / "trained", plan, 4, home / "out")
    assert opened == [
        "base",
        "base",
        "tuned",
        "tuned",
    ]  # compiled before and after int8, not for every text that checks it
    return home / "out"


def test_a_student_that_ships_answers_as_it_was_judged(home, plan, exported):
    out = home / "shipped"
    shutil.copytree(exported, out)
    told = ship_student(home / "trained", home / "dataset", plan, 4, 1, home / "cache", home / "work", out)
    assert told["search_student"] == "ships" and told["search_student_bound"] >= -SHAPE.margin
    assert not (out / "base").exists() and not (out / "tuned").exists()
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".json", ".safetensors", ".xml", ".bin"}
    assert 0 < told["search_vectors_bytes"] <= (out / "vectors.safetensors").stat().st_size
    ranker, lists = SearchRanker.open(out), load_lists(home / "dataset", "validation")
    ends = zip(lists.ptr[:-1], lists.ptr[1:], strict=True)
    scores = [ranker.scores(lists.queries[n], lists.rows[a:b]) for n, (a, b) in enumerate(ends)]
    served = float(ndcg(lists, np.concatenate(scores)).mean())
    assert served == pytest.approx(told["search_student_ndcg_at_10"], abs=0.02)
    assert ranker.scores(" ", lists.rows[:4]).shape == (4,)


def test_a_student_that_was_killed_goes_on_from_its_last_pass(home, plan, exported, monkeypatch):
    train, documents = load_lists(home / "dataset", "train"), films()
    base, tuned = SentenceEncoder(home / "bert"), SentenceEncoder(home / "trained" / "encoder")
    teachers = make_teachers(home / "trained", base, tuned, train, TextMatch(documents), plan)
    assert teachers.title.shape == teachers.written.shape == (len(documents) + 1, base.width)
    asked = vectors_of(base, train.queries, plan.query_tokens)
    assert np.array_equal(teachers.query, asked) and not teachers.written[-1].any()

    def learned(seed=1):
        return taught(
            base,
            teachers,
            documents.titles,
            documents.written,
            train,
            plan,
            SHAPE,
            seed,
            home / "kept",
            home / "killed",
        )

    with monkeypatch.context() as killed:
        killed.setattr(search_student, "distil_lists", lambda *told: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            learned()
    monkeypatch.setattr(search_student, "distil", lambda *told: pytest.fail("the first pass was made again"))
    whole = learned().state_dict()
    monkeypatch.setattr(search_student, "distil_lists", lambda *told: pytest.fail("the second pass was made again"))
    assert all(torch.equal(value, whole[name]) for name, value in learned().state_dict().items())
    with pytest.raises(pytest.fail.Exception, match="first pass"):
        learned(seed=2)  # another run's weights are not its own


def test_a_student_that_learned_nothing_is_refused_and_changes_nothing(home, plan, exported, monkeypatch):
    def empty(base, *others):
        student = Student(SentenceEncoder(home / "bert"), 2)
        for one in student.maps:
            one.weight.data[:] = one.weight.data[0, 0]  # every text has the same vector
        return student.eval()

    monkeypatch.setattr(search_student, "taught", empty)
    monkeypatch.setattr(search_student, "head_scores", lambda head, inputs: np.zeros(len(inputs.x), np.float32))
    monkeypatch.setattr(search_student, "_of_parent", lambda trained, plan, lists, workdir: np.ones(len(lists)))
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    told = ship_student(home / "trained", home / "dataset", plan, 2, 1, home / "cache", home / "empty", exported)
    assert told["search_student"] == "refused" and told["search_student_bound"] < -SHAPE.margin
    assert before == {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
