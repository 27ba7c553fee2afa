"""The service that ships, with a tiny real model, through promotion and rollback at 50 requests a second."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.serving.release import seal
from tests.rollout_stack import Stack, load, put_in_place
from tests.serving_builders import a_release

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
CODE = ("bentos", "tasks/serving", "tasks/ranker", "tasks/domain")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home")
    try:
        yield stack.start()
    finally:
        stack.stop()


def packaged(stack: Stack, root: Path, day: str = "2017-07-01") -> str:
    """A tiny model with the code of this checkout, sealed like a packaged one, where a pull would have put it.

    The weights are the same each day: what two untrained models have in common is nothing, and the shadow says so.
    """
    src, view = a_release(root, key_id=stack.settings.secrets.pseudonym_key_id)
    for folder in CODE:
        others = shutil.ignore_patterns("__pycache__", "*.json", "*.yaml", "*.md")
        shutil.copytree(ROOT / folder, src / folder, ignore=others)
    (src / "tasks" / "__init__.py").touch()
    record = json.loads((src / "release" / "release.json").read_text())
    facts = {name: value for name, value in record.items() if name not in ("version", "files", "sha256")}
    release = seal(src, facts | {"created": day})
    put_in_place(stack.settings, release, src, record["view"], view)
    return release


def test_promotion_and_rollback_of_the_real_service_cost_no_request(stack: Stack, tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = (packaged(stack, tmp_path / day, day) for day in ("2017-07-01", "2017-07-02"))
        assert (await stack.ended(stack.submit(first, "bootstrap")))["state"] == "promoted"
        async with load(stack.settings, per_second=50) as seen:
            ended = await stack.ended(stack.submit(second))
            assert ended["state"] == "promoted", ended
            done = await asyncio.to_thread(stack.client.rollback, actor="test", reason="drill")
            returned = time.monotonic()
            await asyncio.sleep(2)
        assert (done["from"], done["to"]) == (second, first)
        assert seen.failed == [], seen.failed
        assert {release for _, _, release in seen.trail} == {first, second}
        last_reply = max(answered for _, answered, release in seen.trail if release == second)
        assert {release for sent, _, release in seen.trail if sent > returned} == {first}
        print(f"\n{seen.total} requests, 0 failed; {done['seconds']} s; last reply {last_reply - returned:+.3f} s")

    asyncio.run(scenario())
