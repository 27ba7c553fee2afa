"""Raw body -> msgspec -> engine -> msgspec: the hot routes as a bare ASGI app, in front of BentoML's own pages.

BentoML's route costs about 0.8 ms of CPU a request, this one about 0.05. Anything that is not one of our routes goes on
to BentoML's app, which is imported when the first such request comes. Every reply carries the release digest.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec

from bentos.ranker.openapi import document
from tasks.domain.errors import Unavailable
from tasks.domain.requests import (
    DECODERS,
    MAX_BODY_BYTES,
    MAX_REQUEST_ID,
    Feedback,
    FeedbackAccepted,
    RankRequest,
    RequestRefused,
    decode_feedback,
)
from tasks.serving.metrics import CONTENT_TYPE
from tasks.serving.replica import Replica, log_failure
from tasks.serving.rings import Slate
from tasks.serving.worker import Overloaded

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Pages = Callable[[Scope, Receive, Send], Awaitable[None]]
BODY_TIMEOUT_S = 10.0
SHORT = 512  # bytes of a body that may ask for a recommendation that is ready; longer ones are refused unread when it is full
JSON = b"application/json"
PLAIN = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_REQUEST_ID)
TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES >> 10} KiB; send fewer candidates or events"

HERE = "127.0.0.1"
SIBLING_TIMEOUT_S = 0.2  # feedback is not in a hurry, and its writer is not to wait for one that hangs

_encode = msgspec.json.Encoder().encode
_slates = msgspec.json.Decoder(Slate)


class FastPath:
    """The ASGI app of a replica. `pages` answers what is not ours; None answers 404."""

    def __init__(self, replica: Replica, pages: Pages | None = None) -> None:
        self._replica = replica
        self._pages = pages
        self._routes: dict[str, tuple[str, Callable[[Scope, Receive, Send], Awaitable[None]]]] = {
            **{path: ("POST", partial(self._rank, path, decode)) for path, decode in DECODERS.items()},
            "/feedback": ("POST", self._feedback),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", self._metrics),
            "/served": ("GET", self._served),
            "/feedback_seen": ("GET", self._feedback_seen),
            "/slate": ("GET", self._slate),
            "/docs.json": ("GET", self._document),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        route = self._routes.get(scope["path"])
        if route is not None:
            method, handler = route
            if scope["method"] == method or (scope["method"] == "HEAD" and method == "GET"):
                await handler(scope, receive, send)
            else:
                text = f"{scope['path']} takes {method}, not {scope['method'][:16]}"
                await self._refuse(send, 405, text, (b"allow", method.encode()))
        elif self._pages is not None and scope["method"] in ("GET", "HEAD"):
            await self._pages(scope, receive, self._stamped(send))
        else:
            await self._refuse(send, 404, "there is nothing here; POST /rank ranks, GET /docs explains")

    async def _rank(
        self, path: str, decode: Callable[[bytes], RankRequest], scope: Scope, receive: Receive, send: Send
    ) -> None:
        arrived = time.perf_counter()
        replica, route = self._replica, path[1:]
        request_id, shadow = _headers(scope)
        try:
            body = await read_body(scope, receive)
            if len(body) > SHORT and replica.ready:  # it holds a list: no answer to that is ready
                replica.worker.require_room()
            call = replica.open_call(decode(body), request_id, shadow, arrived, route)
            ranking = call.job.at_once() or await self._in_worker(call.job)
            reply = replica.answered(call, ranking)
            status, body, extra = 200, _encode(reply), (b"x-request-id", call.request_id.encode())
        except RequestRefused as err:
            status, body, extra = err.status, _error(str(err)), None
        except Overloaded as err:  # 429, not 503: the router asks another release then, never more replicas of this one
            status, body, extra = 429, _error(str(err)), (b"retry-after", b"1")
        except Unavailable as err:
            status, body, extra = 503, _error(str(err)), (b"retry-after", b"1")
        except Exception as err:
            log_failure(err)
            status, body, extra = 500, _error("the ranker failed on this request; the failure was logged"), None
        if status != 200:
            replica.failed(request_id, status, arrived, shadow, route)
        await self._answer(send, status, body, extra)

    async def _feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            feedback = decode_feedback(await read_body(scope, receive))
            accepted = await self._keep(feedback)
            status, body, extra = 202, _encode(accepted), None
        except RequestRefused as err:
            status, body, extra = err.status, _error(str(err)), None
        except Unavailable as err:
            self._replica.metrics.spool_refused.inc()
            status, body, extra = 503, _error(str(err)), (b"retry-after", b"1")
        except Exception as err:
            log_failure(err)
            status, body, extra = 500, _error("the feedback could not be kept; send it again"), None
        self._replica.metrics.requests.labels("feedback", str(status)).inc()
        await self._answer(send, status, body, extra)

    async def _keep(self, feedback: Feedback) -> FeedbackAccepted:
        replica = self._replica
        slate = replica.slate(feedback.request_id) or await slate_of_siblings(replica, feedback.request_id)
        rows, accepted = replica.open_feedback(feedback, slate)
        if replica.spool is not None:
            loop = asyncio.get_running_loop()
            written: asyncio.Future[None] = loop.create_future()

            def done(error: Exception | None) -> None:
                loop.call_soon_threadsafe(_settle, written, None, error)

            replica.spool.append(rows, done)
            await written
        replica.feedback_written(feedback, rows, accepted)
        return accepted

    async def _in_worker(self, job: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(_settle, future, result, error)

        self._replica.worker.submit(job, deliver)
        return await future

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(send, 200, _encode({"state": self._replica.state}))

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        replica = self._replica
        if replica.ready:
            told = {"release": replica.digest, "replica": replica.options.name, "merchandising": replica.merchandising}
            await self._answer(send, 200, _encode(told))
        else:
            text = f"{replica.state}: {replica.reason}"
            await self._answer(send, 503, _encode({"error": text}), (b"retry-after", b"1"))

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._replica.metrics.pending.set(self._replica.worker.pending)
        await self._answer(send, 200, self._replica.metrics.text(), content_type=CONTENT_TYPE.encode())

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._page(scope, send, self._replica.served)

    async def _feedback_seen(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._page(scope, send, self._replica.feedback_seen)

    async def _slate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For the other replicas of this machine, as /served is for the judge: the router passes on neither."""
        request_id = parse_qs(scope["query_string"].decode("latin-1")).get("id", [""])[0]
        slate = self._replica.slate(request_id)
        if slate is None:
            await self._refuse(send, 404, "this replica remembers no such list")
        else:
            await self._answer(send, 200, _encode(slate))

    async def _page(self, scope: Scope, send: Send, ring: Any) -> None:
        after = parse_qs(scope["query_string"].decode("latin-1")).get("after", ["0"])[0]
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            await self._refuse(send, 422, "after is a number that an earlier answer gave; start with 0")
            return
        await self._answer(send, 200, _encode(ring.after(int(after))))

    async def _document(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(send, 200, _encode(document(self._replica.digest)))

    async def _refuse(self, send: Send, status: int, text: str, header: tuple[bytes, bytes] | None = None) -> None:
        await self._answer(send, status, _error(text), header)

    async def _answer(
        self,
        send: Send,
        status: int,
        body: bytes,
        header: tuple[bytes, bytes] | None = None,
        content_type: bytes = JSON,
    ) -> None:
        headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            (b"x-freshrank-release", self._replica.digest.encode()),
        ]
        if header is not None:
            headers.append(header)
        if self._replica.state == "draining":
            headers.append((b"connection", b"close"))  # whoever keeps the connection finds another replica
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _stamped(self, send: Send) -> Send:
        async def stamped(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                digest = (b"x-freshrank-release", self._replica.digest.encode())
                message = {**message, "headers": [*message.get("headers", ()), digest]}
            await send(message)

        return stamped


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, at most MAX_BODY_BYTES of it. Raises RequestRefused: 413, 415, or 408 for a slow sender."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value[:20]) > MAX_BODY_BYTES):
            raise RequestRefused(413, TOO_LARGE)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RequestRefused(415, "the body is compressed; send it as it is")
        if name == b"content-type" and value.split(b";")[0].strip().lower() != JSON:
            raise RequestRefused(415, "the body is not application/json; send JSON with that content-type")
    message = await receive()
    if not message.get("more_body"):
        return _within(message.get("body", b""))
    body = bytearray(message.get("body", b""))
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while message.get("more_body"):
                message = await receive()
                body += message.get("body", b"")
                _within(body)
    except TimeoutError:
        raise RequestRefused(408, f"the body did not come within {BODY_TIMEOUT_S:.0f} s") from None
    return bytes(body)


async def slate_of_siblings(replica: Replica, request_id: str) -> Slate | None:
    """What another replica served under that id: the router gives feedback to any of them."""
    ports = replica.spool.siblings() if replica.spool is not None else []
    found = await asyncio.gather(*(_slate_at(port, request_id) for port in ports))
    return next((slate for slate in found if slate is not None), None)


async def _slate_at(port: int, request_id: str) -> Slate | None:
    ask = f"GET /slate?id={quote(request_id, safe='')} HTTP/1.1\r\nhost: {HERE}\r\nconnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(SIBLING_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HERE, port)
            try:
                writer.write(ask.encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return _slates.decode(body) if head.startswith(b"HTTP/1.1 200") else None
    except (OSError, TimeoutError, msgspec.DecodeError):  # it is gone, or busy: then the list is not joined
        return None


async def answer_json(send: Send, status: int, value: Any) -> None:
    body = _encode(value)
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _within(body: Any) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise RequestRefused(413, TOO_LARGE)
    return body


def _headers(scope: Scope) -> tuple[str | None, bool]:
    """(request id from the router if it is plain text of sane length, whether this is a mirrored copy)."""
    request_id, shadow = None, False
    for name, value in scope["headers"]:
        if name == b"x-request-id" and PLAIN.fullmatch(value):
            request_id = value.decode("ascii")
        elif name == b"host":  # Envoy marks mirrored requests there
            shadow = value.split(b":")[0].endswith(b"-shadow")
    return request_id, shadow


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # the caller hung up
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _error(text: str) -> bytes:
    return _encode({"error": text})
