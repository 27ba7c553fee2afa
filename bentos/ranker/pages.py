"""BentoML's own app behind the fast path: its page at / and /docs, /livez, /schema.json; imported when asked for."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import Any

from tasks.serving.replica import Replica

PATHS = ("/", "/docs", "/livez", "/schema.json")
FOLDERS = ("/static_content/", "/assets/")


class BentoPages:
    """Becomes `Service.to_asgi()` on the first request for one of its paths; other paths get 404 at no cost."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._app: Any = None
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        if path not in PATHS and not path.startswith(FOLDERS):
            await _not_found(send)
            return
        if path == "/docs":
            scope = {**scope, "path": "/", "raw_path": b"/"}
        await (await self._service())(scope, receive, send)

    async def close(self) -> None:
        await self._open.aclose()

    async def _service(self) -> Any:
        async with self._opening:
            if self._app is None:
                # in a thread: the import takes a second, and requests go on meanwhile
                app = await asyncio.to_thread(_import_service, self._replica)
                await self._open.enter_async_context(app.router.lifespan_context(app))
                self._app = app
        return self._app


def _import_service(replica: Replica) -> Any:
    service: Any = importlib.import_module("bentos.ranker.service")
    service.adopted = replica
    return service.Ranker.to_asgi()


async def _not_found(send: Any) -> None:
    body = b'{"error":"there is nothing here; POST /rank ranks, GET /docs explains"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})
