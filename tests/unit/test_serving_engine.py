"""Every accepted request gets a permutation of its own items with finite scores, in time, whatever its neighbours."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.requests import Feedback, FeedbackEvent, convert_rank
from tasks.ranker.rank import LOWEST
from tasks.serving.engine import Engine
from tasks.serving.events import event_rows
from tasks.serving.feedback import Spool
from tasks.serving.golden import replay
from tasks.serving.metrics import Metrics
from tasks.serving.release import RELEASE_JSON, seal, verify
from tasks.serving.replica import NotReady, Replica, ReplicaOptions
from tasks.serving.rings import SLATE_WEIGHT, Ring, Slate, Slates
from tasks.serving.upload import by_day, parquet_of, read_segment, sealed_segments
from tasks.serving.worker import Overloaded, Worker
from tests.serving_builders import ITEMS, a_release

IDS = [f"item-{n:03d}" for n in range(ITEMS)]
slates = st.lists(st.sampled_from([*IDS, "unknown-1", "unknown-2"]), min_size=1, max_size=40, unique=True)
histories = st.lists(st.sampled_from(IDS), max_size=12)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def engine(release: tuple[Path, Path]) -> Engine:
    return Engine.open(verify(release[0]), release[1])


def asked(surface: str = "recommendation", **more: Any) -> Any:
    return convert_rank({"surface": surface, **more})


def history(items: list[str]) -> list[dict[str, str]]:
    return [{"item_id": item, "event_time": f"2017-06-{10 + n}T09:00:00Z"} for n, item in enumerate(items)]


@settings(max_examples=60, deadline=None)
@given(candidates=slates, bought=histories, search=st.booleans())
def test_a_slate_comes_back_as_a_permutation_of_itself(
    engine: Engine, candidates: list[str], bought: list[str], search: bool
) -> None:
    more = {"surface": "search", "query": "milk"} if search else {}
    ranking = engine.rank(asked(candidates=candidates, history=history(bought), **more))
    assert sorted(ranking.items) == sorted(candidates)
    assert np.isfinite(ranking.scores).all()
    assert ranking.scores == sorted(ranking.scores, reverse=True)
    unknown = [item for item in candidates if item not in IDS]
    if unknown:
        assert ranking.items[-len(unknown) :] == unknown, "unknown items go last, in the order given"
        assert ranking.scores[-1] == LOWEST


@settings(max_examples=40, deadline=None)
@given(candidates=slates, bought=histories)
def test_a_score_does_not_depend_on_the_rest_of_the_slate(
    engine: Engine, candidates: list[str], bought: list[str]
) -> None:
    whole = engine.rank(asked(candidates=candidates, history=history(bought)))
    for item, score in zip(whole.items, whole.scores, strict=True):
        alone = engine.rank(asked(candidates=[item], history=history(bought)))
        assert abs(alone.scores[0] - score) < 1e-5


def test_k_cuts_and_defaults_to_ten(engine: Engine) -> None:
    assert len(engine.rank(asked()).items) == 10
    assert len(engine.rank(asked(k=25)).items) == 25
    assert len(engine.rank(asked(k=1_000)).items) == ITEMS
    assert engine.rank(asked(k=2, candidates=IDS[:5])).items == engine.rank(asked(candidates=IDS[:5])).items[:2]


@pytest.mark.parametrize(
    ("stage", "times"),
    [("full", (0, 1, 2)), ("base", (0, 9)), ("retrieved", (9,))],
)
def test_a_deadline_returns_the_order_of_the_stage_before(
    release: tuple[Path, Path], stage: str, times: tuple[int, ...]
) -> None:
    engine = Engine.open(verify(release[0]), release[1])
    engine._clock = iter((*times, *[99] * 9)).__next__
    ranking = engine.rank(asked(candidates=IDS[:20], history=history(IDS[:5])), deadline=5.0)
    assert (ranking.stage, ranking.cut_short) == (stage, stage != "full")
    assert sorted(ranking.items) == sorted(IDS[:20])


def test_a_search_past_its_deadline_is_answered_by_text_alone(release: tuple[Path, Path]) -> None:
    engine = Engine.open(verify(release[0]), release[1])
    engine._clock = lambda: 9.0
    ranking = engine.rank(asked("search", query="milk"), deadline=5.0)
    assert (ranking.stage, ranking.cut_short) == ("cosine", True)


def test_search_follows_the_text_and_breaks_near_ties_by_the_person(engine: Engine) -> None:
    nobody = engine.rank(asked("search", query="coffee tea", k=20))
    assert nobody.stage == "search"
    # texts are made of two words, see the builder: item n is "WORDS[n % 6] WORDS[n // 10]"
    assert {int(item[-3:]) for item in nobody.items[:2]} & {34, 43, 45, 33}
    twins = [item for item in nobody.items if abs(nobody.scores[nobody.items.index(item)] - nobody.scores[0]) < 0.1]
    assert len(twins) >= 1
    buyer = engine.rank(asked("search", query="coffee tea", k=20, history=history([nobody.items[5]] * 5)))
    gain = buyer.scores[buyer.items.index(nobody.items[5])] - nobody.scores[5]
    assert 0 < abs(gain) <= 0.1


def test_a_number_that_is_not_finite_never_becomes_a_score(release: tuple[Path, Path]) -> None:
    engine = Engine.open(verify(release[0]), release[1])
    engine._items.static[3] = np.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        engine.rank(asked(candidates=IDS[:5]))
    assert engine.rank(asked(candidates=["item-040"])).items == ["item-040"]


def test_golden_requests_refuse_another_model(release: tuple[Path, Path], tmp_path: Path) -> None:
    src, _ = release
    assert replay(Engine.open(verify(src), None), src / "release" / "golden.json") == 3
    other, _ = a_release(tmp_path, seed=1)
    with pytest.raises(InputRejected, match="golden request 0"):
        replay(Engine.open(verify(other), None), src / "release" / "golden.json")


def test_a_replica_with_a_wrong_golden_answer_is_never_ready(tmp_path: Path) -> None:
    src, view = a_release(tmp_path)
    golden = src / "release" / "golden.json"
    golden.write_text(golden.read_text().replace('"stage":"full"', '"stage":"base"'))
    record = verify_record(src)
    (src / RELEASE_JSON).unlink()
    seal(src, record)
    replica = Replica(ReplicaOptions(src, "r1", view=view))
    with pytest.raises(InputRejected, match="golden request 0"):
        replica.load()
    assert not replica.ready
    with pytest.raises(NotReady):
        replica.open_call(asked(), None, False, 0.0)
    replica.close()


def verify_record(src: Path) -> dict[str, Any]:
    import json

    record = json.loads((src / RELEASE_JSON).read_bytes())
    return {name: record[name] for name in ("kind", "partition", "created", "view")}


def test_a_full_queue_refuses_at_once_and_loses_nothing() -> None:
    gate, worker, got = threading.Event(), Worker(limit=3), []
    for n in range(3):
        worker.submit(lambda n=n: gate.wait(10) and n, lambda result, error: got.append((result, error)))
    with pytest.raises(Overloaded):
        worker.submit(lambda: None, lambda result, error: None)
    gate.set()
    assert worker.finish(10)
    assert [result for result, _ in got] == [0, 1, 2]


def test_a_failing_job_reaches_its_caller_and_the_thread_lives_on() -> None:
    worker = Worker(limit=2)
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 / 0)
    assert worker.run(lambda: 7) == 7
    worker.finish(5)


@given(size=st.integers(1, 8), written=st.integers(0, 30), after=st.integers(0, 35), limit=st.integers(1, 10))
def test_a_ring_gives_what_came_after_a_number_oldest_first(size: int, written: int, after: int, limit: int) -> None:
    ring: Ring[int] = Ring(size)
    for n in range(1, written + 1):
        ring.append(n)
    kept = range(max(1, written - size + 1), written + 1)
    assert ring.after(after, limit) == [n for n in kept if n > after][:limit]


def test_slates_forget_the_oldest() -> None:
    slates = Slates(26 + SLATE_WEIGHT)
    for name in ("a", "b", "a", "c"):
        slates.remember(name, Slate("recommendation", None, None, ["x", "y", "z"]))
    assert slates.find("b") is None
    assert slates.find("a") is not None
    slates.remember("long", Slate("recommendation", None, None, ["x"] * 26))
    assert [name for name in "abc" if slates.find(name)] == [], "one long list pushes out many short ones"
    for n in range(40):
        slates.remember(f"short-{n}", Slate("recommendation", None, None, ["x"]))
    assert sum(slates.find(f"short-{n}") is not None for n in range(40)) == 3, "a short one weighs more than its item"


def a_feedback(n: int) -> Feedback:
    return Feedback(f"r{n}", [FeedbackEvent(f"item-{n:03d}", "purchase", value=1.5)])


def spooled(spool: Spool, n: int) -> None:
    now = datetime(2026, 1, 5, 23, 59, tzinfo=UTC)
    spool.append_and_wait(
        event_rows(a_feedback(n), Slate("recommendation", None, "ab" * 32, ["x"] * n + [f"item-{n:03d}"]), None, now)
    )


def test_a_spool_survives_its_process_and_the_next_one_uploads_it(tmp_path: Path) -> None:
    first = Spool(tmp_path, "d" * 64, "r1", Metrics("d", "r1"))
    for n in range(3):
        spooled(first, n)
    assert list(sealed_segments(tmp_path, "", 0)) == [], "a living process keeps its segments"
    first.close()
    segments = list(sealed_segments(tmp_path, "", 0))
    with segments[0].open("ab") as torn:
        torn.write(b'{"event_id": "never ackn')
    rows = [row for segment in segments for row in read_segment(segment)]
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r2"]
    assert list(by_day(rows)) == ["2026-01-05"]
    assert parquet_of(rows) == parquet_of(rows[::-1] + rows[:1]), "order and repeats do not change the file"


def test_a_full_spool_refuses_and_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "d" * 64, "r1", Metrics("d", "r1"), max_bytes=600)
    spooled(spool, 0)
    with pytest.raises(Unavailable, match="full"):
        for n in range(1, 5):
            spooled(spool, n)
    spool.close()
    kept = [row for segment in sealed_segments(tmp_path, "", 0) for row in read_segment(segment)]
    assert kept[0]["request_id"] == "r0"
