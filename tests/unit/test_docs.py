"""What the documents name exists: files they link to, make targets, commands of freshrank, DAGs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from tasks.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


def test_there_are_pages_to_check():
    assert len(PAGES) >= 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_every_target_and_every_command_exists(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    commands = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"(?:`|bin/)freshrank ([a-z-]+)", text)) <= commands
    dags = {path.stem for path in (ROOT / "dags").glob("model_*.py")}
    assert set(re.findall(r"`(model_[a-z]+)`", text)) <= dags
