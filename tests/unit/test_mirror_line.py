"""One call that is never answered holds nobody up for ever, and is not lost: it is set aside, and doctor says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.adapters.mirror import ASIDE, TRIES, Mirror
from tasks.adapters.registry import LONGEST_TAG, NOTE, MemoryRegistry, shortened
from tasks.doctor import _mirror
from tasks.domain.errors import Unavailable
from tasks.settings import Settings


class Service:
    """Answers every call but the `poisoned` ones with a 500; all of them while it is down."""

    def __init__(self, *poisoned: str) -> None:
        self.poisoned, self.down, self.made, self.asked = set(poisoned), False, [], 0

    def __call__(self, of: str) -> None:
        self.asked += 1
        if self.down or of in self.poisoned:
            raise Unavailable(f"MLflow answered 500 to {of}")
        self.made.append(of)


def a_mirror(home: Path, service: Service) -> Mirror:
    return Mirror(home / "spool" / "mlflow", {"step": service})


def test_a_call_that_answers_5xx_for_ever_is_set_aside_and_the_later_ones_go_on(tmp_path: Path) -> None:
    service = Service("bad", "worse")
    mirror = a_mirror(tmp_path, service)
    for name in ("bad", "good", "worse", "better"):
        assert not mirror.call("step", of=name)
    passes = 0
    while mirror.waiting():
        mirror.flush()
        passes += 1
        assert passes < 3 * TRIES, [path.read_text() for path in mirror.waiting()]
    assert service.made == ["good", "better"]
    aside = [json.loads(path.read_text()) for path in mirror.left(ASIDE)]
    assert [(one["arguments"]["of"], one["tries"]) for one in aside] == [("bad", TRIES), ("worse", TRIES)]
    (finding,) = _mirror(Settings(home=tmp_path))
    assert not finding["ok"] and "2 calls that MLflow never answered lie in" in finding["sentence"]


def test_a_service_that_is_down_for_long_loses_nothing(tmp_path: Path) -> None:
    service = Service()
    mirror, service.down = a_mirror(tmp_path, service), True
    names = [f"step-{n}" for n in range(4)]
    for name in names:
        mirror.call("step", of=name)
    for _ in range(5 * TRIES):
        before = service.asked
        mirror.flush()
        assert service.asked == before + 1, "one time-out a pass, whatever waits"
    assert len(mirror.waiting()) == 4 and not mirror.left(ASIDE)
    (finding,) = _mirror(Settings(home=tmp_path))
    assert finding["ok"] and finding["sentence"] == "4 calls wait for MLflow"
    service.down = False
    mirror.flush()
    assert sorted(service.made) == names and not mirror.waiting()


def test_what_was_set_aside_is_made_once_it_is_moved_back(tmp_path: Path) -> None:
    service = Service("bad")
    mirror = a_mirror(tmp_path, service)
    mirror.call("step", of="bad")
    for _ in range(TRIES):
        mirror.flush()
    mirror.call("step", of="good")
    (path,) = mirror.left(ASIDE)
    service.poisoned.clear()
    path.replace(mirror.folder / path.name)
    mirror.flush()
    assert service.made == ["good", "bad"]


@pytest.mark.parametrize("joint", ["\n", "; ", ". "])
def test_a_note_that_is_too_long_ends_with_a_whole_sentence_and_a_link(joint: str) -> None:
    registry = MemoryRegistry()
    run = registry.refresh_run("k", "2017-07-01")
    sentence = "ndcg_at_10[new]: 0.3120 -> 0.2990 is not allowed"
    registry.note(run, joint.join([sentence] * 400), "gate/decision.html")
    note = registry.read_run(run).tags[NOTE]
    head, link = note.split("\n\nCut here; ")
    assert len(note) <= LONGEST_TAG and link == f"[the whole record](memory:/{run}/gate/decision.html)"
    assert len(head) > 4_500 and head.rstrip(".").endswith("allowed")
    assert shortened("short") == "short" and shortened("x" * 9_000).startswith("x" * 4_000)
