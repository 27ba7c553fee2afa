"""How many requests are copied to a release that serves nobody: few at first, more as its caches fill, fewer when callers or
copies are refused. Decides only.

A challenger that starts with empty caches and gets every request at once refuses copies that it would answer a minute later,
and takes the machine from the champion. Copies are for learning, so they yield: halved when somebody is refused for lack
of room, doubled when nobody was for a while (additive increase would take minutes that a shadow does not have).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field

from tasks.domain.manifest import Record
from tasks.domain.rollout import RolloutPolicy

FIRST, ALL = 5, 100  # percent
CLIMBS = 5  # doublings from the first share to all
SHORTEST = timedelta(seconds=1)  # between two changes: what a change does must be seen before the next
BEARABLE = 0.01  # share of answers that may be refusals


class Copies(Record):
    """The percent of requests that are copied, and since when."""

    share: int = Field(ge=1, le=ALL)
    since: datetime


def first_copies(policy: RolloutPolicy, now: datetime, *, cold: bool) -> Copies:
    return Copies(share=FIRST if cold and policy.warm_up_s else ALL, since=now)


def next_copies(policy: RolloutPolicy, at: Copies, answered: int, refused: int, now: datetime) -> Copies:
    """What follows, after so many answers and refusals of both releases since the last look."""
    stood = now - at.since
    if refused > BEARABLE * (answered + refused):
        return Copies(share=max(1, at.share // 2), since=now) if stood >= SHORTEST else at
    pause = max(SHORTEST, timedelta(seconds=policy.warm_up_s / (CLIMBS + 1)))
    if at.share < ALL and stood >= pause:
        return Copies(share=min(ALL, at.share * 2), since=now)
    return at
