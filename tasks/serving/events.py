"""What was served and what came of it, as rows of the event contract. Imports little: the uploader starts for each batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from tasks.domain.requests import Feedback
    from tasks.serving.rings import Slate


def event_rows(feedback: Feedback, slate: Slate | None, pseudonym: str | None, now: datetime) -> list[dict[str, Any]]:
    """Rows of the event contract. An event's id depends on what it says, so sending it twice makes one event."""
    rows = []
    for event in feedback.events:
        when = event.event_time
        rows.append(
            {
                "event_id": _event_id(feedback.request_id, event.item_id, event.event_type, when),
                "event_time": (when or now).astimezone(UTC).isoformat(),
                "user_id": (slate.pseudonym if slate else None) or pseudonym,
                "surface": slate.surface if slate else None,
                "query": slate.query if slate else None,
                "item_id": event.item_id,
                "event_type": event.event_type,
                "position": slate.position(event.item_id) if slate else None,
                "value": event.value,
                "request_id": feedback.request_id,
            }
        )
    return rows


class Shown(Struct, frozen=True, omit_defaults=True):
    """A served list as one line of a segment; the uploader makes an impression of each item."""

    at: str  # ISO 8601, UTC
    request_id: str
    release: str
    surface: str
    query: str | None
    user_id: str
    shown: list[str]
    scores: list[float]
    propensities: list[float] | None = None  # of the items at their places, where the list could have been another one


def impression_rows(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line of `Shown` as rows of the event contract, with two columns more: the release and the score.

    The id is the one that `event_rows` gives an impression which a client sends without a time: the two are one event.
    """
    chances = line.get("propensities") or [None] * len(line["shown"])
    return [
        {
            "event_id": _event_id(line["request_id"], item, "impression", None),
            "event_time": line["at"],
            "user_id": line["user_id"],
            "surface": line["surface"],
            "query": line["query"],
            "item_id": item,
            "event_type": "impression",
            "position": position,
            "value": None,
            "propensity": chance,
            "request_id": line["request_id"],
            "release": line["release"],
            "score": score,
        }
        for position, (item, score, chance) in enumerate(zip(line["shown"], line["scores"], chances, strict=True))
    ]


def _event_id(request_id: str, item_id: str, event_type: str, when: datetime | None) -> str:
    said = [request_id, item_id, event_type, when.isoformat() if when else None]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
