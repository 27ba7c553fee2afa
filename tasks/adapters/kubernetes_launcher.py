"""Releases as Deployments: one each, made from the chart's pattern, with the Service and autoscaler that belong to it.

The cluster restarts pods; this adapter starts, watches and retires releases. A release that must not run is refused here,
before a pod exists, and again by the pod that fetches it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import yaml

from tasks.adapters.kubernetes_api import KubernetesApi, Object
from tasks.adapters.kubernetes_router import COMPONENT, RELEASE, is_ready, pod_port, pod_url
from tasks.adapters.launcher import Replica
from tasks.domain.errors import InputRejected

RECHECK_S = 10.0  # every file is hashed at a check
DIGEST, SHORT = "0" * 64, "0" * 12  # in the pattern, where a release's digest goes


class KubernetesLauncher:
    """`pattern` is objects.yaml of the chart's ConfigMap. `check` raises InputRejected for a release that must not run."""

    def __init__(self, api: KubernetesApi, pattern: str, check: Callable[[str], None]) -> None:
        self._api, self._pattern, self._check = api, pattern, check
        self._replicas: dict[str, Replica] = {}
        self._again: dict[str, float] = {}  # when a refused release is checked again
        self._http = httpx.AsyncClient(timeout=2, limits=httpx.Limits(max_keepalive_connections=0))

    def replicas(self) -> dict[str, Replica]:
        return dict(self._replicas)

    async def adopt(self) -> None:
        await self.tick()

    async def start(self, release: str, src: Path, view: Path) -> None:
        if release in self._replicas:
            return
        objects = self.objects(release)
        replica = Replica(
            release=release, name=_deployment(objects), port=0, pid=0, created=0, src=str(src), view=str(view)
        )
        try:
            await asyncio.to_thread(self._check, release)
        except InputRejected as err:
            self._replicas[release] = replica.model_copy(update={"state": "down", "message": f"refused: {err}"})
            self._again[release] = time.monotonic() + RECHECK_S
            return
        for one in objects:
            await self._api.create(one)
        self._replicas[release] = replica

    async def stop(self, release: str) -> None:
        replica = self._replicas.get(release)
        if replica is None or replica.state == "stopping":
            return
        for one in self.objects(release):
            await self._api.delete(one["kind"], one["metadata"]["name"])
        self._replicas[release] = replica.model_copy(update={"state": "stopping", "message": "asked to stop"})

    async def tick(self) -> None:
        """Look at what the cluster has: it is the truth, also after a restart of the controller."""
        pods: dict[str, list[Object]] = {}
        for pod in await self._api.list("Pod", COMPONENT):
            pods.setdefault(pod["metadata"]["labels"].get(RELEASE, ""), []).append(pod)
        deployed = {
            one["metadata"]["annotations"][RELEASE]: one
            for one in await self._api.list("Deployment", COMPONENT)
            if RELEASE in one["metadata"].get("annotations", {})
        }
        for release, replica in list(self._replicas.items()):
            if release in deployed or pods.get(release[:12]):
                continue
            if replica.state == "stopping":
                del self._replicas[release]
            elif time.monotonic() > self._again.get(release, 0):  # refused, or deleted by somebody: made again
                del self._replicas[release]
                await self.start(release, Path(replica.src), Path(replica.view))
        for release, deployment in deployed.items():
            known = self._replicas.get(release) or Replica(
                release=release, name=deployment["metadata"]["name"], port=0, pid=0, created=0, src="", view=""
            )
            if known.state != "stopping":
                self._replicas[release] = await self._seen(known, pods.get(release[:12], []))

    def objects(self, release: str) -> list[Object]:
        text = self._pattern.replace(DIGEST, release).replace(SHORT, release[:12])
        return [one for one in yaml.safe_load_all(text) if one]

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _seen(self, replica: Replica, pods: list[Object]) -> Replica:
        """The release as its oldest ready pod shows it: the judge reads the pages of one pod, a sample of all."""
        restarts = sum(_restarts(pod) for pod in pods)
        ready = sorted((pod for pod in pods if is_ready(pod)), key=_age)
        if not ready:
            state = "down" if replica.state in ("ready", "down") else "starting"
            return replica.model_copy(update={"state": state, "restarts": restarts, "message": _waiting(pods)})
        first = ready[0]
        found = {
            "host": first["status"]["podIP"],
            "port": pod_port(first),
            "pid": _process(first),
            "restarts": restarts,
        }
        answers = await self._answers(pod_url(first))
        if answers == replica.release:
            return replica.model_copy(update=found | {"state": "ready", "message": ""})
        said = f"answers as release {answers[:12]}, not {replica.release[:12]}" if answers else "does not answer"
        return replica.model_copy(update=found | {"state": "starting", "message": said})

    async def _answers(self, url: str) -> str:
        try:
            reply = await self._http.get(f"{url}/readyz")
            return str(reply.json().get("release", "")) if reply.status_code == 200 else ""
        except (httpx.HTTPError, ValueError):
            return ""


def _deployment(objects: list[Object]) -> str:
    return next(str(one["metadata"]["name"]) for one in objects if one["kind"] == "Deployment")


def _statuses(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _restarts(pod: Object) -> int:
    return sum(int(one.get("restartCount", 0)) for one in _statuses(pod))


def _waiting(pods: list[Object]) -> str:
    reasons = [one.get("state", {}).get("waiting", {}) for pod in pods for one in _statuses(pod)]
    said = [f"{one['reason']} {one.get('message', '')}".strip() for one in reasons if one.get("reason")]
    return said[0][:300] if said else "no pod is ready yet"


def _age(pod: Object) -> tuple[str, str]:
    return str(pod["metadata"].get("creationTimestamp", "")), str(pod["metadata"].get("uid", ""))


def _process(pod: Object) -> int:
    """A number that changes with the process: the judge's page numbers start again with a new one."""
    named = f"{pod['metadata'].get('uid')}/{_restarts(pod)}"
    return int(hashlib.sha256(named.encode()).hexdigest()[:8], 16)
