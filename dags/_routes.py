"""The small tasks of model_refresh beside its steps: which way it goes, and what is said where it ends early."""

from __future__ import annotations

from _ranker import asked
from airflow.sdk import get_current_context, task

from tasks.settings import Settings


@task.branch
def route_data(validated: str) -> str:
    """Sound data goes on; an empty, held or refused day ends the run, green."""
    from tasks.refresh import route_data as chosen

    return chosen(validated, Settings())


@task.branch
def route(verdict: str) -> str:
    """package, request_review or report_rejection."""
    from tasks.refresh import route_decision

    return route_decision(verdict, Settings(), approval_wanted=get_current_context()["params"]["approval"])


@task
def report_data(validated: str) -> None:
    from tasks.refresh import report_data as report

    report(validated, asked(get_current_context()), Settings())


@task
def report_rejection(verdict: str) -> None:
    from tasks.refresh import report_rejection as report

    report(verdict, asked(get_current_context()), Settings())


def evidence(gate: str) -> str:
    """For the page where a person approves."""
    from tasks.refresh import evidence as told

    return told(gate, Settings())
