"""The router: apply a traffic plan, confirm that it took effect, observe what each release did with it.

`EnvoyFileRouter` writes Envoy's dynamic configuration as files. Envoy keeps routing when the controller dies, and reads
the same files again after its own restart. Only the controller writes them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any, Protocol

import httpx

from tasks.adapters import api_keys, edge_files, envoy, envoy_edge, envoy_tls, envoy_tokens
from tasks.adapters.envoy import Traffic
from tasks.adapters.envoy_edge import Access
from tasks.atomic import drafted
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.manifest import Record, canonical_json
from tasks.settings import Settings

log = logging.getLogger(__name__)
CONFIRM_S = 10.0
REJECTED = ("update_rejected", "update_failure")  # refused by its meaning; not even readable


class Counts(Record):
    """What the router saw of one release since the router started."""

    requests: int = 0
    errors: int = 0  # 5xx, resets, timeouts, refused connections; also those that a retry hid from the caller
    timeouts: int = 0  # those of them that took longer than a try may
    active: int = 0
    healthy: bool = False


Latencies = dict[str, dict[float, int]]  # release, by 12 digits -> upper bound in ms -> requests so far at or below it


class Router(Protocol):
    async def apply(self, traffic: Traffic) -> None:
        """Make `traffic` the routing and return once every new request follows it. Applying it again is a no-op.

        Raises:
            Unavailable: the router did not confirm in time. The plan is stored and takes effect when it comes back.
        """
        ...

    async def observe(self) -> dict[str, Counts]:
        """Counts per release, by the first 12 digits of its digest. Raises Unavailable."""
        ...

    async def latencies(self) -> Latencies:
        """How long callers waited whose request was meant for a release, whoever answered it in the end: a retry on the
        fallback counts in full. Copies in shadow count for the release that gets them. Raises Unavailable."""
        ...


class MemoryRouter:
    """The in-memory twin: remembers the plan, and lets a test say what was counted."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.history: list[Traffic] = []
        self.counts: dict[str, Counts] = {}
        self.waited: Latencies = {}
        self.down = False

    async def apply(self, traffic: Traffic) -> None:
        if traffic != self.traffic:
            self.history.append(traffic)
        self.traffic = traffic
        if self.down:
            raise Unavailable("the router does not answer; the plan is stored")

    async def observe(self) -> dict[str, Counts]:
        if self.down:
            raise Unavailable("the router does not answer")
        return {release[:12]: self.counts.get(release[:12], Counts(healthy=True)) for release in self.traffic.backends}

    async def latencies(self) -> Latencies:
        if self.down:
            raise Unavailable("the router does not answer")
        return self.waited


def write_initial(settings: Settings) -> None:
    """Write what Envoy reads at start. Routes and clusters of an earlier life are kept: it goes on where it was."""
    xds = settings.data / "envoy" / "xds"
    settings.logs.mkdir(parents=True, exist_ok=True)
    empty = Traffic()
    write_tokens(settings)
    certificate = edge_files.certificate(settings)
    if certificate is not None:
        _write_resources(xds / "sds.json", [envoy_tls.secret(certificate)])
    _write_resources(xds / "lds.json", [envoy.listener(settings, xds)])
    if not (xds / "cds.json").exists():
        _write_resources(xds / "cds.json", envoy.clusters(empty))
    if envoy_tokens.asked_by(_read_resources(xds / "rds.json")) is not edge_files.takes_tokens(settings):
        # routes of before tokens were set, or unset, would let anybody in until the controller has written its own
        _write_resources(xds / "rds.json", [envoy.routes(empty, Access(tokens=edge_files.takes_tokens(settings)))])


def write_tokens(settings: Settings) -> None:
    """The keys of bearer tokens, where they are new; Envoy takes them for the next request. Unreadable ones change nothing.

    Raises InputRejected: they were never readable.
    """
    path = settings.data / "envoy" / "xds" / "ecds.json"
    try:
        tokens = edge_files.tokens(settings)
        if tokens is None:
            return
        api_keys.ensure_own(settings)
    except (InputRejected, OSError) as err:  # of a file or a disk: it must not hold up a rollback
        if not path.exists():
            raise
        log.warning("event=token-keys-not-read why=%s; the keys of before stay", err)
        return
    wanted = [envoy_tokens.resource(tokens)]
    if _read_resources(path) != wanted:
        _write_resources(path, wanted)


class EnvoyFileRouter:
    """Files in, confirmation from the admin port. Clusters go first and must be warm before a route may name them."""

    def __init__(self, settings: Settings, confirm_s: float = CONFIRM_S) -> None:
        self._xds = settings.data / "envoy" / "xds"
        self._confirm_s = confirm_s
        self._settings = settings
        self._admin = httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port('envoy_admin')}", timeout=3)
        write_initial(settings)

    async def apply(self, traffic: Traffic) -> None:
        write_tokens(self._settings)
        clusters, routes = envoy.clusters(traffic), [envoy.routes(traffic, self._access())]
        present = _read_resources(self._xds / "cds.json")
        gone = [c for c in present if c["name"] not in {new["name"] for new in clusters}]
        # routes may still name what is about to go, so it goes only once the new routes are in force
        await self._put("cds", clusters + gone, [c["name"] for c in clusters])
        await self._put("rds", routes, [])
        if gone:
            await self._put("cds", clusters, [])

    async def observe(self) -> dict[str, Counts]:
        answer = json.loads(await self._ask("/clusters?format=json"))
        found: dict[str, Counts] = {}
        for cluster in answer.get("cluster_statuses", []):
            name = str(cluster["name"])
            if name.startswith("r-"):
                found[name.removeprefix("r-")] = _counts(cluster.get("host_statuses", []))
        return found

    async def latencies(self) -> Latencies:
        # a request that may fall back is counted on the pair, which names the release it was meant for first
        page = "/stats?format=json&histogram_buckets=cumulative&filter=^cluster\\.[rf]-[^.]*\\.upstream_rq_time$"
        found: Latencies = {}
        for stat in json.loads(await self._ask(page)).get("stats", []):
            for histogram in stat.get("histograms", []):
                total = found.setdefault(str(histogram["name"]).split(".")[1].split("-")[1], {})
                for bucket in histogram["buckets"]:
                    bound = float(bucket["upper_bound"])
                    total[bound] = total.get(bound, 0) + int(bucket["cumulative"])
        return found

    async def aclose(self) -> None:
        await self._admin.aclose()

    def _access(self) -> Access:
        """Read anew each time: a key that was made or revoked is in force at the next pass that confirms the routes.

        A file of keys that cannot be read must not hold up a rollback: the keys of before stay.
        """
        try:
            users = api_keys.htpasswd(self._settings)
        except (InputRejected, OSError) as err:
            log.warning("event=keys-not-read why=%s; the keys of before stay", err)
            users = envoy_edge.users_of(_read_resources(self._xds / "rds.json"))
        return Access(users=users, rate=self._settings.router_rate, tokens=edge_files.takes_tokens(self._settings))

    async def _put(self, kind: str, resources: list[dict[str, Any]], warm: list[str]) -> None:
        """Write the file if it says something new, then wait until Envoy uses it, and rejects none of it."""
        path = self._xds / f"{kind}.json"
        if _read_resources(path) != resources:
            _write_resources(path, resources)
        part = "cluster_manager.cds" if kind == "cds" else f"http.{envoy.STATS}.rds.{envoy.ROUTES}"
        stat = f"{part}.version_text"
        wanted = envoy.version(resources)
        until = time.monotonic() + self._confirm_s
        pause = 0.01
        while True:
            stats = await self._stats()
            if stats.get(stat) == wanted and (not warm or set(warm) <= await self._warm()):
                return
            if time.monotonic() > until:
                counted = {name: stats[f"{part}.{name}"] for name in REJECTED if f"{part}.{name}" in stats}
                rejected = {name: int(count) for name, count in counted.items() if count != "0"}
                raise Unavailable(
                    f"the router does not confirm {path.name} {wanted} after {self._confirm_s:g} s: it uses "
                    f"{stats.get(stat) or 'nothing'}, rejected so far {rejected or 'nothing'}; see logs/envoy.log"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    async def _stats(self) -> dict[str, str]:
        text = await self._ask("/stats?filter=(version_text|update_rejected|update_failure)$")
        pairs = (line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return {name: value.strip('"') for name, value in pairs}

    async def _warm(self) -> set[str]:
        answer = json.loads(await self._ask("/clusters?format=json"))
        return {str(cluster["name"]) for cluster in answer.get("cluster_statuses", [])}

    async def _ask(self, path: str) -> str:
        try:
            reply = await self._admin.get(path)
            reply.raise_for_status()
            return reply.text
        except httpx.HTTPError as err:
            why = f"the router's admin page does not answer ({type(err).__name__}); it keeps its last routes"
            raise Unavailable(why) from err


def _counts(hosts: list[dict[str, Any]]) -> Counts:
    totals = {"rq_total": 0, "rq_error": 0, "rq_timeout": 0, "cx_connect_fail": 0, "rq_active": 0}
    for host in hosts:
        for stat in host.get("stats", []):
            if stat["name"] in totals:
                totals[stat["name"]] += int(stat.get("value", 0))
    bad = ("failed_active_health_check", "failed_outlier_check")
    healthy = any(not any(host.get("health_status", {}).get(sign) for sign in bad) for host in hosts)
    return Counts(
        # a refused connection is an error that never became a request
        requests=max(totals["rq_total"] + totals["cx_connect_fail"], totals["rq_error"]),
        errors=totals["rq_error"],
        timeouts=totals["rq_timeout"],
        active=totals["rq_active"],
        healthy=healthy,
    )


def _write_resources(path: Path, resources: list[dict[str, Any]]) -> None:
    _write(path, canonical_json({"version_info": envoy.version(resources), "resources": resources}))


def _read_resources(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_bytes())["resources"]
        return found
    except (OSError, ValueError, KeyError):
        return []


def _write(path: Path, content: bytes) -> None:
    """By rename: Envoy watches for renames and would read half a file otherwise."""
    try:
        with drafted(path) as draft:
            draft.write_bytes(content)
    except OSError as err:
        raise Unavailable(f"could not write {path}: {err.strerror}; the router keeps its last routes") from err
