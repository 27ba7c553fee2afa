"""A loaded replica behind its fast path, asked over ASGI: no port, no process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bentos.ranker.fast_path import FastPath
from tasks.serving.replica import Replica, ReplicaOptions
from tests.serving_builders import a_release, write_secrets

JSON = {"content-type": "application/json"}
RECOMMEND = {"surface": "recommendation"}


@contextmanager
def a_replica(root: Path) -> Iterator[Replica]:
    """One that hashes users, keeps feedback, and has all the time it wants."""
    src, view = a_release(root, key_id="k1")
    secrets = write_secrets(root / "secrets.json")
    replica = Replica(ReplicaOptions(src, "r1", view=view, secrets=secrets, spool=root / "spool", deadline_ms=60_000))
    replica.load()
    try:
        yield replica
    finally:
        replica.close()


def send(replica: Replica, method: str, path: str, **more: Any) -> httpx.Response:
    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(FastPath(replica), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
            return await client.request(method, path, **more)

    return asyncio.run(sent())


def post(replica: Replica, body: Any, path: str = "/rank", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(replica, "POST", path, content=content, headers={**JSON, **headers})
