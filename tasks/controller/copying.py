"""The share of requests that is copied to whoever serves nobody, from what the replicas refused since the last look. Lost with
the controller: a shadow then warms up again."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from tasks.domain.copies import ALL, Copies, first_copies, next_copies
from tasks.domain.live_evidence import Window
from tasks.domain.rollout import SHADOW, RolloutPolicy
from tasks.domain.rollout_log import short
from tasks.domain.rollout_state import Rollout

log = logging.getLogger(__name__)
Key = tuple[str, int, datetime]  # of a step: rollout, step, when it was entered


class Copying:
    """Follows one step at a time: in shadow the challenger gets the copies, at 100 % the old champion."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._at: Copies | None = None
        self._counted = (0, 0)

    def share(self, active: Rollout | None) -> int:
        """Percent of the requests; before the first look at a step, what it begins with."""
        if active is None:
            return ALL
        if self._at is not None and self._key == _key(active):
            return self._at.share
        return _first(active.policy, active.step, active.entered).share

    def look(self, active: Rollout, window: Window, now: datetime) -> None:
        """Follow what was answered and refused in this window, which may begin anew between two looks."""
        pair = (window.challenger, window.champion)
        counted = sum(one.answered for one in pair), sum(one.no_room for one in pair)
        if self._at is None or self._key != _key(active):
            self._key, self._at = _key(active), _first(active.policy, active.step, now)
            self._counted = (0, 0)
        answered, refused = (max(0, new - old) for new, old in zip(counted, self._counted, strict=True))
        self._counted = counted
        before, self._at = self._at.share, next_copies(active.policy, self._at, answered, refused, now)
        if self._at.share != before:
            log.info(
                "release=%s event=copies share=%d before=%d answered=%d refused=%d",
                short(active.release), self._at.share, before, answered, refused,
            )  # fmt: skip


def warm_at(active: Rollout, since: datetime) -> datetime:
    """When a step that is watched since then may be judged in full."""
    return since + timedelta(seconds=active.policy.warm_up_s if active.step == SHADOW else 0)


def _first(policy: RolloutPolicy, step: int, now: datetime) -> Copies:
    return first_copies(policy, now, cold=step == SHADOW)


def _key(active: Rollout) -> Key:
    return active.id, active.step, active.entered
