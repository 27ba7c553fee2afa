"""Which way a refresh goes: the choices of the form, and what follows a data verdict and a gate decision. Pure.

Read by the DAG files at parse time: the gate, which brings numpy, is imported for its types only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Parameter, partition_date

if TYPE_CHECKING:
    from tasks.domain.gate import CandidateKind, Decision, Override

Candidates = Literal["weights", "state", "both"]
CANDIDATES: tuple[Candidates, ...] = ("weights", "state", "both")
DAY = r"^\d{4}-\d{2}-\d{2}$"  # the form's check; partition_date also knows the calendar
TRAINING_STEPS = ("finetune", "compress")
GPU_STEPS = (*TRAINING_STEPS, "evaluate", "benchmark")
READ_RECIPE = ("build_dataset", *TRAINING_STEPS)
READ_CANDIDATES = ("gate",)
APPROVE = "Approve"  # as Airflow's ApprovalOperator says it


def partition_of(params: Mapping[str, Any], partition_key: str | None) -> tuple[str, bool]:
    """(day, is it already a partition): what a person asked for wins over the schedule's day, which is a wall date.

    Raises:
        InputRejected: neither is given.
    """
    if params.get("partition"):
        return partition_date(params["partition"]).isoformat(), True
    if partition_key:
        return partition_date(partition_key).isoformat(), False
    raise InputRejected(
        "this run has no schedule's day and the form names no partition; trigger it again with one, e.g. 2017-07-01"
    )


def step_options(step: str, params: Mapping[str, Any]) -> dict[str, Parameter]:
    """What a step is told of the form. A choice that equals the default is left out: the step's key stays the same."""
    options: dict[str, Parameter] = {}
    if step in READ_RECIPE and params.get("recipe"):
        options["recipe"] = params["recipe"]
    if step in READ_CANDIDATES and params.get("candidates", "both") != "both":
        options["candidates"] = params["candidates"]
    return options


def is_skipped(step: str, params: Mapping[str, Any]) -> bool:
    """New weights are not made when a person asked for a new state only."""
    return step in TRAINING_STEPS and params.get("candidates") == "state"


def not_taken(step: str, queue: str, deadline_s: int) -> str:
    """Why a step failed that never began."""
    return (
        f"no worker of queue {queue} took {step} within {deadline_s} s; `freshrank doctor` says who serves it. Nothing is lost: "
        f"start one, then clear the step in Airflow"
    )


def no_word(step: str, deadline_s: int) -> str:
    """All that is known of a step that the scheduler ended."""
    return (
        f"{step} failed without a word of its own: no worker took it within {deadline_s} s, or its last worker was killed. "
        f"The champion keeps serving; `freshrank doctor` says who serves which queue"
    )


def after_validation(verdict: str) -> str:
    """The task that follows the data verdict. Bad or missing data keeps the champion, and is a successful run."""
    following = {
        "pass": "resolve_champion",
        "released": "resolve_champion",
        "empty": "nothing_to_do",
        "hold": "keep_champion",
        "refuse": "keep_champion",
    }
    if verdict not in following:
        raise InputRejected(f"validate_data said {verdict!r}; known: {', '.join(following)}")
    return following[verdict]


def after_gate(decision: Decision, *, approval_wanted: bool) -> str:
    """The task that follows the gate. Inconclusive never ships by itself: a person is asked if the form says so."""
    ships = decision.shipped if decision.shipped != "none" else approvable(decision)
    if approval_wanted and ships:
        return "request_review"
    return "report_rejection" if decision.shipped == "none" else "package"


def signature_of(review: Mapping[str, Any]) -> dict[str, Parameter]:
    """Who answered a review, why and when: recorded with what was packaged. A time-out is nobody's answer.

    Raises:
        InputRejected: the answer is no approval; package must not run on it.
    """
    if list(review.get("chosen_options") or ()) != [APPROVE]:
        raise InputRejected(f"the review was answered with {review.get('chosen_options')!r}, which is not an approval")
    user = review.get("responded_by_user") or {}
    name = user.get("name") or user.get("id") if isinstance(user, Mapping) else user
    if not name:
        raise InputRejected(
            "nobody is named for the approval: a time-out approves nothing. Answer the review in Airflow"
        )
    at = review.get("responded_at")
    return {
        "approved_by": str(name),
        "approved_because": str((review.get("params_input") or {}).get("reason") or "").strip(),
        "approved_at": at.isoformat() if isinstance(at, datetime) else str(at or ""),
    }


def override_of(decision: Decision, kind: CandidateKind, signed: Mapping[str, Parameter]) -> Override:
    """The record of a person shipping what the gate did not.

    Raises:
        InputRejected: nobody is named, or nobody said why.
    """
    from tasks.domain.verdict import Override

    missing = [name for name in ("approved_by", "approved_because", "approved_at") if not signed.get(name)]
    if missing:
        raise InputRejected(
            f"{kind} may not be packaged against the gate's verdict without {', '.join(missing)}: clear request_review and "
            f"approve again with a reason"
        )
    verdict = next(one for one in decision.verdicts if one.kind == kind)
    return Override(
        kind=kind,
        by=str(signed["approved_by"]),
        reason=str(signed["approved_because"]),
        at=str(signed["approved_at"]),
        verdict=verdict.outcome,
        verdict_reason=verdict.reason,
    )


def approvable(decision: Decision) -> CandidateKind | None:
    """What a person may ship although the gate ships nothing: inconclusive weights, on a state that did not fail."""
    outcomes = {verdict.kind: verdict.outcome for verdict in decision.verdicts}
    if decision.shipped == "none" and outcomes.get("weights") == "inconclusive":
        return "weights" if outcomes.get("state") != "fail" else None
    return None
