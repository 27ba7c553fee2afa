"""The OpenAPI document of the service, made from the same structs that decode the requests, so that it cannot drift."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tasks.domain.requests import (
    MAX_CANDIDATES,
    Feedback,
    FeedbackAccepted,
    RankReply,
    RankRequest,
    RecommendRequest,
    SearchRequest,
)

HERE = Path(__file__).parent
REFUSALS = {
    "400": "the body is not JSON, or it makes no sense",
    "408": "the body came too slowly",
    "413": "the body is larger than 256 KiB",
    "415": "not application/json",
    "422": "the body does not fit the schema; the field is named",
    "429": "too many requests are waiting; see retry-after",
    "503": "not ready; see retry-after",
}


LINES = [{"item_id": "1082185", "event_time": "2017-06-28T17:20:00Z", "quantity": 1, "value": 1.29}]


@cache
def document(release: str) -> dict[str, Any]:
    structs = (RankRequest, RecommendRequest, SearchRequest, RankReply, Feedback, FeedbackAccepted)
    (rank, recommend, search, reply, feedback, accepted), components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    for name in ("RankRequest", "SearchRequest"):
        components[name]["properties"]["candidates"]["description"] = (
            f"1 to {MAX_CANDIDATES:,} distinct items; an unknown one is ranked last"
        )
    components["Error"] = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    asked, answer = (json.loads((HERE / name).read_text()) for name in ("smoke_request.json", "smoke_reply.json"))
    because = [{"feature": "days_since", "effect": 0.84}, {"feature": "purchase_history", "effect": 0.31}]
    explained = {**answer, "items": [{**answer["items"][0], "because": because}, *answer["items"][1:3]]}
    found = {**answer, "stage": "search", "items": answer["items"][:2]}
    shopping = {"request_id": "3f0c", "events": [{"item_id": "1082185", "event_type": "purchase", "value": 1.29}]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "freshrank ranker",
            "version": release[:12] or "loading",
            "description": "Ranks a catalogue's items for a user or a query. Every reply names its release.",
        },
        "paths": {
            "/rank": {
                "post": _operation(
                    "Rank candidates on either surface; without candidates, retrieve and rank", rank, reply, "200",
                    {"a slate": (asked, answer), "the best of the catalogue": ({**asked, "candidates": None, "k": 3}, answer)},
                )
            },
            "/recommend": {
                "post": _operation(
                    "Retrieve, rank and return the best k for a user", recommend, reply, "200",
                    {
                        "a user": ({"user_id": "household-1", "k": 3}, answer),
                        "a history, with reasons": ({"history": LINES, "k": 3, "explain": True}, explained),
                        "nobody in particular": ({}, {**answer, "stage": "popularity"}),
                    },
                )
            },
            "/search": {
                "post": _operation(
                    "Find, rank and return the best k for a query", search, reply, "200",
                    {"a query": ({"query": "whole milk", "user_id": "household-1", "k": 2}, found)},
                )
            },
            "/feedback": {
                "post": _operation(
                    "Say what the user did with a served list", feedback, accepted, "202",
                    {"a purchase": (shopping, {"accepted": 1, "joined": True})},
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


def _operation(
    summary: str, takes: Any, gives: Any, status: str, examples: dict[str, tuple[Any, Any]]
) -> dict[str, Any]:
    """`examples`: name -> (request, reply)."""
    refusals = {
        code: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
        for code, text in REFUSALS.items()
    }
    sent = {name: {"value": _without_nulls(request)} for name, (request, _) in examples.items()}
    answered = {name: {"value": reply} for name, (_, reply) in examples.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": takes, "examples": sent}}},
        "responses": {
            status: {"description": "done", "content": {"application/json": {"schema": gives, "examples": answered}}},
            **refusals,
        },
    }


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if part is not None}


def _page(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary}}}
