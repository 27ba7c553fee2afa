"""The ranker as a BentoML service: what `bentoml build` packages and `bentoml serve` runs. Same limits, same engine.

`python -m bentos.ranker` serves the same routes faster and hands BentoML the rest; it adopts its replica here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import bentoml

if TYPE_CHECKING:
    from tasks.serving.replica import Replica

SRC = Path(__file__).resolve().parents[2]
adopted: Replica | None = None


def _count_gpus_without_nvml() -> None:
    """`bentoml serve` counts GPUs with a package that our lock leaves out (ADR 6): answer as it does without a driver."""
    if importlib.util.find_spec("pynvml") is not None:
        return
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError_LibraryNotFound = nvml.NVMLError_DriverNotLoaded = type("NVMLError", (Exception,), {})

    def no_driver() -> None:
        raise nvml.NVMLError_LibraryNotFound

    nvml.nvmlInit = nvml.nvmlShutdown = no_driver
    sys.modules["pynvml"] = nvml


_count_gpus_without_nvml()


def _resources() -> dict[str, Any]:
    """A release for a CUDA device asks for one; read when BentoML builds and when it serves."""
    config = SRC / "release" / "model" / "config.json"
    device = json.loads(config.read_bytes()).get("device") if config.exists() else None
    return {"gpu": 1} if device == "cuda" else {"cpu": "1"}


@bentoml.service(
    name="freshrank_ranker",
    workers=1,
    resources=_resources(),
    traffic={"timeout": 10, "max_concurrency": 256},
    metrics={"enabled": True},
    logging={"access": {"enabled": False}},
)
class Ranker:
    """POST /rank, /recommend, /search and /feedback; a user is hashed on entry, a slate comes back in its new order."""

    def __init__(self) -> None:
        from tasks.serving.replica import Replica, ReplicaOptions

        self.replica = adopted or Replica(_options_from_environment(ReplicaOptions))
        if adopted is None:
            self.replica.load()

    @bentoml.api(route="/rank")
    def rank(self, body: dict[str, Any], /, ctx: bentoml.Context) -> dict[str, Any]:
        """Rank `candidates`, or retrieve and rank the best `k`. /docs.json of the fast path has the full schema."""
        return self._ranked("/rank", body, ctx)

    @bentoml.api(route="/recommend")
    def recommend(self, body: dict[str, Any], /, ctx: bentoml.Context) -> dict[str, Any]:
        """Retrieve and rank the best `k` for a user."""
        return self._ranked("/recommend", body, ctx)

    @bentoml.api(route="/search")
    def search(self, body: dict[str, Any], /, ctx: bentoml.Context) -> dict[str, Any]:
        """The best `k` for a query text."""
        return self._ranked("/search", body, ctx)

    def _ranked(self, path: str, body: dict[str, Any], ctx: bentoml.Context) -> dict[str, Any]:
        import msgspec

        from tasks.domain.errors import Unavailable
        from tasks.domain.requests import RequestRefused, convert_rank
        from tasks.serving.worker import Overloaded

        arrived = time.perf_counter()
        ctx.response.headers["x-freshrank-release"] = self.replica.digest
        request_id = ctx.request.headers.get("x-request-id")
        try:
            call = self.replica.open_call(convert_rank(body, path), request_id, False, arrived, path[1:])
            reply = self.replica.answered(call, self.replica.worker.run(call.job))
        except RequestRefused as err:
            return _refusal(ctx, err.status, err)
        except Overloaded as err:
            return _refusal(ctx, HTTPStatus.TOO_MANY_REQUESTS, err)
        except Unavailable as err:
            return _refusal(ctx, HTTPStatus.SERVICE_UNAVAILABLE, err)
        ctx.response.headers["x-request-id"] = call.request_id
        replied: dict[str, Any] = msgspec.to_builtins(reply)
        return replied

    @bentoml.api(route="/feedback")
    def feedback(self, body: dict[str, Any], /, ctx: bentoml.Context) -> dict[str, Any]:
        """Keep what the user did with a served list; 202 once it is on disk."""
        import msgspec

        from tasks.domain.errors import Unavailable
        from tasks.domain.requests import RequestRefused, convert_feedback

        ctx.response.headers["x-freshrank-release"] = self.replica.digest
        try:
            feedback = convert_feedback(body)
            rows, accepted = self.replica.open_feedback(feedback)
            if self.replica.spool is not None:
                self.replica.spool.append_and_wait(rows)
        except RequestRefused as err:
            return _refusal(ctx, err.status, err)
        except Unavailable as err:
            return _refusal(ctx, HTTPStatus.SERVICE_UNAVAILABLE, err)
        self.replica.feedback_written(feedback, rows, accepted)
        ctx.response.status_code = HTTPStatus.ACCEPTED
        kept: dict[str, Any] = msgspec.to_builtins(accepted)
        return kept

    def __is_ready__(self) -> bool:
        return bool(self.replica.ready)


def _refusal(ctx: bentoml.Context, status: int, err: Exception) -> dict[str, Any]:
    """An answer, not an exception: BentoML would log the exception's text, which may repeat the caller."""
    ctx.response.status_code = status
    return {"error": str(err)}


def _options_from_environment(options: type) -> Any:
    """`bentoml serve` passes no arguments on: RANKER_VIEW, RANKER_SECRETS, RANKER_VALKEY, RANKER_SPOOL, RANKER_MERCHANDISING do."""

    def path(name: str) -> Path | None:
        return Path(os.environ[name]) if name in os.environ else None

    return options(
        src=SRC,
        name=os.environ.get("RANKER_REPLICA", "bento"),
        view=path("RANKER_VIEW"),
        secrets=path("RANKER_SECRETS"),
        valkey_url=os.environ.get("RANKER_VALKEY"),
        spool=path("RANKER_SPOOL"),
        merchandising=path("RANKER_MERCHANDISING"),
    )


class Screen:
    """Applies the limits before BentoML parses: it answers a malformed body with 500 and takes one of any size."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        from bentos.ranker.fast_path import answer_json, read_body
        from tasks.domain.requests import DECODERS, RequestRefused, decode_feedback

        decoders = {**DECODERS, "/feedback": decode_feedback}
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in decoders:
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(scope, receive)
            decoders[scope["path"]](body)
        except RequestRefused as err:
            await answer_json(send, err.status, {"error": str(err)})
            return
        again = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replayed() -> Any:
            return next(again, None) or await receive()

        await self._app(scope, replayed, send)


_service: Any = Ranker  # the decorator makes a Service of the class, which its type does not say
_service.add_asgi_middleware(Screen)
