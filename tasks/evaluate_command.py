"""`freshrank evaluate`: a release on data that it has never seen, offline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tasks.domain.errors import InputRejected
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen

DIGEST = re.compile(r"[0-9a-f]{8,64}")


def evaluate(
    release: Annotated[
        str,
        typer.Option(help="digest of a release on this machine, or a folder: its src, or what holds src/ and view/"),
    ],
    data: Annotated[Path, typer.Option(help="events that meet the contract, or judged queries: query, item_id, grade")],
    as_json: AsJson = False,
) -> None:
    """Score a release on events or judged queries that it has never seen. Needs no stack and changes nothing."""
    from tasks.evaluation.outside import evaluate_release
    from tasks.serving.release import verify

    serving = Settings().data / "serving"
    src, view = pulled(serving, release) if DIGEST.fullmatch(release) else parts_of(Path(release))
    told = evaluate_release(verify(src), view, data)
    if as_json:
        emit(told)
    else:
        _show(told)


def pulled(serving: Path, digest: str) -> tuple[Path, Path | None]:
    """(src, view or None) of a release that has served here. Raises InputRejected where none, or several, begin so."""
    there = sorted(path for path in (serving / "releases").glob("[0-9a-f]*") if path.is_dir())
    found = [path for path in there if path.name.startswith(digest)]
    if len(found) != 1:
        raise InputRejected(
            f"{len(found)} releases on this machine begin with {digest}, it must be one; there are: "
            f"{', '.join(path.name[:12] for path in there) or 'none'}. Give more of the digest, or a folder"
        )
    view = serving / "views" / str(json.loads((found[0] / "release" / "release.json").read_bytes())["view"])
    return found[0], view if (view / "users.json").exists() else None


def parts_of(folder: Path) -> tuple[Path, Path | None]:
    """(src, view or None) of a release folder. Raises InputRejected where there is no release."""
    src = folder / "src" if (folder / "src").is_dir() else folder
    if not (src / "release" / "release.json").exists():
        raise InputRejected(
            f"{folder} holds no release: release/release.json is missing; give the folder that holds src/"
        )
    view = src.parent / "view"
    return src, view if (view / "users.json").exists() else None


def _show(told: dict[str, Any]) -> None:
    users = f" of {told['users']:,} users" if "users" in told else ""
    screen.print(f"release {told['release'][:12]} on {told['data']}: {told['slates']:,} slates{users} ({told['kind']})")
    baseline = told["baseline"]
    table = Table(header_style="bold")
    for column in ("metric", "release", baseline["name"]):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, value in told["metrics"].items():
        other = baseline["metrics"].get(name)
        table.add_row(name, f"{value:.4f}", "-" if other is None else f"{other:.4f}")
    for name, value in told["report"].items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.4f}", "-")
    screen.print(table)
    if told["slices"]:
        slices = Table(header_style="bold")
        for column in ("slice", "slates", "ndcg_at_10"):
            slices.add_column(column, justify="left" if column == "slice" else "right")
        for name, one in told["slices"].items():
            slices.add_row(name, f"{one['slates']:,}", f"{one['ndcg_at_10']:.4f}")
        screen.print(slices)
    for name, count in told["left_out"].items():
        if count:
            screen.print(f"left out: {count:,} {name.replace('_', ' ')}")
