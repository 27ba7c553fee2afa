"""`freshrank explain`, `bundle` and `reproduce`: why something shipped or did not, and the same again elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tasks.domain.errors import InputRejected
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def explain(
    run: Annotated[
        str | None,
        typer.Argument(help="a day, the manifest URI of a gate, or the file of a bundle; default: the latest run"),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="write the record as one HTML file too")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="decide the bundle again and compare the verdicts")] = False,
    as_json: AsJson = False,
) -> None:
    """Why something shipped or did not: every finding with its numbers, bound and margin, and what would change it."""
    from rich.markdown import Markdown

    from tasks.decisions import as_markdown

    bundled = run is not None and "://" not in run and not DAY.fullmatch(run)
    if replay and not bundled:
        raise InputRejected("a replay needs the file of a bundle; `freshrank bundle DAY` writes one")
    if bundled and replay:
        return _replay(Path(str(run)), as_json)
    told = _bundled(Path(str(run))) if bundled else _told(run)
    if page:
        from tasks.explain.page import html

        page.write_text(html(told))
    if as_json:
        emit(told)
    elif sys.stdout.isatty():
        Console(highlight=False).print(Markdown(as_markdown(told)))  # a console that wraps softly would cut its lines
    else:
        sys.stdout.write(as_markdown(told) + "\n")


def bundle(
    run: Annotated[str | None, typer.Argument(help="a day, or the manifest URI of a gate; default: the latest")] = None,
    out: Annotated[Path | None, typer.Option(help="the file; default: freshrank-DAY-KEY.zip here")] = None,
    as_json: AsJson = False,
) -> None:
    """Write all that one decision rests on as one file, for `freshrank explain FILE --replay` on any machine."""
    from tasks.adapters.store import open_store
    from tasks.decisions import find_gate
    from tasks.explain.bundle import bundle as bundled
    from tasks.explain.bundle import read_bundle

    store = open_store(Settings())
    uri = find_gate(store, run)
    content = bundled(store, uri)
    key = store.key(uri).removesuffix(".json").split("/")
    path = out or Path(f"freshrank-{key[-2]}-{key[-1][:12]}.zip")
    path.write_bytes(content)
    made = read_bundle(path)  # what is handed out has been read back
    told = {"bundle": str(path), "sha256": made.digest, "bytes": len(content), "run": uri}
    if as_json:
        emit(told)
    else:
        screen.print(f"{path}: {len(content):,} bytes, sha256 {made.digest}")
        screen.print(f"decide it again anywhere: freshrank explain {path} --replay")


def reproduce(
    run: Annotated[str | None, typer.Argument(help="a day, or the manifest URI of a gate; default: the latest")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a run's model again from its dataset, recipe and seed, here, and compare the weights. Changes nothing."""
    from tasks.adapters.store import open_store
    from tasks.decisions import find_gate
    from tasks.explain.reproduce import reproduce as train_again

    settings = Settings()
    store = open_store(settings)
    told = train_again(store, find_gate(store, run), settings)
    if as_json:
        emit(told)
    else:
        screen.print(told["sentence"])
    if not told["reproduced"]:
        raise typer.Exit(1)


def _told(run: str | None) -> dict[str, Any]:
    from tasks.adapters.store import open_store
    from tasks.decisions import explanation, find_run

    store = open_store(Settings())
    return explanation(store, find_run(store, run))


def _bundled(path: Path) -> dict[str, Any]:
    return _opened(path).record


def _replay(path: Path, as_json: bool) -> None:
    from tasks.explain.bundle import replay

    told = replay(_opened(path))
    screen.print_json(data=told) if as_json else screen.print(f"{told['partition']}: {told['sentence']}")


def _opened(path: Path) -> Any:
    from tasks.explain.bundle import read_bundle

    if not path.is_file():
        raise InputRejected(f"{path} is neither a day (YYYY-MM-DD), nor a manifest URI, nor a file")
    return read_bundle(path)
