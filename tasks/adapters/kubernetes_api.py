"""The Kubernetes API as controller and finetune need it: a few objects of one namespace, by plain HTTP. No client library.

Paths are those of the API server; an object that is not there is None, not an error.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tasks.domain.errors import Conflict, InputRejected, Unavailable

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GATEWAY = "apis/gateway.networking.k8s.io/v1"
KINDS = {  # kind -> group, version and plural, of what a release's objects may be
    "Deployment": ("apis/apps/v1", "deployments"),
    "Service": ("api/v1", "services"),
    "Pod": ("api/v1", "pods"),
    "HorizontalPodAutoscaler": ("apis/autoscaling/v2", "horizontalpodautoscalers"),
    "ScaledObject": ("apis/keda.sh/v1alpha1", "scaledobjects"),
    "HTTPRoute": (GATEWAY, "httproutes"),
    "Job": ("apis/batch/v1", "jobs"),
}
Object = dict[str, Any]


def in_cluster(setting: str, otherwise: str) -> KubernetesApi:
    """The API server of the cluster that this pod runs in, as this pod's ServiceAccount.

    Args:
        setting, otherwise: what asked for the cluster, and what happens without it; for the refusal.

    Raises:
        InputRejected: this is no pod, or one without a token.
    """
    try:
        namespace = (ACCOUNT / "namespace").read_text().strip()
    except OSError as err:
        why = f"{setting} is set, but {ACCOUNT} holds no token ({err.strerror}): this is no pod of the chart"
        raise InputRejected(f"{why}; unset FRESHRANK_{setting.upper()} to {otherwise}") from err
    return KubernetesApi("https://kubernetes.default.svc", namespace, ACCOUNT / "token", ACCOUNT / "ca.crt")


class KubernetesApi:
    """One namespace. The token is read for every call: the kubelet renews it every hour."""

    def __init__(self, url: str, namespace: str, token: Path | None = None, ca: Path | None = None) -> None:
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else True
        self._http = httpx.AsyncClient(base_url=url, timeout=5, verify=verify)
        self._namespace, self._token = namespace, token

    async def get(self, kind: str, name: str) -> Object | None:
        return await self._call("GET", self._path(kind, name))

    async def list(self, kind: str, labels: dict[str, str]) -> list[Object]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = await self._call("GET", self._path(kind), params={"labelSelector": selector})
        items = (found or {}).get("items", [])
        return [one for one in items if labels.items() <= one.get("metadata", {}).get("labels", {}).items()]

    async def create(self, body: Object) -> bool:
        """False when an object of this name is there already; it is left as it is."""
        try:
            await self._call("POST", self._path(body["kind"]), json=body)
        except Conflict:
            return False
        return True

    async def merge(self, kind: str, name: str, body: Object) -> Object:
        """Merge-patch, and the object as it is then. Lists are replaced whole."""
        headers = {"content-type": "application/merge-patch+json"}
        found = await self._call("PATCH", self._path(kind, name), json=body, headers=headers)
        if found is None:
            raise Unavailable(f"{kind} {name} does not exist in namespace {self._namespace}; install the chart")
        return found

    async def delete(self, kind: str, name: str) -> None:
        await self._call("DELETE", self._path(kind, name), params={"propagationPolicy": "Background"})

    async def delete_exactly(self, kind: str, name: str, uid: str) -> None:
        """This very object, not one that took its name since. It stays visible until all that it made is gone."""
        told = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", self._path(kind, name), json=told)
        except Conflict:
            pass  # another one has the name now

    async def aclose(self) -> None:
        await self._http.aclose()

    def _path(self, kind: str, name: str = "") -> str:
        group, plural = KINDS[kind]
        return f"/{group}/namespaces/{self._namespace}/{plural}" + (f"/{quote(name)}" if name else "")

    async def _call(self, method: str, path: str, **request: Any) -> Object | None:
        headers = dict(request.pop("headers", {}))
        try:
            if self._token is not None:
                headers["authorization"] = f"Bearer {self._token.read_text().strip()}"
            reply = await self._http.request(method, path, headers=headers, **request)
        except (httpx.HTTPError, OSError) as err:
            raise Unavailable(f"the Kubernetes API does not answer {method} {path}: {type(err).__name__}") from err
        if reply.status_code == 404:
            return None
        said = _said(reply)
        if reply.status_code == 409:
            raise Conflict(f"Kubernetes: {method} {path}: {said}")
        if reply.status_code in (400, 401, 403, 422):
            raise InputRejected(f"Kubernetes refuses {method} {path} with {reply.status_code}: {said}")
        if reply.status_code >= 300:
            raise Unavailable(f"Kubernetes answers {method} {path} with {reply.status_code}: {said}")
        try:
            found: Object = reply.json()
        except ValueError as err:
            raise Unavailable(f"Kubernetes answers {method} {path} with what is no JSON") from err
        return found


def _said(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("message", ""))[:300]
    except (ValueError, AttributeError):
        return reply.text[:300]
