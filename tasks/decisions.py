"""Find what a run decided, and tell it: the same numbers for `freshrank explain`, the Airflow log and MLflow."""

from __future__ import annotations

from typing import Any

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Outcome
from tasks.domain.manifest import Manifest, partition_date
from tasks.explain.story import PATH, Made, data, lineage, made_by, story
from tasks.run import read_manifest

NEAREST = 3
SIGN = {Outcome.PASS: "pass", Outcome.INCONCLUSIVE: "????", Outcome.FAIL: "FAIL"}
STOPS = ("empty", "hold", "refuse")  # data verdicts after which no gate runs


def find_gate(store: Store, run: str | None) -> str:
    """The manifest URI of a gate step: by its own URI, by partition (the latest of that day), or the latest of all.

    Raises:
        InputRejected: there is none.
    """
    if run and "://" in run:
        return run
    if run:
        partition_date(run)
    found = _latest(store, "gate", run)
    if found is None:
        raise InputRejected(
            f"no gate has run{' for ' + run if run else ''}; start one with `freshrank refresh --partition DAY`"
        )
    return found[0]


def find_run(store: Store, run: str | None) -> str:
    """As `find_gate`, but a run that ended before its gate is found too: by the last step that it completed.

    Raises:
        InputRejected: nothing has run.
    """
    if run and "://" in run:
        return run
    if run:
        partition_date(run)
    gate, validated = _latest(store, "gate", run), _latest(store, "validate_data", run)
    if (
        validated
        and validated[1].summary.get("verdict") in STOPS
        and (not gate or gate[1].started_at < validated[1].started_at)
    ):
        return validated[0]
    if gate:
        return gate[0]
    if run:
        last = [found for step in PATH if (found := _latest(store, step, run))]
        if last:
            return last[-1][0]
    return find_gate(store, run)


def read_decision(store: Store, manifest: Manifest) -> Decision:
    return Decision.model_validate_json(store.get(store.key(manifest.outputs["decision.json"].uri)))


def explanation(store: Store, uri: str) -> dict[str, Any]:
    """The form of `freshrank explain --json`; it always has run, partition, headline, shipped, reason and candidates.

    `uri` is the manifest of a gate, or of the last step of a run that never came to one.
    """
    made = made_by(store, uri)
    manifest = read_manifest(store, uri)
    if manifest.step != "gate":
        return _without_gate(uri, manifest, made)
    decision, package = read_decision(store, manifest), _package_of(store, manifest.partition, uri)
    release = str(package[1].summary["release"]) if package else None
    if package:
        made["package"] = package
    return {
        "run": uri,
        "partition": manifest.partition,
        "policy": decision.policy,
        "headline": headline(decision),
        "shipped": decision.shipped,
        "reason": decision.reason,
        "needs_review": decision.needs_review,
        "release": release,
        "approved": package[1].params.get("approved") if package else None,
        "candidates": candidates_of(decision, release),
        "report": {key: value for key, value in manifest.summary.items() if key not in ("shipped", "reason")},
        **story(store, made, decision),
    }


def headline(decision: Decision) -> str:
    """The verdict in one sentence, short enough for a phone; `reason` has the numbers."""
    if decision.shipped != "none":
        return {
            "weights": "The new weights ship: they proved themselves against the champion.",
            "state": "The new state ships with the champion's weights.",
            "bootstrap": "The first champion ships: it proved itself against counting.",
        }[decision.shipped]
    if not decision.verdicts:
        return "Nothing ships, the champion keeps serving: there was no candidate."
    told = []
    for verdict in decision.verdicts:
        worst = [f"{f.name}[{f.slice}]" for f in verdict.findings if f.outcome is verdict.outcome]
        if verdict.outcome is not Outcome.PASS:
            more = f" and {len(worst) - 2} more" if len(worst) > 2 else ""
            told.append(f"{verdict.kind}: {verdict.outcome} on {', '.join(worst[:2]) or 'no findings'}{more}")
    return f"Nothing ships, the champion keeps serving. {'; '.join(told) or decision.reason}."


def candidates_of(decision: Decision, release: str | None) -> list[dict[str, Any]]:
    """Each candidate's verdict; the one that shipped has the release's digest."""
    return [
        {
            "kind": verdict.kind,
            "release": release if verdict.kind == decision.shipped else None,
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            "findings": [finding.model_dump(mode="json") for finding in verdict.findings],
        }
        for verdict in decision.verdicts
    ]


def as_markdown(told: dict[str, Any]) -> str:
    lines = [f"# {told['partition']}: shipped {told['shipped']}", "", told["reason"], ""]
    for candidate in told["candidates"]:
        lines += [f"## {candidate['kind']}: {candidate['verdict']}", ""]
        lines += [f"- {SIGN[Outcome(f['outcome'])]}  {f['sentence']}" for f in candidate["findings"]]
        lines.append("")
    lines += [f"- {line}" for line in told.get("report", {}).get("lines", [])]
    lines += _changes_as_markdown(told.get("changes", ()))
    if told.get("lineage"):
        lines += ["", "## From partitions to release", ""]
        lines += [f"- {line}" for line in lineage_lines(told)]
    return "\n".join(lines)


def change_lines(one: dict[str, Any]) -> list[str]:
    """What would change the verdict on one candidate, a line each finding; the alternatives are joined by `or`.

    Of a verdict that passed, only the findings that are nearest to their limits.
    """
    changes = one["changes"]
    if one["outcome"] == Outcome.PASS:
        nearest = sorted(changes, key=lambda change: change["share"])[:NEAREST]
        return [f"{change['finding']}: {change['sentence']}" for change in nearest]
    by_finding: dict[str, list[str]] = {}
    for change in changes:
        by_finding.setdefault(change["finding"], []).append(change["sentence"])
    return [f"{finding}: {', or '.join(sentences)}" for finding, sentences in by_finding.items()]


def change_title(one: dict[str, Any]) -> str:
    """What the lines mean: all of them are needed for a pass, any one used up ends one."""
    if one["outcome"] == Outcome.PASS:
        return f"{one['kind']}: passed. Nearest to their limits"
    then = "ship" if one["then"] == one["kind"] else f"pass (what ships would then be: {one['then']})"
    return f"{one['kind']}: {one['outcome']}. It would {then} with all of these"


def lineage_lines(told: dict[str, Any]) -> list[str]:
    lines = [
        f"{row['step']} {row['partition']}, {row['at']}, {row['seconds']:.0f} s, code {row['code']}: {row['manifest']}"
        for row in told["lineage"]
    ]
    return lines + ([f"release {told['release']}"] if told.get("release") else [])


def _changes_as_markdown(changes: Any) -> list[str]:
    lines = ["", "## What would change the verdict", ""] if changes else []
    for one in changes:
        lines += [f"{change_title(one)}:", "", *(f"- {line}" for line in change_lines(one)), ""]
    return lines


def _without_gate(uri: str, manifest: Manifest, made: Made) -> dict[str, Any]:
    """A run whose data was not accepted, or that has not come to its gate: nothing was decided, so nothing ships."""
    verdict = str(manifest.summary.get("verdict"))
    if manifest.step == "validate_data" and verdict in STOPS:
        reasons = "; ".join(manifest.summary.get("reasons", {}).get(manifest.partition, ()))
        head = {
            "empty": "Nothing to do: the day brought no events. The champion keeps serving.",
            "hold": "The data is held for a person to look at, so no model was made. The champion keeps serving.",
            "refuse": "The data was refused, so no model was made. The champion keeps serving.",
        }[verdict]
        reason = f"the data of {manifest.partition} is {verdict}" + (f": {reasons}" if reasons else "")
    else:
        following = PATH[PATH.index(manifest.step) + 1] if manifest.step in PATH[:-1] else "the next step"
        head = f"Not decided: {manifest.step} is complete, {following} is not. The champion keeps serving."
        reason = (
            f"the run has not come to its gate: the last complete step is {manifest.step}. If the run has ended, the log of "
            f"{following} in Airflow says why; clear that task to go on from there"
        )
    return {
        "run": uri,
        "partition": manifest.partition,
        "policy": None,
        "headline": head,
        "shipped": "none",
        "reason": reason,
        "needs_review": verdict == "hold",
        "release": None,
        "approved": None,
        "candidates": [],
        "report": {},
        "data": data(made),
        "lineage": lineage(made.values()),
    }


def _latest(store: Store, step: str, partition: str | None) -> tuple[str, Manifest] | None:
    prefix = f"runs/{step}/{partition}/" if partition else f"runs/{step}/"
    uris = [store.uri(key) for key in store.list(prefix) if key.endswith(".json") and key.count("/") == 3]
    return max(((uri, read_manifest(store, uri)) for uri in uris), key=lambda one: one[1].started_at, default=None)


def _package_of(store: Store, partition: str, gate_uri: str) -> tuple[str, Manifest] | None:
    for key in store.list(f"runs/package/{partition}/"):
        if key.endswith(".json") and key.count("/") == 3:
            manifest = read_manifest(store, store.uri(key))
            if manifest.inputs.get("gate") == gate_uri:
                return store.uri(key), manifest
    return None
