"""What the commands of `freshrank` share: the screen, `--json`, and who types."""

from __future__ import annotations

import getpass
import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

screen = Console(markup=False, highlight=False, soft_wrap=True)
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def emit(value: Any) -> None:
    """One JSON value for programs; times and paths in it become text."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def this_actor() -> str:
    """Whoever runs the command, as logs and records name them."""
    return f"cli:{getpass.getuser()}"
