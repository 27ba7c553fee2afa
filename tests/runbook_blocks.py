"""The command blocks of docs/runbooks: how each is marked, what it says, what it should print.

A block opens with ```sh test=serving (runs on router, controller and replicas), test=stack (on everything) or test=parse why="...".
given= names what must be so before. A block ```output right after it is what it prints, apart from numbers and digests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from tasks.cli import app
from tasks.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r'(\w+)=("[^"]*"|\S+)')
PROGRAMS = {
    "curl",
    "tail",
    "grep",
    "sort",
    "uniq",
    "head",
    "ls",
    "xargs",
    "ps",
    "cut",
    "du",
    "echo",
    "kill",
    "rm",
    "dmesg",
}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    marks: dict[str, str]
    text: str
    output: str | None = None

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Shell blocks, each with the output block that follows it."""
    text, found = page.read_text(), list[Block]()
    for fence in FENCE.finditer(text):
        language, marks, body = fence.groups()
        if language == "output":
            found[-1] = Block(**(vars(found[-1]) | {"output": body}))
        elif language:
            line = text.count("\n", 0, fence.start()) + 1
            told = {name: value.strip('"') for name, value in MARK.findall(marks)}
            found.append(Block(page.name, line, language, told, body))
    return found


def all_blocks(*modes: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if not modes or block.marks.get("test") in modes]


def params(*modes: str) -> list[object]:
    """Blocks that say the same on several pages once, under the first page's name."""
    first: dict[tuple[object, ...], Block] = {}
    for block in all_blocks(*modes):
        first.setdefault((block.text, block.output, *sorted(block.marks.items())), block)
    return [pytest.param(block, id=block.id) for block in first.values()]


def parses(line: str) -> None:
    """The command exists and takes these arguments. Runs nothing."""
    words = [word for word in shlex.split(line, comments=True) if word]
    if not words:
        return
    program, arguments = words[0], words[1:]
    if program == ".venv/bin/freshrank":
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            assert arguments and arguments[0] in command.commands, f"{line!r}: freshrank has no such command"
            command = command.commands[arguments.pop(0)]
        command.make_context(command.name, arguments)  # raises a usage error; calls nothing
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(arguments) <= targets, line
    else:
        assert program in PROGRAMS, f"{program} in {line!r} is no program that a runbook may use"


def run(block: Block, settings: Settings, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """As a person would, from a checkout whose home is this stack's, with its ports in the addresses."""
    binaries = folder / ".venv" / "bin"
    if not binaries.exists():
        binaries.mkdir(parents=True)
        (folder / ".freshrank").symlink_to(settings.home)
        program = f'#!/bin/sh\nexec {sys.executable} -c "from tasks.cli import main; main()" "$@"\n'
        (binaries / "freshrank").write_text(program)
        (binaries / "freshrank").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRESHRANK_")}
    own = {
        "FRESHRANK_HOME": str(settings.home),
        "FRESHRANK_PORT_BASE": str(settings.port_base),
        "FRESHRANK_RECIPE": settings.recipe,
        "FRESHRANK_POLICY": settings.policy,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }
    script = re.sub(
        r"127\.0\.0\.1:28(\d\d\d)", lambda port: f"127.0.0.1:{settings.port_base + int(port[1])}", block.text
    )
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=kept | own | variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def expected(output: str) -> re.Pattern[str]:
    """The output as a pattern: any digest for a digest, any number for a number."""
    text = re.escape(output.strip())
    text = re.sub(r"\b[0-9a-f]{12}\b", "@DIGEST@", text)
    text = re.sub(r"\d+(?:\\\.\d+)?", r"[\\d.]+", text)
    return re.compile(text.replace("@DIGEST@", "[0-9a-f]{12}"))
