"""The page at / and /docs, and BentoML's own app behind the fast path, imported when one of its paths is asked for.

The page is ours because BentoML's loads a tracker from outside; the script that draws it is BentoML's local copy.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import Any

from tasks.serving.replica import Replica

PAGE = ("/", "/docs")
PATHS = ("/livez", "/schema.json")
FOLDER = "/static_content/"
NOT_HERE = b'{"error":"there is nothing here; POST /rank ranks, GET /docs explains"}'
HTML = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>freshrank ranker</title>
<link rel="stylesheet" href="/static_content/swagger-ui.css"></head>
<body><div id="page"><a href="/docs.json">OpenAPI document</a></div>
<script src="/static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/docs.json", dom_id: "#page", validatorUrl: null})</script></body></html>
"""


class BentoPages:
    """Becomes `Service.to_asgi()` on the first request for one of its paths; other paths get 404 at no cost."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._app: Any = None
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        if path in PAGE:
            await _answer(send, 200, HTML, b"text/html; charset=utf-8")
        elif path in PATHS or path.startswith(FOLDER):
            await (await self.service())(scope, receive, send)
        else:
            await _answer(send, 404, NOT_HERE, b"application/json")

    async def close(self) -> None:
        await self._open.aclose()

    async def service(self) -> Any:
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


async def _answer(send: Any, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
