"""The drill's own callers are callers like others: where the service asks for keys, they send one."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import httpx
import pytest

from tasks import drill
from tasks.adapters import api_keys
from tasks.settings import Settings


def test_its_requests_carry_this_homes_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    api_keys.create(settings, "shop")
    sent = httpx.BasicAuth(*api_keys.own_credentials(settings))._auth_header

    def router(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.headers.get("authorization") == sent else 401)

    client = partial(httpx.AsyncClient, transport=httpx.MockTransport(router))
    monkeypatch.setattr(drill.httpx, "AsyncClient", client)

    async def some() -> drill.Seen:
        async with drill._load(settings, 200) as seen:
            while len(seen.replies) < 3:
                await asyncio.sleep(0.01)
        return seen

    assert asyncio.run(some()).lost == 0
