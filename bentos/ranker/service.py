"""The ranker as a BentoML service: what `bentoml build` packages and `bentoml serve` runs. Same limits, same engine.

`python -m bentos.ranker` serves the same routes faster and hands BentoML the rest; it adopts its replica here.
"""

from __future__ import annotations

import os
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml.exceptions import BentoMLException, InvalidArgument, ServiceUnavailable

if TYPE_CHECKING:
    from tasks.serving.replica import Replica

SRC = Path(__file__).resolve().parents[2]
adopted: Replica | None = None


class Unprocessable(BentoMLException):
    error_code = HTTPStatus.UNPROCESSABLE_ENTITY


@bentoml.service(
    name="freshrank_ranker",
    workers=1,
    traffic={"timeout": 10, "max_concurrency": 256},
    metrics={"enabled": True},
    logging={"access": {"enabled": False}},
)
class Ranker:
    """POST /rank and POST /feedback; a user is hashed on entry, a slate comes back as a permutation of itself."""

    def __init__(self) -> None:
        from tasks.serving.replica import Replica, ReplicaOptions

        self.replica = adopted or Replica(_options_from_environment(ReplicaOptions))
        if adopted is None:
            self.replica.load()

    @bentoml.api(route="/rank")
    def rank(self, body: dict[str, Any], /, ctx: bentoml.Context) -> dict[str, Any]:
        """Rank `candidates`, or retrieve and rank the best `k`. /docs.json of the fast path has the full schema."""
        import msgspec

        from tasks.domain.errors import Unavailable
        from tasks.domain.requests import RequestRefused, convert_rank

        arrived = time.perf_counter()
        ctx.response.headers["x-freshrank-release"] = self.replica.digest
        request_id = ctx.request.headers.get("x-request-id")
        try:
            call = self.replica.open_call(convert_rank(body), request_id, False, arrived)
            reply = self.replica.answered(call, self.replica.worker.run(call.job))
        except RequestRefused as err:
            raise _refusal(err) from None
        except Unavailable as err:
            raise ServiceUnavailable(str(err)) from None
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
            raise _refusal(err) from None
        except Unavailable as err:
            raise ServiceUnavailable(str(err)) from None
        self.replica.feedback_written(feedback, accepted)
        ctx.response.status_code = HTTPStatus.ACCEPTED
        kept: dict[str, Any] = msgspec.to_builtins(accepted)
        return kept

    def __is_ready__(self) -> bool:
        return bool(self.replica.ready)


def _refusal(err: Any) -> BentoMLException:
    return Unprocessable(str(err)) if err.status == HTTPStatus.UNPROCESSABLE_ENTITY else InvalidArgument(str(err))


def _options_from_environment(options: type) -> Any:
    """`bentoml serve` passes no arguments on: RANKER_VIEW, RANKER_SECRETS, RANKER_VALKEY, RANKER_SPOOL do instead."""

    def path(name: str) -> Path | None:
        return Path(os.environ[name]) if name in os.environ else None

    return options(
        src=SRC,
        name=os.environ.get("RANKER_REPLICA", "bento"),
        view=path("RANKER_VIEW"),
        secrets=path("RANKER_SECRETS"),
        valkey_url=os.environ.get("RANKER_VALKEY"),
        spool=path("RANKER_SPOOL"),
    )
