"""Traffic as one HTTPRoute of the Gateway API: weights by release, copies, and a header that forces a release.

The route is this controller's alone (traffic.owner of the chart). Unlike Envoy's files it knows no fallback from one release
to another: where the challenger fails, callers see it, and the judge too. Every request is copied, whatever share the plan
names: `percent` of a copy is in the Gateway API since 1.3 only, and an older one would drop the field and never confirm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tasks.adapters.envoy import FORCE_HEADER, Traffic
from tasks.adapters.kubernetes_api import KubernetesApi, Object
from tasks.adapters.router import Counts, Latencies
from tasks.domain.errors import Unavailable

PORT = 8080
CONFIRM_S = 10.0
COMPONENT = {"app.kubernetes.io/component": "ranker"}
RELEASE = "freshrank.dev/release"
PAGES = ("/healthz", "/readyz", "/docs.json")
TIMEOUTS = {"request": "5s", "backendRequest": "2s"}
ACCEPTED = ("Accepted", "ResolvedRefs")


def rules(traffic: Traffic, prefix: str) -> list[dict[str, Any]]:
    """The route's rules, with every default spelled out, so that what the API server returns compares equal."""
    live = {release: weight for release, weight in sorted(traffic.weights.items()) if weight}
    split = [backend(prefix, release, weight) for release, weight in live.items()]
    first = max(live, key=lambda release: (live[release], release), default=None)
    to_first = [backend(prefix, first, 1)] if first else []
    mirrored: dict[str, Any] = {}
    if traffic.mirror:
        copy = {"type": "RequestMirror", "requestMirror": {"backendRef": backend(prefix, traffic.mirror)}}
        mirrored = {"filters": [copy]}
    forced = [
        {
            "matches": [_match("/rank", "POST") | {"headers": [_forced(text)]}],
            "backendRefs": [backend(prefix, release, 1)],
            "timeouts": TIMEOUTS,
        }
        for release in sorted(traffic.backends)
        for text in (release, release[:12])
    ]
    return [
        *(forced if live else []),
        {"matches": [_match("/rank", "POST")], "backendRefs": split, "timeouts": TIMEOUTS, **mirrored},
        {
            "matches": [_match("/feedback", "POST"), *(_match(page, "GET") for page in PAGES)],
            "backendRefs": to_first,
            "timeouts": TIMEOUTS,
        },
    ]


def backend(prefix: str, release: str, weight: int | None = None) -> dict[str, Any]:
    named = {"group": "", "kind": "Service", "name": f"{prefix}-{release[:12]}", "port": PORT}
    return named if weight is None else named | {"weight": weight}


class GatewayApiRouter:
    """Writes the HTTPRoute `name`; `name` is also the prefix of every release's Service."""

    def __init__(self, api: KubernetesApi, name: str, confirm_s: float = CONFIRM_S) -> None:
        self._api, self._name, self._confirm_s = api, name, confirm_s
        self._named: set[str] | None = None  # releases of the last plan; before the first one every release is told
        self._pods = httpx.AsyncClient(timeout=3)

    async def apply(self, traffic: Traffic) -> None:
        wanted = rules(traffic, self._name)
        route = await self._route()
        if route["spec"].get("rules") != wanted:
            # without a resourceVersion: a Gateway changes it with every word it says, and the rules are ours alone
            await self._api.merge("HTTPRoute", self._name, {"spec": {"rules": wanted}})
        await self._confirmed(wanted)
        self._named = {release[:12] for release in traffic.backends}

    async def observe(self) -> dict[str, Counts]:
        found: dict[str, Counts] = {release: Counts() for release in self._named or ()}
        async for release, page in self._pages():
            found[release] = _sum(found.get(release, Counts()), counts_of(page))
        return found

    async def latencies(self) -> Latencies:
        """As the pods measured them: the way through the Gateway is not in it."""
        found: Latencies = {}
        async for release, page in self._pages():
            total = found.setdefault(release, {})
            for one in samples_of(page):
                if one.name == "freshrank_rank_seconds_bucket" and one.labels["le"] != "+Inf":
                    bound = float(one.labels["le"]) * 1e3
                    total[bound] = total.get(bound, 0) + int(one.value)
        return found

    async def aclose(self) -> None:
        await self._pods.aclose()

    async def _route(self) -> Object:
        route = await self._api.get("HTTPRoute", self._name)
        if route is None:
            raise Unavailable(f"there is no HTTPRoute {self._name}; install the chart")
        return route

    async def _confirmed(self, wanted: list[dict[str, Any]]) -> None:
        """Every parent Gateway says of this generation that it accepts it and found all Services."""
        until, pause = time.monotonic() + self._confirm_s, 0.02
        while True:
            route = await self._route()
            why = "somebody else wrote other rules" if route["spec"].get("rules") != wanted else unconfirmed(route)
            if why is None:
                return
            if time.monotonic() > until:
                raise Unavailable(f"HTTPRoute {self._name} is not in force after {self._confirm_s:g} s: {why}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    async def _pages(self) -> AsyncIterator[tuple[str, str]]:
        """(release, metrics page) of every ready pod of the last plan; of all before the first one.

        A pod that does not answer has counted nothing: its probes tell why.
        """
        for pod in await self._api.list("Pod", COMPONENT):
            release = pod["metadata"]["labels"].get(RELEASE, "")
            if not release or not is_ready(pod) or (self._named is not None and release not in self._named):
                continue
            try:
                reply = await self._pods.get(f"{pod_url(pod)}/metrics")
                reply.raise_for_status()
            except httpx.HTTPError:
                continue
            yield release, reply.text


def samples_of(page: str) -> Iterator[Any]:
    return (one for family in text_string_to_metric_families(page) for one in family.samples)


def counts_of(page: str) -> Counts:
    """What one pod says of itself."""
    found = {"requests": 0, "errors": 0, "active": 0}
    for one in samples_of(page):
        if one.name == "freshrank_requests_total" and one.labels["route"] == "rank":
            found["requests"] += int(one.value)
            found["errors"] += int(one.value) if one.labels["status"].startswith("5") else 0
        elif one.name == "freshrank_pending":
            found["active"] += int(one.value)
    return Counts(**found, healthy=True)


def unconfirmed(route: Object) -> str | None:
    """Why the Gateways do not serve this generation yet; None when they do."""
    generation = route["metadata"].get("generation", 0)
    parents = route.get("status", {}).get("parents", [])
    if not parents:
        return "no Gateway has looked at it"
    for parent in parents:
        said = {one["type"]: one for one in parent.get("conditions", [])}
        for condition in ACCEPTED:
            one = said.get(condition)
            if one is None or one.get("observedGeneration", 0) < generation:
                return f"{condition} is not said of generation {generation} yet"
            if one["status"] != "True":
                return f"{condition} is {one['status']}: {one.get('reason', '')} {one.get('message', '')}".strip()
    return None


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    leaving = pod["metadata"].get("deletionTimestamp")
    return not leaving and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def pod_url(pod: Object) -> str:
    return f"http://{pod['status'].get('podIP')}:{pod_port(pod)}"


def pod_port(pod: Object) -> int:
    ports = pod["spec"]["containers"][0].get("ports", [])
    return int(ports[0]["containerPort"]) if ports else PORT


def _match(path: str, method: str) -> dict[str, Any]:
    return {"path": {"type": "Exact", "value": path}, "method": method}


def _forced(value: str) -> dict[str, str]:
    return {"type": "Exact", "name": FORCE_HEADER, "value": value}


def _sum(one: Counts, other: Counts) -> Counts:
    both = {name: getattr(one, name) + getattr(other, name) for name in ("requests", "errors", "active")}
    return Counts(**both, healthy=one.healthy or other.healthy)
