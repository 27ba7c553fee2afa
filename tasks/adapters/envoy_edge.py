"""What Envoy does with a request before it is routed: who may send, how much, how large, how slowly. Pure.

Keys and rates travel with the routes, not with the listener: a revoked key is refused on open connections too, and nothing
is drained.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.domain.manifest import Record
from tasks.domain.requests import MAX_BODY_BYTES

TYPE = "type.googleapis.com/envoy."
FILTERS = f"{TYPE}extensions.filters.http."
AUTH, LIMIT = "envoy.filters.http.basic_auth", "envoy.filters.http.local_ratelimit"
CLIENT = "x-freshrank-client"  # which key a request came with; set by the router only
NOBODY = "nobody:{SHA}" + "A" * 27 + "="  # no password has this hash
UNLIMITED = {"max_tokens": 2**31, "tokens_per_fill": 2**31, "fill_interval": "1s"}
MAX_CONNECTIONS = 10_000
REFUSALS = {
    401: "this service asks for a key: send it as HTTP basic authentication, the key's id as user and its secret as password",
    408: "the request did not come in time: headers within 5 s, everything within 10 s",
    413: f"the body is larger than {MAX_BODY_BYTES // 1024} KiB; send at most 1,000 candidates",
    429: "too many requests with this key (without keys: from this address); slow down",
    431: "the headers are larger than 32 KiB or more than 100",
}


class Access(Record):
    """Who may send, and how fast. Without `users` everybody; `rate` 0 means as fast as they like."""

    users: tuple[str, ...] = Field(default=(), description="lines of an htpasswd file with {SHA}, sorted")
    rate: int = Field(default=0, ge=0, description="requests a second of one key, or of one address without keys")
    tokens: bool = Field(default=False, description="bearer tokens are taken: who has no key needs one")

    @property
    def asked(self) -> bool:
        return self.tokens or bool(self.users)


def per_host(access: Access) -> dict[str, Any]:
    """Settings of the filters for all routes: part of the route configuration."""
    found: dict[str, Any] = {}
    if access.asked:
        users = {"inline_string": "\n".join(access.users or (NOBODY,))}
        found[AUTH] = {"@type": f"{FILTERS}basic_auth.v3.BasicAuthPerRoute", "users": users}
    if access.rate:
        found[LIMIT] = _limit(access)
    return found


def users_of(route_configurations: list[dict[str, Any]]) -> tuple[str, ...]:
    """The users that written routes ask for."""
    hosts = [host for one in route_configurations for host in one.get("virtual_hosts", [])]
    found = [host.get("typed_per_filter_config", {}).get(AUTH, {}).get("users", {}) for host in hosts]
    return tuple(line for users in found for line in users.get("inline_string", "").splitlines())


def open_to_all(access: Access) -> dict[str, Any]:
    """What a route needs to be reached without a key: health and documentation.

    Nor is it counted: a rate is of a name that the filter of keys vouches for, and here anybody could say any name.
    """
    disabled = {"@type": f"{TYPE}config.route.v3.FilterConfig", "disabled": True}
    return {AUTH: disabled, LIMIT: disabled} if access.asked else {}


def filters() -> list[dict[str, Any]]:
    """In order: who, how fast, how large, where to. The first two do what the routes tell them."""
    auth = {
        "@type": f"{FILTERS}basic_auth.v3.BasicAuth",
        "users": {"inline_string": NOBODY},
        "forward_username_header": CLIENT,
    }
    limit = {"@type": f"{FILTERS}local_ratelimit.v3.LocalRateLimit", "stat_prefix": "limit"}
    # whole before it is sent on: a slow sender occupies a buffer here and nothing behind
    body = {"@type": f"{FILTERS}buffer.v3.Buffer", "max_request_bytes": MAX_BODY_BYTES}
    return [
        {"name": AUTH, "disabled": True, "typed_config": auth},
        {"name": LIMIT, "typed_config": limit},
        {"name": "envoy.filters.http.buffer", "typed_config": body},
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{FILTERS}router.v3.Router"}},
    ]


def limits() -> dict[str, Any]:
    """Of the connection manager: sizes, and how long a slow client may take."""
    return {
        "max_request_headers_kb": 32,
        "request_headers_timeout": "5s",
        "request_timeout": "10s",  # the whole request; 408
        "stream_idle_timeout": "60s",
        "common_http_protocol_options": {
            "idle_timeout": "60s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1 << 20,
        },
        # the caller's address is the connection's; what a caller says of itself in x-envoy-... is not listened to
        "use_remote_address": True,
    }


def replies(tokens: bool) -> dict[str, Any]:
    """What the router answers by itself: one sentence, as JSON."""
    said = REFUSALS | (
        {401: f"{REFUSALS[401]}, or a token of its issuer that has not ended, as bearer"} if tokens else {}
    )
    return {
        "mappers": [
            {
                "filter": {
                    "status_code_filter": {
                        "comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": f"reply.{status}"}}
                    }
                },
                "body": {"inline_string": sentence},
                **({"headers_to_add": [{"header": {"key": "retry-after", "value": "1"}}]} if status == 429 else {}),
            }
            for status, sentence in said.items()
        ],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def overload() -> dict[str, Any]:
    """Of the bootstrap: connections beyond this many are closed at once, so that files are left for the others."""
    config = {
        "@type": f"{TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": MAX_CONNECTIONS,
    }
    return {
        "resource_monitors": [
            {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": config}
        ]
    }


def _limit(access: Access) -> dict[str, Any]:
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    # a bucket for each key or address, made when it first shows up; twice the rate may come at once
    bucket = {"max_tokens": 2 * access.rate, "tokens_per_fill": access.rate, "fill_interval": "1s"}
    by: dict[str, Any] = {"remote_address": {}}
    if access.asked:
        by = {"request_headers": {"header_name": CLIENT, "descriptor_key": "client"}}
    return {
        "@type": f"{FILTERS}local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit",
        "filter_enabled": everything,
        "filter_enforced": everything,
        "token_bucket": UNLIMITED,
        "rate_limits": [{"actions": [by]}],
        "descriptors": [{"entries": [{"key": "client" if access.asked else "remote_address"}], "token_bucket": bucket}],
    }
