"""kmock's emulator of the Kubernetes API as a server of its own: `PYTHON tests/kubernetes_program.py`; prints its URL.

Runs in .venv-infra. Two things that kmock leaves out and we rely on are added: metadata.generation, which grows with every
change of the spec and with nothing else, and metadata.uid.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

import kmock

RESOURCES = (
    "v1/pods",
    "v1/services",
    "apps/v1/deployments",
    "batch/v1/jobs",
    "autoscaling/v2/horizontalpodautoscalers",
    "gateway.networking.k8s.io/v1/httproutes",
)


class Emulator(kmock.KubernetesEmulator):
    async def _handle(self, request: Any) -> Any:
        if request.action == kmock.action.CREATE:
            request.data["metadata"] = {"uid": str(uuid.uuid4())} | request.data["metadata"] | {"generation": 1}
        key = (request.resource, request.namespace, request.name)
        if request.action == kmock.action.UPDATE and "spec" in request.data and key in self._objects:
            now = self._objects[key].raw["metadata"]
            request.data["metadata"] = {"generation": now["generation"] + 1}
        return await super()._handle(request)


async def main() -> None:
    emulator = Emulator()
    for name in RESOURCES:
        emulator.resources[name] = {"namespaced": True}
    async with emulator, kmock.Server(emulator) as server:
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the test closes it


asyncio.run(main())
