"""`freshrank lineage` and `freshrank diff`: what a release was made of, what was made of a day, what changed between two."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from tasks.domain.errors import FreshrankError
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
DAYS_SHOWN = 3


def lineage(
    named: Annotated[
        str, typer.Argument(metavar="RELEASE|PARTITION", help="a digest, its first digits, or YYYY-MM-DD")
    ],
    as_json: AsJson = False,
    in_toto: Annotated[
        bool, typer.Option("--in-toto", help="a release as an in-toto statement, SLSA provenance")
    ] = False,
) -> None:
    """From a release back to its days, code, lock, seed and verdict; or from a day to everything that was made of it."""
    from tasks.adapters.store import open_store
    from tasks.attestation import in_toto_statement
    from tasks.lineage import find_release, of_partition, of_release

    settings = Settings()
    store = open_store(settings)
    if DAY.fullmatch(named):
        told = of_partition(store, named)
        made = [one["release"] for one in (*told["releases"], *told["releases_with_its_weights"])]
    else:
        told = of_release(store, find_release(store, named))
        made = [told["release"]]
    if in_toto:
        if DAY.fullmatch(named):
            raise typer.BadParameter("--in-toto states where a release comes from; name a release, not a day")
        return emit(in_toto_statement(told))
    told["served"] = _served(settings, made)
    if as_json:
        return emit(told)
    for line in _of_partition(told) if "partition" in told and "release" not in told else _of_release(told):
        screen.print(line)


def diff(
    before: Annotated[str, typer.Argument(help="a release: its digest, or the first digits of it")],
    after: Annotated[str, typer.Argument(help="another one")],
    as_json: AsJson = False,
) -> None:
    """What changed from one release to another: weights, state, code, policy, days, files, and the gates' numbers."""
    from tasks.adapters.store import open_store
    from tasks.lineage import find_release
    from tasks.release_diff import diff as compared

    store = open_store(Settings())
    told = compared(store, find_release(store, before), find_release(store, after))
    if as_json:
        return emit(told)
    for line in _of_diff(told):
        screen.print(line)


def served_in_words(told: dict[str, Any]) -> list[str]:
    """The controller's answer to "what served at TIME, and why?" for people."""
    if told["champion"] is None:
        return [f"at {told['time']} nothing served: the rollout log begins later"]
    lines = [f"at {told['time']} release {told['champion'][:12]} was champion"]
    shares = ", ".join(f"{release[:12]} {weight} %" for release, weight in told["weights"].items())
    lines.append(f"  traffic  {shares}")
    if row := told["because"]:
        moved = f"{str(row['from_release'])[:12]} -> {str(row['to_release'])[:12]}"
        lines.append(
            f"  because  revision {row['rev']}, {row['at']}: {row['kind']} {moved}, by {row['actor']}: {row['reason']}"
        )
    lines.append(f"  more     freshrank lineage {told['champion'][:12]}")
    return lines


def _served(settings: Settings, releases: list[str]) -> list[dict[str, Any]] | None:
    """The rows of the rollout log that name these releases; None where the controller does not answer."""
    from tasks.controller.client import ControllerClient

    try:
        rows = ControllerClient(settings).log()
    except FreshrankError:
        return None
    kept = ("rev", "at", "kind", "from_release", "to_release", "weight", "actor", "reason")
    wanted = set(releases)
    return [{name: row[name] for name in kept} for row in rows if wanted & {row["to_release"], row["from_release"]}]


def _of_release(told: dict[str, Any]) -> Iterator[str]:
    yield f"release {told['release']} ({told['kind']} of {told['partition']})"
    made_by = told["provenance"]
    if made_by:
        days = sorted(made_by["partitions"])
        verdict = made_by["verdict"]
        yield f"  days      {_range(days)}"
        yield f"  verdict   {verdict['kind']}: {verdict['outcome']}" + (
            ", approved by a person" if verdict["approved"] else ""
        )
        yield f"  policy    {made_by['policy']['name']} ({made_by['policy']['digest']})"
        yield f"  recipe    {made_by['recipe']['name']} ({made_by['recipe']['digest']})"
        yield f"  code      {made_by['code']}, lock {made_by['lock']}, seed {made_by['seed']}"
    else:
        yield "  it carries no provenance: it was packaged before releases said so, or by hand"
    yield f"  weights   {told['weights_digest']}, trained through {told['train_end']}"
    for release in told["weights_from"]:
        yield f"            first shipped in {release}"
    yield f"  state     through {told['state_through']}, view {str(told['view'])[:12]}"
    yield f"  signed by {', '.join(told['signed_by']) or 'nobody: it does not start'}"
    yield from _steps("made by", told["steps"])
    for uri in told["missing"]:
        yield f"  gone      {uri}"
    yield from _rows(told["served"])


def _of_partition(told: dict[str, Any]) -> Iterator[str]:
    accepted, said = told["accepted"], "landed, not accepted" if told["landed"] else "not in the store"
    if accepted:
        said = f"{accepted['rows']:,} of {accepted['landed_rows']:,} rows accepted ({accepted['verdict']})"
    yield f"day {told['partition']}: {said}"
    for title, name in (("datasets", "datasets"), ("models", "models"), ("decisions", "decisions")):
        yield from _steps(title, told[name])
    for title, name in (("releases", "releases"), ("releases with its weights", "releases_with_its_weights")):
        yield f"  {title}: {len(told[name])}"
        for one in told[name]:
            yield f"    {one['release'][:12]}  {one['kind']} of {one['partition']}, weights through {one['train_end']}"
    yield from _rows(told["served"])


def _of_diff(told: dict[str, Any]) -> Iterator[str]:
    yield f"{told['before'][:12]} -> {told['after'][:12]}" + (": the same release" if told["same"] else "")
    for title in ("facts", "made_by"):
        for name, (before, after) in told[title].items():
            yield f"  {name}: {_said(before)} -> {_said(after)}"
    for title in ("partitions", "files"):
        for what in ("added", "removed", "changed"):
            if names := told[title][what]:
                yield f"  {title} {what}: {_range(names) if title == 'partitions' else ', '.join(names)}"
    yield f"  bytes: {told['files']['bytes'][0]:,} -> {told['files']['bytes'][1]:,}"
    metrics = told["metrics"]
    if missing := metrics.get("missing"):
        yield f"  metrics: {missing}"
    elif not metrics["same_holdout"]:
        yield "  metrics (each gate's own holdout: they do not compare)"
    for name, value in metrics["values"].items():
        yield f"    {name}: {value['before']:.4f} -> {value['after']:.4f}"


def _steps(title: str, steps: list[dict[str, Any]]) -> Iterator[str]:
    yield f"  {title}: {len(steps)}"
    for one in steps:
        yield f"    {one['step']:<16} {one['partition']}  {one['started_at']}  {one['manifest']}"


def _rows(served: list[dict[str, Any]] | None) -> Iterator[str]:
    if served is None:
        yield "  served: the controller does not answer, so nobody knows"
        return
    yield f"  in the rollout log: {len(served)} rows"
    for row in served:
        moved = f"{str(row['from_release'])[:12]} -> {str(row['to_release'])[:12]}"
        yield f"    {row['rev']:>4}  {row['at'][:19]}  {row['kind']:<9} {moved}  {row['actor']}: {row['reason']}"


def _range(days: list[str]) -> str:
    return f"{days[0]} to {days[-1]}, {len(days)} of them" if len(days) > DAYS_SHOWN else ", ".join(days) or "none"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
