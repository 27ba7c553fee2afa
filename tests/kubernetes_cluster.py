"""A cluster for tests: kmock's emulator of the API in a process of its own, and a kubelet and a Gateway that play their part.

The emulator stores objects; nothing acts on them. `kubelet` makes a pod, with a server that answers, for every Deployment;
`gateway` says of every route that it accepts it. Neither is Kubernetes: what they prove is what our adapters ask and write.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.kubernetes_api import KINDS, KubernetesApi
from tasks.adapters.kubernetes_router import COMPONENT, RELEASE

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-infra" / "bin" / "python"
NAMESPACE, NAME = "ranking", "freshrank-ranker"
needs_emulator = pytest.mark.skipif(not PYTHON.exists(), reason=".venv-infra is absent; `make check-infra` makes it")
KUBERNETES = pytest.param("kubernetes", marks=needs_emulator)


def pattern() -> str:
    """objects.yaml as the chart renders it."""
    line = [str(PYTHON), "-m", "infra.rendered", "controller"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [one["data"] for one in json.loads(done.stdout) if one["kind"] == "ConfigMap"]
    return next(str(one["objects.yaml"]) for one in found if "objects.yaml" in one)


class Pod:
    """A server that says which release it is, under a pod object of the emulator."""

    def __init__(self, release: str) -> None:
        self.release, self.claims, self.metrics = release, release, ""
        pod = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pod.metrics if self.path == "/metrics" else json.dumps({"release": pod.claims})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def name(self) -> str:
        return f"pod-{self.release[:12]}"

    def manifest(self, restarts: int = 0, ready: bool = True) -> dict[str, Any]:
        ports = [{"containerPort": self.server.server_address[1]}]
        labels = COMPONENT | {RELEASE: self.release[:12]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "labels": labels,
                "uid": f"uid-{self.release[:12]}",
            },
            "spec": {"containers": [{"name": "ranker", "ports": ports}]},
            "status": {
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": str(ready)}],
                "containerStatuses": [{"name": "ranker", "restartCount": restarts}],
            },
        }


class Cluster:
    def __init__(self, pattern: str = "") -> None:
        self.pattern = pattern
        line = [str(PYTHON), str(ROOT / "tests" / "kubernetes_program.py")]
        self._server = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._server.stdin and self._server.stdout
        self.url = self._server.stdout.readline().strip()
        self._http = httpx.Client(base_url=self.url, timeout=5)
        self.pods: dict[str, Pod] = {}
        self.restarts: dict[str, int] = {}

    def api(self) -> KubernetesApi:
        return KubernetesApi(self.url, NAMESPACE)

    def close(self) -> None:
        for pod in self.pods.values():
            pod.server.shutdown()
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    def objects(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get(self._path(kind)).json()["items"]
        return found

    def put(self, manifest: dict[str, Any]) -> None:
        self._http.post(self._path(manifest["kind"]), json=manifest).raise_for_status()

    def patch(self, kind: str, name: str, body: dict[str, Any]) -> None:
        self._http.patch(f"{self._path(kind)}/{name}", json=body).raise_for_status()

    def run(self, release: str) -> Pod:
        """A pod of this release, ready."""
        self.pods[release] = pod = Pod(release)
        self.put(pod.manifest())
        return pod

    def crash(self, release: str) -> None:
        self.restarts[release] = self.restarts.get(release, 0) + 1
        status = self.pods[release].manifest(self.restarts[release], ready=False)["status"]
        self.patch("Pod", self.pods[release].name, {"status": status})

    def kubelet(self) -> None:
        """One pass: pods of Deployments that are there, ready; none of those that are gone."""
        wanted = {one["metadata"]["annotations"][RELEASE] for one in self.objects("Deployment")}
        for release in wanted - set(self.pods):
            self.run(release)
        for release in set(self.pods) - wanted:
            pod = self.pods.pop(release)
            pod.server.shutdown()
            self._http.delete(f"{self._path('Pod')}/{pod.name}").raise_for_status()
        for release, pod in self.pods.items():
            self.patch("Pod", pod.name, {"status": pod.manifest(self.restarts.get(release, 0))["status"]})

    @asynccontextmanager
    async def gateway(self, status: str = "True", reason: str = "Accepted") -> AsyncIterator[None]:
        """Says of every generation of the route what it thinks of it, until the end of the block."""

        async def say() -> None:
            api = self.api()
            while True:
                route = await api.get("HTTPRoute", NAME)
                if route is not None:
                    seen = {"status": status, "reason": reason, "observedGeneration": route["metadata"]["generation"]}
                    conditions = [{"type": kind, **seen} for kind in ("Accepted", "ResolvedRefs")]
                    await api.merge("HTTPRoute", NAME, {"status": {"parents": [{"conditions": conditions}]}})
                await asyncio.sleep(0.02)

        task = asyncio.create_task(say())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def route(self) -> None:
        """The HTTPRoute, as the chart makes it before the first release."""
        metadata = {"name": NAME, "namespace": NAMESPACE}
        self.put({"kind": "HTTPRoute", "metadata": metadata, "spec": {"rules": []}})

    def _path(self, kind: str) -> str:
        group, plural = KINDS[kind]
        return f"/{group}/namespaces/{NAMESPACE}/{plural}"
