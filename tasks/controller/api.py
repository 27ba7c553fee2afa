"""The controller's HTTP door: reads for everybody on this machine, changes for who holds the token."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tasks.controller.commands import Commands
from tasks.controller.roles import Change, may, role_of
from tasks.domain.errors import Conflict, FreshrankError, InputRejected, Unavailable
from tasks.domain.manifest import Record
from tasks.domain.rollout import RolloutPolicy

MAX_BODY = 64 * 1024
NO_TOKEN = "the controller's token is missing or wrong; it is in secrets.json of FRESHRANK_HOME"
Text = Field(min_length=1, max_length=2000)
Key = Field(default_factory=lambda: uuid.uuid4().hex, min_length=1, max_length=200)


class Submission(Record):
    release: str
    kind: Literal["bootstrap", "canary"] = "canary"
    policy: RolloutPolicy | None = None
    actor: str = Text
    reason: str = Text
    idempotency_key: str = Field(min_length=1, max_length=200)
    expected_champion: str | None = None


class Press(Record):
    """An abort, a freeze, an unfreeze. `expected_revision` is what the person saw: if the log has moved, look again."""

    actor: str = Text
    reason: str = Text
    idempotency_key: str = Key
    expected_revision: int | None = Field(default=None, ge=0)


class Rollback(Press):
    to: str | None = None


Asked = TypeVar("Asked", bound=Record)
Pressed = TypeVar("Pressed", bound=Press)
Handler = Callable[[Request], Awaitable[Response]]


def create_app(commands: Commands, token: str, pages: Sequence[Route] = ()) -> Starlette:
    """All routes, and `pages`, which only read. Anything else is 404; a change without the token is 401 before its body
    is read."""

    async def pressed(request: Request, kind: type[Pressed]) -> dict[str, Any]:
        asked = await _read(request, kind)
        commands.check_revision(asked.expected_revision, asked.idempotency_key)
        return {name: value for name, value in _fields(asked).items() if name != "expected_revision"}

    def protected(change: Change, handle: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            role = role_of(request.headers.get("authorization", "").removeprefix("Bearer "), token)
            if role is None:
                raise HTTPException(401, NO_TOKEN)
            if not may(role, change):
                raise HTTPException(403, f"the token is of role {role}, which may not {change}; nothing was changed")
            return await handle(request)

        return checked

    async def status(request: Request) -> Response:
        return JSONResponse(commands.status())

    async def submit(request: Request) -> Response:
        asked = await _read(request, Submission)
        return JSONResponse(commands.submit(**_fields(asked)), status_code=202)

    async def rollout(request: Request) -> Response:
        return JSONResponse(commands.rollout(request.path_params["name"]))

    async def rollback(request: Request) -> Response:
        return JSONResponse(await commands.roll_back(**await pressed(request, Rollback)))

    async def abort(request: Request) -> Response:
        return JSONResponse(await commands.abort(**await pressed(request, Press)))

    def freeze(on: bool) -> Handler:
        async def change(request: Request) -> Response:
            return JSONResponse(commands.freeze(on=on, **await pressed(request, Press)))

        return change

    async def rows(request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdigit():
            raise InputRejected(f"after={after!r} is not a revision; use a number such as 0")
        return JSONResponse(commands.rows(int(after)))

    async def pins(request: Request) -> Response:
        return JSONResponse(commands.pins())

    async def served_at(request: Request) -> Response:
        return JSONResponse(commands.served_at(_moment(request.query_params.get("time", ""))))

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(commands.metrics(), media_type="text/plain; version=0.0.4")

    async def targets(request: Request) -> Response:
        return JSONResponse(commands.targets())

    return Starlette(
        routes=[
            Route("/status", status),
            Route("/rollouts", protected("submit", submit), methods=["POST"]),
            Route("/rollouts/{name}", rollout),
            Route("/rollback", protected("rollback", rollback), methods=["POST"]),
            Route("/abort", protected("abort", abort), methods=["POST"]),
            Route("/freeze", protected("freeze", freeze(True)), methods=["POST"]),
            Route("/unfreeze", protected("unfreeze", freeze(False)), methods=["POST"]),
            Route("/log", rows),
            Route("/pins", pins),
            Route("/served-at", served_at),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            Route("/targets", targets),
            *pages,
        ],
        exception_handlers={FreshrankError: _refused, HTTPException: _http_error},
    )


async def _read(request: Request, kind: type[Asked]) -> Asked:
    if int(request.headers.get("content-length") or 0) > MAX_BODY or len(body := await request.body()) > MAX_BODY:
        raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in err.errors())
        raise HTTPException(422, f"the request is not valid: {problems}") from err
    except ValueError as err:
        raise HTTPException(422, f"the body is not JSON: {err}") from err


def _fields(asked: Record) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in type(asked).model_fields}


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputRejected(f"time={text!r} is not a time; write it as 2026-01-31T14:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


async def _refused(request: Request, err: Exception) -> Response:
    status = 503 if isinstance(err, Unavailable) else 409 if isinstance(err, Conflict) else 400
    if isinstance(err, InputRejected) and "there is no rollout" in str(err):
        status = 404
    return JSONResponse({"error": str(err)}, status_code=status)


async def _http_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    return JSONResponse({"error": err.detail}, status_code=err.status_code)
