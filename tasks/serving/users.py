"""Who a request is of, and what is known or was worked out about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tasks.domain.requests import HistoryEvent, RankRequest
from tasks.ranker.state import ItemState, UserHistory, history_from_events
from tasks.serving.asked import Asked
from tasks.serving.metrics import Metrics
from tasks.serving.prepared import Prepared, PreparedUsers
from tasks.serving.recent import Purchases
from tasks.serving.user_view import UserView


class Users:
    """The user view, and the latest users prepared. Used by one thread, except where it says any."""

    def __init__(self, items: ItemState, view: UserView | None) -> None:
        self._items, self._view = items, view
        self.metrics: Metrics | None = None
        self._prepared = PreparedUsers(items)

    def of(self, one: Asked) -> tuple[Prepared, str]:
        """(the user, where their history came from): empty where no user was named."""
        user, source = self._history(one.request, one.pseudonym)
        if self.metrics is not None:
            if one.named and user is None:
                self.metrics.unknown_users.inc()
            if source and source != "request":
                self.metrics.cached("history", source == "memory")
        return self._prepared.of(one.pseudonym, user, self.metrics), source

    def in_memory(self, pseudonym: str) -> Prepared | None:
        """The user as last prepared, for any thread; None where the history is not at hand or has changed."""
        user = self._view.in_memory(pseudonym) if self._view is not None else None
        return self._prepared.in_memory(pseudonym, user) if user is not None else None

    def busiest(self, count: int) -> list[str]:
        """Pseudonyms with the longest histories."""
        return self._view.busiest(count) if self._view is not None else []

    def heard(self, pseudonym: str, purchases: Purchases) -> None:
        """Any thread may say so: the user bought these just now."""
        if self._view is not None:
            self._view.heard(pseudonym, purchases)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _history(self, request: RankRequest, pseudonym: str | None) -> tuple[UserHistory | None, str]:
        if request.history is not None:
            return history_from_events(self._items, _purchases(request.history)), "request"
        if pseudonym is None or self._view is None:
            return None, ""
        user, source = self._view.find(pseudonym)
        if self.metrics is not None:
            self.metrics.views.labels(source).inc()
        return user, source


def _purchases(history: Sequence[HistoryEvent]) -> list[dict[str, Any]]:
    """The model reads purchases only; other events of a history are accepted and count for nothing."""
    return [msgspec.structs.asdict(event) for event in history if event.event_type == "purchase"]
