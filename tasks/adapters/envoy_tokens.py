"""Bearer tokens (JWT) at the router: a request that brings one needs no API key, and is refused where it is not sound. Pure.

The keys that tokens are signed with lie in a file beside the routes (ecds.json): who changes them changes no listener, so
nothing is drained and open connections follow.
"""

from __future__ import annotations

from typing import Any

from tasks.adapters.envoy_edge import AUTH, CLIENT, FILTERS, TYPE
from tasks.domain.manifest import Record

JWT = "envoy.filters.http.jwt_authn"
CONFIG = f"{FILTERS}jwt_authn.v3.JwtAuthentication"
ISSUER = "issuer"
BEARER = {"name": "authorization", "string_match": {"prefix": "bearer ", "ignore_case": True}}


class Tokens(Record):
    """Whose tokens are taken, for whom they must be meant, and the public keys (a JWKS) they are signed with."""

    issuer: str
    audience: str
    jwks: str


def resource(tokens: Tokens) -> dict[str, Any]:
    """The resource of ecds.json. A token must name its subject, which is who calls, and an end."""
    provider = {
        "issuer": tokens.issuer,
        "audiences": [tokens.audience],
        "local_jwks": {"inline_string": tokens.jwks},
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "subjects": {"safe_regex": {"regex": ".+"}},
        "require_expiration": True,
        "claim_to_headers": [{"header_name": CLIENT, "claim_name": "sub"}],
    }
    config = {
        "@type": CONFIG,
        "providers": {ISSUER: provider},
        "requirement_map": {ISSUER: {"provider_name": ISSUER}},
    }
    return {"@type": f"{TYPE}config.core.v3.TypedExtensionConfig", "name": JWT, "typed_config": config}


def http_filter(ecds: dict[str, Any]) -> dict[str, Any]:
    """Before the filter of API keys. Until it has its keys, Envoy opens no listener."""
    return {"name": JWT, "config_discovery": {"config_source": ecds, "type_urls": [CONFIG]}}


def asked_by(route_configurations: list[dict[str, Any]]) -> bool | None:
    """Whether written routes let nobody in without a token or key; None: there are none."""
    hosts = [host for one in route_configurations for host in one.get("virtual_hosts", [])]
    return any(JWT in host.get("typed_per_filter_config", {}) for host in hosts) if hosts else None


def per_host() -> dict[str, Any]:
    """Nothing to do but on the routes that say so; it also marks the routes as those of a router that takes tokens."""
    return {JWT: {"@type": f"{FILTERS}jwt_authn.v3.PerRouteConfig", "disabled": True}}


def twice(route: dict[str, Any]) -> list[dict[str, Any]]:
    """A route for requests with a token, which asks for no API key, before the one for all others."""
    match = {**route["match"], "headers": [*route["match"].get("headers", []), BEARER]}
    disabled = {"@type": f"{TYPE}config.route.v3.FilterConfig", "disabled": True}
    needs = {"@type": f"{FILTERS}jwt_authn.v3.PerRouteConfig", "requirement_name": ISSUER}
    return [{**route, "match": match, "typed_per_filter_config": {AUTH: disabled, JWT: needs}}, route]
