"""Every runbook has the same shape, and every command block on it works: run against a real serving side, or parsed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.adapters import api_keys
from tasks.adapters.shelf import Shelf
from tests.rollout_stack import Stack, load, wait_until
from tests.runbook_blocks import PAGES, ROOT, Block, all_blocks, expected, params, parses, run

HEADINGS = ("What you see", "Is it urgent?", "Verify", "Past incidents")
ACTING = ("Stop the bleeding", "Do it", "Find the cause, in order")
SHADOWLESS = {"shadow_s": 0, "steps": [{"weight": 50, "bake_s": 0}], "full_bake_s": 0, "min_requests": 1}


def test_there_are_pages_and_every_kind_of_block():
    assert len(PAGES) >= 18
    assert {block.marks.get("test") for block in all_blocks()} == {"serving", "stack", "parse"}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "README.md"], ids=lambda page: page.stem)
def test_every_page_has_the_same_shape(page):
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert set(HEADINGS) <= set(headings) and set(ACTING) & set(headings), headings
    assert "**Status:** in force" in page.read_text()
    assert f"]({page.name})" in (ROOT / "docs" / "runbooks" / "README.md").read_text(), "the index names it"


def test_every_dag_has_a_page():
    dags = {path.stem for path in (ROOT / "dags").glob("[!_]*.py")}
    assert len(dags) >= 4 and dags <= {page.stem for page in PAGES}


@pytest.mark.parametrize("block", params())
def test_every_block_says_how_it_is_tested(block):
    assert block.language == "sh", f"{block.id}: mark text that is no command with ``` alone, or ```output"
    assert block.marks.get("test") in ("serving", "stack", "parse"), block.id
    assert ("why" in block.marks) == (block.marks["test"] == "parse"), (
        f"{block.id}: say why it is not run, and only then"
    )
    for named in re.findall(r"tests/[\w/]+\.py", block.marks.get("why", "")):
        assert (ROOT / named).exists(), f"{block.id} names {named}"


@pytest.mark.parametrize("block", params("parse", "stack"))
def test_a_block_that_is_not_run_here_is_a_command_that_exists(block):
    lines = [line for line in block.text.splitlines() if not re.match(r"\w+=", line)]
    assert lines
    for line in lines:
        parses(line.replace("<(", " ").replace(")", " ") if "<(" in line else line)


@pytest.mark.parametrize(
    "line",
    [
        ".venv/bin/freshrank rolback --reason x",
        ".venv/bin/freshrank rollback",
        ".venv/bin/freshrank rollback --why x",
        "make rollback",
        "kubectl get pods",
    ],
)
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises(Exception, match=r".+"):
        parses(line)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("runbooks") / "home")
    try:
        stack.start()
        stack.champion("first")
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkout")


class Given:
    """Brings the serving side to where a block is read."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.made = len(list((stack.serving / "releases").glob("*")))

    def prepare(self, what: str | None) -> dict[str, str]:
        self.calm()
        if what == "previous":
            asyncio.run(self.promoted())
        elif what in ("canary", "aborted"):
            rollout = self.stack.submit(self.release(), shadow_s=600)
            wait_until(lambda: self.stack.client.rollout(rollout)["state"] == "shadow", "it is in shadow")
            if what == "aborted":
                self.stack.client.abort(actor="test", reason="given")
        elif what == "frozen":
            self.stack.client.freeze(actor="test", reason="given")
        elif what == "pinned":
            return {"RELEASE": Shelf(self.stack.serving).pin(self.champion(), "test", "given")[:12]}
        httpx.post(f"{self.stack.settings.url('router')}/rank", json={})
        return {}

    def calm(self) -> None:
        """No rollout, not frozen, no keys, nothing pinned."""
        status = self.stack.client.status()
        if status["rollout"] and not status["rollout"]["ended"]:
            self.stack.client.abort(actor="test", reason="calm")
        if self.stack.client.status()["frozen"]:
            self.stack.client.unfreeze(actor="test", reason="calm")
        for key in sorted(api_keys.keys(self.stack.settings), key=lambda key: key.client == api_keys.OURS):
            if key in api_keys.keys(self.stack.settings):
                api_keys.revoke(self.stack.settings, key.id)

    def champion(self) -> str:
        return str(self.stack.client.status()["champion"]["release"])

    def release(self) -> str:
        self.made += 1
        return self.stack.release(f"release-{self.made}")

    async def promoted(self) -> None:
        async with load(self.stack.settings, 40):
            ended = await self.stack.ended(self.stack.submit(self.release(), **SHADOWLESS))
        assert ended["state"] == "promoted", ended


@pytest.mark.stack
@pytest.mark.parametrize("block", params("serving"))
def test_a_block_does_what_the_page_says(block: Block, stack: Stack, checkout: Path) -> None:
    before = Given(stack).prepare(block.marks.get("given"))
    served = stack.client.status()
    done = run(block, stack.settings, checkout, **before)
    assert done.returncode == 0, f"{block.id}\n{block.text}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert done.stdout.strip() or block.text.startswith("kill"), f"{block.id} said nothing"
    if block.output is not None:
        assert expected(block.output).fullmatch(done.stdout.strip()), f"{block.id} printed {done.stdout!r}"
    after = stack.client.status()
    if "freshrank rollback" in block.text:
        assert after["champion"]["release"] == served["previous"]["release"] != served["champion"]["release"]
    if "freshrank abort" in block.text:
        assert after["rollout"]["state"] == "aborted"
    if "http_code" in block.text:
        assert done.stdout.strip() == "200"
