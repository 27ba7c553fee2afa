"""The drill, on the real service with a tiny model: every kind of bad release is stopped and no caller notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.domain.errors import Conflict, FreshrankError, InputRejected
from tasks.domain.rollout import RolloutPolicy
from tasks.drill import Result, bad_copy, rehearse, require_passed
from tests.e2e.test_rollout_real_service import packaged
from tests.rollout_stack import FAST, Stack

pytestmark = pytest.mark.stack
POLICY = RolloutPolicy.model_validate(
    FAST | {"shadow_s": 12, "steps": [{"weight": 5, "bake_s": 20}], "max_restarts": 0}
)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home", replica_memory_mib=768)
    try:
        yield stack.start()
    finally:
        stack.stop()


def test_bad_releases_are_stopped_and_nobody_notices(stack: Stack, tmp_path: Path) -> None:
    """Four of the seven: what is wrong from the start is in test_rollout_under_load; `freshrank drill` does all."""
    champion = packaged(stack, tmp_path / "model")
    with pytest.raises(InputRejected, match="nothing serves yet"):
        rehearse(stack.settings, ["nan"], rate=20, policy=POLICY)
    assert stack.client.wait(stack.submit(champion, "bootstrap"), deadline_s=60)["state"] == "promoted"
    kinds = ["wrong_order", "crash_loop", "memory_hog", "press"]
    results = rehearse(stack.settings, kinds, rate=50, policy=POLICY)
    for one in results:
        print(f"\n{one.kind}: {one.state} in {one.step} after {one.detected_s} s, {one.lost} of {one.requests} lost, "
              f"{one.seen} seen, last bad reply after {one.back_s} s: {one.reason}")  # fmt: skip
    assert [one.kind for one in results] == kinds
    assert all(one.passed for one in results), [one for one in results if not one.passed]
    status = stack.client.status()
    assert status["champion"]["release"] == champion and status["frozen"] is False
    files = stack.settings.data / "serving" / "releases"
    assert {path.name for path in files.iterdir() if path.is_dir()} == {champion}, "a bad copy was left behind"
    assert "event=killed" in stack.log_text(), "the memory hog was not ended for its memory"
    with bad_copy(stack.settings, champion, "nan") as release:
        assert "drill" not in (files / champion / "bentos" / "ranker" / "__main__.py").read_text()
        assert (files / release / "bentos" / "ranker" / "drill.py").exists()
    stack.client.freeze(actor="on-call", reason="holiday")
    with pytest.raises(Conflict, match="holiday"):
        rehearse(stack.settings, ["nan"], rate=20, policy=POLICY)
    with pytest.raises(InputRejected, match="there is no drill laziness"):
        rehearse(stack.settings, ["laziness"], rate=20, policy=POLICY)


def test_a_drill_that_nothing_stopped_is_an_error() -> None:
    fine = Result("nan", "", "rolled_back", "shadow", "", 1.0, None, 100, 0, 0, True)
    slipped = Result("slow", "", "promoted", "full", "all rules passed", None, None, 100, 0, 40, False)
    require_passed([fine])
    with pytest.raises(
        FreshrankError, match="1 of 2 drills failed: slow ended promoted in full, 0 requests lost, 40 bad"
    ):
        require_passed([fine, slipped])
