"""`freshrank bench`: two releases timed against each other as the benchmark step does it, or load on the service that runs."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tasks.domain.errors import InputRejected
from tasks.domain.evidence import LatencyRatio, Resource
from tasks.domain.gate_policy import GatePolicy
from tasks.domain.latency import LOOKS, SITTING, allowed_ratio
from tasks.domain.verdict import SEVERITY, Finding, Outcome
from tasks.evaluate_command import DIGEST, parts_of, pulled
from tasks.footprint import Parts
from tasks.k6 import Load, open_loop
from tasks.progress import Progress
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen

SHARES = (0.5, 0.8, 1.0)  # of the design rate
CANDIDATE = "candidate"
Release = "digest of a release on this machine, or a folder: its src, or what holds src/ and view/"


def bench(
    candidate: Annotated[str | None, typer.Option(help=Release)] = None,
    champion: Annotated[str | None, typer.Option(help="the same; default: what serves here")] = None,
    policy: Annotated[str | None, typer.Option(help="whose limits; default: the setting")] = None,
    load: Annotated[float | None, typer.Option(min=2, help="requests a second that the service is built for")] = None,
    day: Annotated[str | None, typer.Option(help="with --load: whose trips are sent, YYYY-MM-DD")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="with --load: how long at each rate")] = 20,
    url: Annotated[str | None, typer.Option(help="with --load: the service; default: the router here")] = None,
    key: Annotated[
        bool, typer.Option("--key", help="with --url: send this home's API key to that address too")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Is the candidate slower than the champion? Both are timed in turns on this machine until the bounds are clear.

    With --load, the running service gets 50, 80 and 100 % of that rate instead, whatever it answers (open loop, by k6); a run
    in which not every request could be sent is void. Exit code 1: slower than the policy allows, not clear, or void.
    """
    settings = Settings()
    if load is not None:
        if candidate or champion or day is None:
            raise InputRejected(
                "--load needs --day, and neither --candidate nor --champion: it asks the service that runs"
            )
        told = under_load(settings, day, load, seconds, url or settings.url("router"), key=key)
        ok, show = all(run["outcome"] == "valid" for run in told["runs"]), _show_load
    else:
        if candidate is None:
            raise InputRejected("say what to time: freshrank bench --candidate RELEASE, or --load RATE --day DAY")
        told = two_releases(settings, champion or _serving(settings), candidate, policy or settings.policy)
        ok, show = told["outcome"] == Outcome.PASS, _show
    if as_json:
        emit(told)
    else:
        show(told)
    if not ok:
        raise typer.Exit(1)


def two_releases(settings: Settings, champion: str, candidate: str, policy: str) -> dict[str, Any]:
    """{outcome, champion, candidate, policy, findings, measured}: what the gate would say of time, size and memory.

    Raises:
        InputRejected: a release or its view is not here, or is not what its digest says.
    """
    from tasks.benchmark import CHAMPION, compare_systems
    from tasks.policies import load_policy
    from tasks.run import SEED

    limits = load_policy(policy).gate
    (one, old), (other, new) = (_release(settings, named) for named in (champion, candidate))
    with Progress("bench", LOOKS[-1] * SITTING, "pairs") as bar:

        def watch(told: str) -> None:
            bar.advance(SITTING if "pairs" in told else 0, told.partition(", ")[2])

        measured = compare_systems({CHAMPION: old, CANDIDATE: new}, limits.latency_ratio, SEED, settings.threads, watch)
    findings = judged(measured, limits)
    return {
        "outcome": max(
            (finding.outcome for finding in findings), key=SEVERITY.__getitem__, default=Outcome.INCONCLUSIVE
        ),
        "champion": one,
        "candidate": other,
        "policy": policy,
        "findings": [finding.model_dump(mode="json") for finding in findings],
        "measured": {name: measured[name] for name in ("requests", "threads", "wall_ms", "cpu_ms")},
    }


def judged(measured: Mapping[str, Any], policy: GatePolicy) -> list[Finding]:
    from tasks.domain.product_findings import cost, unmeasured

    told: dict[str, tuple[LatencyRatio | Resource, float]] = {}
    latencies = {name: allowed_ratio(limit, measured["growth"]) for name, limit in policy.latency_ratio.items()}
    for kind, key, limits in (
        (LatencyRatio, "candidates", latencies),
        (Resource, "resources", policy.resource_ratio),
    ):
        for row in measured[key][CANDIDATE]:
            if row["name"] in limits:
                told[row["name"]] = (kind.model_validate(row), limits[row["name"]])
    return [
        cost(*told[name], policy.minimum_pairs) if name in told else unmeasured(name, limit)
        for name, limit in (latencies | policy.resource_ratio).items()
    ]


def under_load(
    settings: Settings, day: str, rate: float, seconds: float, url: str, *, key: bool = False
) -> dict[str, Any]:
    """{url, day, rate, runs: [{share, rate, outcome, good, refused, failed, dropped, p50, p95, p99, ...}]}.

    key: whether this home's API key goes to another address than that of the router here, which always gets it.
    """
    from tasks.adapters.api_keys import own_headers
    from tasks.replay import trips_of

    bodies = [{"surface": "recommendation", "user_id": trip.user_id, "k": 20} for trip in trips_of(settings, day)]
    ours = url.rstrip("/") == settings.url("router").rstrip("/")
    headers = own_headers(settings) if ours or key else {}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bodies.json"
        path.write_text(json.dumps(bodies))
        for share in SHARES:
            sys.stderr.write(f"{share * rate:g} requests/s for {seconds:g} s\n")
            run = open_loop(f"{url}/rank", path, share * rate, seconds, Path(folder), headers=headers)
            runs.append({"share": share, "rate": share * rate, "outcome": outcome_of(run), **asdict(run)})
    return {"url": url, "day": day, "rate": rate, "runs": runs}


def outcome_of(run: Load) -> str:
    """`void`: what was not sent was not slow, so latencies of the rest say nothing. No answer at all is no latency either."""
    if run.dropped:
        return "void"
    return "valid" if run.good and not run.failed else "failed"


def _serving(settings: Settings) -> str:
    from tasks.controller.client import ControllerClient

    champion = ControllerClient(settings).status().get("champion")
    if not champion:
        raise InputRejected("nothing serves here; say which release is the champion: --champion RELEASE")
    return str(champion["digest"])


def _release(settings: Settings, named: str) -> tuple[str, Parts]:
    """(digest, parts), every file checked."""
    from tasks.serving.release import verify, verify_view

    src, view = pulled(settings.data / "serving", named) if DIGEST.fullmatch(named) else parts_of(Path(named))
    release = verify(src)
    if view is None:
        raise InputRejected(
            f"release {release.digest[:12]} has no view here, and requests are of its users; pull its view"
        )
    verify_view(view, release.record.view)
    return release.digest, Parts(src / "release" / "model", src / "release" / "items", view)


def _show(told: dict[str, Any]) -> None:
    screen.print(
        f"{told['candidate'][:12]} against {told['champion'][:12]}, policy {told['policy']}, "
        f"{told['measured']['requests']:,} pairs: {told['outcome']}"
    )
    table = Table(header_style="bold")
    for column in ("", "champion", "candidate", "ratio", "between", "and", "allowed", "outcome"):
        table.add_column(column, justify="left" if column in ("", "outcome") else "right")
    for row in told["findings"]:
        if row["champion"] is None:
            table.add_row(row["name"], *"-" * 5, f"{row['margin']:g}", row["outcome"])
            continue
        sides = (f"{row[side]:.2f}" for side in ("champion", "candidate"))
        bounds = (f"{value:.3f}" for value in (row["candidate"] / row["champion"], row["lower"], row["upper"]))
        table.add_row(row["name"], *sides, *bounds, f"{row['margin']:g}", row["outcome"])
    screen.print(table)
    for row in told["findings"]:
        if row["outcome"] != Outcome.PASS:
            screen.print(f"{row['sentence']}; {row['next_step']}")


def _show_load(told: dict[str, Any]) -> None:
    screen.print(f"{told['url']}, trips of {told['day']}, built for {told['rate']:g} requests/s")
    table = Table(header_style="bold")
    columns = ("of it", "sent/s", "good", "refused", "failed", "not sent", "p50 ms", "p95 ms", "p99 ms", "run")
    for column in columns:
        table.add_column(column, justify="left" if column == "run" else "right")
    for run in told["runs"]:
        counts = (f"{run[name]:,}" for name in ("good", "refused", "failed", "dropped"))
        tails = ("-" if run["outcome"] == "void" else f"{run[name]:.1f}" for name in ("p50", "p95", "p99"))
        table.add_row(f"{100 * run['share']:.0f} %", f"{run['rate']:g}", *counts, *tails, run["outcome"])
    screen.print(table)
    if any(run["outcome"] == "void" for run in told["runs"]):
        screen.print(
            "void: k6 could not send every request, so the times of the others say nothing; send less, or from another machine"
        )
