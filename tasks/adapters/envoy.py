"""Envoy's configuration as pure functions of what should be routed. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks.adapters import edge_files, envoy_edge, envoy_tls, envoy_tokens
from tasks.adapters.envoy_edge import TYPE, Access
from tasks.domain.manifest import Record, digest_of
from tasks.settings import Settings

ROUTES = "model"  # name of the one route configuration
STATS = "ingress"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
FORCE_HEADER = "x-freshrank-force"
PER_TRY_TIMEOUT = "2s"
TIMEOUT = "5s"
NEVER_ARRIVED = "connect-failure,refused-stream"
FAILED = f"{NEVER_ARRIVED},reset,5xx"
NO_ROOM = 429
NO_CHAMPION = "no release serves yet; `make run` bootstraps the first one, `freshrank status` shows how far it is"
NO_PAGE = "there is no such page; see /docs"
RANKED = ("/rank", "/recommend", "/search")
PAGES = ("/", "/docs", "/docs.json", "/schema.json", "/livez", "/healthz", "/readyz")
EVERYBODY = Access()
PAGE_FOLDERS = ("/static_content/", "/assets/")


class Traffic(Record):
    """What should be routed: live weights, who takes over from whom, and who gets a copy of each request.

    `backends` are the ports of every release that has a ready replica, also those without traffic: a rollback then
    changes routes only, to a cluster that Envoy already watches.
    """

    weights: dict[str, int] = Field(default_factory=dict)
    fallback: dict[str, str] = Field(default_factory=dict)  # release -> the release that answers when it cannot
    mirror: str | None = None
    mirror_percent: int = Field(default=100, ge=1, le=100)
    backends: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Traffic:
        if self.weights and sum(self.weights.values()) != 100:
            raise ValueError(f"weights sum to {sum(self.weights.values())}, not 100")
        used = {r for r, weight in self.weights.items() if weight} | ({self.mirror} if self.mirror else set())
        missing = sorted(r[:12] for r in used if r not in self.backends)
        if missing:
            raise ValueError(f"no replica for {', '.join(missing)}")
        return self


def cluster_name(release: str) -> str:
    return f"r-{release[:12]}"


def fallback_name(release: str, after: str) -> str:
    return f"f-{release[:12]}-{after[:12]}"


def routes(traffic: Traffic, access: Access = EVERYBODY) -> dict[str, Any]:
    """The route configuration: the only thing that a promotion, a rollback or a revoked key changes."""
    virtual_host = {
        "name": "ranker",
        "domains": ["*"],
        "routes": _routes(traffic, access),
        "typed_per_filter_config": envoy_edge.per_host(access) | (envoy_tokens.per_host() if access.tokens else {}),
        "request_headers_to_remove": ["authorization"],  # a key is the router's business, not the replicas'
    }
    return {"@type": f"{TYPE}config.route.v3.RouteConfiguration", "name": ROUTES, "virtual_hosts": [virtual_host]}


def clusters(traffic: Traffic) -> list[dict[str, Any]]:
    """One cluster per release, and one `first, then second` cluster per ordered pair: all that any route can name."""
    releases = sorted(traffic.backends)
    single = [_cluster(release, traffic.backends[release]) for release in releases]
    pairs = [_pair(one, other) for one in releases for other in releases if one != other]
    return single + pairs


def version(resources: Any) -> str:
    return digest_of(resources)[:16]


def _routes(traffic: Traffic, access: Access) -> list[dict[str, Any]]:
    live = {release: weight for release, weight in traffic.weights.items() if weight}
    feedback = {"path": "/feedback"}
    post = {"name": ":method", "string_match": {"exact": "POST"}}
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    if not live:
        refusal = {"direct_response": {"status": 503, "body": {"inline_string": NO_CHAMPION}}}
        return [{"match": {"prefix": "/"}, **refusal}]
    first = max(live, key=lambda release: (live[release], release))
    forced = [
        {
            "match": {
                "path": path,
                "headers": [post, {"name": FORCE_HEADER, "string_match": {"prefix": release[:12]}}],
            },
            "route": {"cluster": cluster_name(release), **_patience(retry=False)},
        }
        for release in sorted(traffic.backends)
        for path in RANKED
    ]
    pages = [{"path": path} for path in PAGES] + [{"prefix": folder} for folder in PAGE_FOLDERS]
    to_first = {"cluster": _target(traffic, first), "timeout": TIMEOUT}
    keyless = envoy_edge.open_to_all(access)
    asking: list[dict[str, Any]] = [
        *forced,
        *(
            {"match": {"path": path, "headers": [post], **share}, "route": ranked}
            for path in RANKED
            for share, ranked in _shares(traffic, live)
        ),
        # feedback must not be stored twice, so it is sent again only if it never arrived
        {"match": feedback | {"headers": [post]}, "route": to_first | {"retry_policy": _retry(NEVER_ARRIVED)}},
    ]
    if access.tokens:
        asking = [one for route in asking for one in envoy_tokens.twice(route)]
    return [
        *asking,
        *(
            {"match": page | {"headers": [get]}, "route": to_first, "typed_per_filter_config": keyless}
            for page in pages
        ),
        {"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": {"inline_string": NO_PAGE}}},
    ]


def _shares(traffic: Traffic, live: dict[str, int]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(what is added to the match, the route) of each live release: Envoy holds every fraction against the same random number of
    a request, so each reaches up to its own share and those before it, and the last takes the rest. Not one route of weighted
    clusters, because only a route has a retry policy."""
    parts, below = [], 0
    for release in sorted(live):
        below += live[release]
        share = {"numerator": below, "denominator": "HUNDRED"}
        fraction = {"runtime_fraction": {"default_value": share}} if below < 100 else {}
        parts.append((fraction, _ranked(traffic, release)))
    return parts


def _ranked(traffic: Traffic, release: str) -> dict[str, Any]:
    ranked: dict[str, Any] = {"cluster": _target(traffic, release), **_patience(retry=True)}
    if traffic.fallback.get(release) in traffic.backends:
        # what a release has no room for, the one behind it answers. Asking replicas of the same release again would only
        # hurt an overloaded service more, so without another one a refusal is final
        ranked["retry_policy"] = _retry(f"{FAILED},retriable-status-codes") | {"retriable_status_codes": [NO_ROOM]}
    if traffic.mirror:
        share = {"numerator": traffic.mirror_percent, "denominator": "HUNDRED"}
        fraction = {"default_value": share, "runtime_key": "mirror.percent"}
        ranked["request_mirror_policies"] = [{"cluster": cluster_name(traffic.mirror), "runtime_fraction": fraction}]
    return ranked


def _target(traffic: Traffic, release: str) -> str:
    after = traffic.fallback.get(release)
    return fallback_name(release, after) if after in traffic.backends and after else cluster_name(release)


def _patience(*, retry: bool) -> dict[str, Any]:
    if not retry:
        return {"timeout": TIMEOUT}
    # ranking is idempotent, so a reset request may run twice; 5xx too, so that users never see a bad canary
    return {"timeout": TIMEOUT, "retry_policy": _retry(FAILED)}


def _retry(on: str) -> dict[str, Any]:
    previous = f"{TYPE}extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    hosts = f"{TYPE}extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": on,
        "num_retries": 2,
        "per_try_timeout": PER_TRY_TIMEOUT,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": hosts}}
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {"@type": previous, "update_frequency": 1},
        },
    }


def _breakers() -> dict[str, Any]:
    # without a budget, three retries at a time are allowed: too few to survive a killed replica under load
    budget = {"budget_percent": {"value": 100}, "min_retry_concurrency": 100}
    return {"thresholds": [{"max_requests": 4096, "max_pending_requests": 4096, "retry_budget": budget}]}


def _cluster(release: str, ports: tuple[int, ...]) -> dict[str, Any]:
    hosts = [{"endpoint": {"address": _address(port)}} for port in sorted(ports)]
    # the router closes idle connections before the replica does: else a request meets a closing one
    http = {
        "common_http_protocol_options": {"idle_timeout": "60s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {
        "@type": f"{TYPE}config.cluster.v3.Cluster",
        "name": cluster_name(release),
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        # by default Envoy tells its workers of changes of health together, up to a second late: requests to a dead host
        "common_lb_config": {"update_merge_window": "0s"},
        "circuit_breakers": _breakers(),
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {"@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions", **http}
        },
        "load_assignment": {"cluster_name": cluster_name(release), "endpoints": [{"lb_endpoints": hosts}]},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                # the answer must name the release: after a restart another one may have this port
                "http_health_check": {"path": "/readyz", "receive": [{"text": release.encode().hex()}]},
            }
        ],
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
            # else a replica that fails requests but answers /readyz comes back with each health check
            "successful_active_health_check_uneject_host": False,
        },
    }


def _pair(release: str, after: str) -> dict[str, Any]:
    config = {
        "@type": f"{TYPE}extensions.clusters.aggregate.v3.ClusterConfig",
        "clusters": [cluster_name(release), cluster_name(after)],
    }
    return {
        "@type": f"{TYPE}config.cluster.v3.Cluster",
        "name": fallback_name(release, after),
        "connect_timeout": "0.5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _breakers(),
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": config},
    }


def listener(settings: Settings, xds: Path) -> dict[str, Any]:
    """Where requests come in. Written once; nothing in it changes with a rollout."""
    tokens, certificate = edge_files.takes_tokens(settings), edge_files.certificate(settings)
    asked_first = [envoy_tokens.http_filter(_file(xds / "ecds.json"))] if tokens else []
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STATS,
        "rds": {"route_config_name": ROUTES, "config_source": _file(xds / "rds.json")},
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,  # a copy in shadow carries the same one: so replies are paired
        "request_id_extension": {
            "typed_config": {
                "@type": f"{TYPE}extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,  # else Envoy rewrites a digit of the caller's id
            }
        },
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        **envoy_edge.limits(),
        "local_reply_config": envoy_edge.replies(tokens),
        "access_log": [_access_log(settings.logs / "router-access.log")],
        "http_filters": [*asked_first, *envoy_edge.filters()],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    chains: dict[str, Any] = {"filter_chains": [{"filters": [network]}]}
    if certificate is not None:
        chains = envoy_tls.filter_chains([network], _file(xds / "sds.json"))
    return {
        "@type": f"{TYPE}config.listener.v3.Listener",
        "name": STATS,
        "address": _address(settings.port("router"), settings.bind),
        "per_connection_buffer_limit_bytes": 1 << 20,
        **chains,
    }


def _access_log(path: Path) -> dict[str, Any]:
    line = {
        "at": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "release": "%RESP(X-FRESHRANK-RELEASE)%",
        "client": f"%REQ({envoy_edge.CLIENT})%",
        "bytes": "%BYTES_RECEIVED%",
    }
    config = {"@type": f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog", "path": str(path)}
    return {"name": "envoy.access_loggers.file", "typed_config": config | {"log_format": {"json_format": line}}}


def _address(port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _file(path: Path) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}
