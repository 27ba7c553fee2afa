"""The OpenAPI document of the service, made from the same structs that decode the requests, so that it cannot drift."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tasks.domain.requests import MAX_CANDIDATES, Feedback, FeedbackAccepted, RankReply, RankRequest

HERE = Path(__file__).parent
REFUSALS = {
    "400": "the body is not JSON, or it makes no sense",
    "408": "the body came too slowly",
    "413": "the body is larger than 256 KiB",
    "415": "not application/json",
    "422": "the body does not fit the schema; the field is named",
    "503": "not ready, or too many requests are waiting; see retry-after",
}


@cache
def document(release: str) -> dict[str, Any]:
    structs = (RankRequest, RankReply, Feedback, FeedbackAccepted)
    (request, reply, feedback, accepted), components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    components["RankRequest"]["properties"]["candidates"]["description"] = (
        f"1 to {MAX_CANDIDATES:,} distinct items; an unknown one is ranked last"
    )
    components["Error"] = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    examples = [json.loads((HERE / name).read_text()) for name in ("smoke_request.json", "smoke_reply.json")]
    shopping = {"request_id": "3f0c", "events": [{"item_id": "1082185", "event_type": "purchase", "value": 1.29}]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "freshrank ranker",
            "version": release[:12] or "loading",
            "description": "Ranks a catalogue's items for a user or a query. Every reply names its release.",
        },
        "paths": {
            "/rank": {"post": _operation("Rank candidates, or retrieve and rank", request, reply, "200", *examples)},
            "/feedback": {
                "post": _operation(
                    "Say what the user did with a served list", feedback, accepted, "202", shopping,
                    {"accepted": 1, "joined": True},
                )
            },
            "/healthz": {"get": _page("The process is up")},
            "/readyz": {"get": _page("200 once digests, warm-up and golden requests have passed, else 503")},
            "/metrics": {"get": _page("Prometheus text format")},
            "/served": {"get": _page("Served lists after number `after`, for the judge")},
            "/feedback_seen": {"get": _page("Feedback after number `after`, for the judge")},
        },
        "components": {"schemas": components},
    }  # fmt: skip


def _operation(summary: str, takes: Any, gives: Any, status: str, example: Any, answer: Any) -> dict[str, Any]:
    refusals = {
        code: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
        for code, text in REFUSALS.items()
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": takes, "example": example}}},
        "responses": {
            status: {"description": "done", "content": {"application/json": {"schema": gives, "example": answer}}},
            **refusals,
        },
    }


def _page(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary}}}
