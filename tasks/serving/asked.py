"""What the engine is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.domain.requests import RankRequest, Reason

FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, who it is of, and by when it is to be answered; `named` says that the caller named a user."""

    request: RankRequest
    pseudonym: str | None
    deadline: float
    named: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items best first; scores finite and never rising. `view_source` is empty where no user was named."""

    items: list[str]
    scores: list[float]
    stage: str
    user_known: bool
    view_source: str
    cut_short: bool = False  # the deadline left a stage out
    reasons: list[list[Reason]] | None = None  # of the items, where the caller asked
    kept: bool = False  # worked out for an earlier request
    explored: bool = False  # near ties changed places
