"""One serving process: a checked release, its engine, and what it remembers of the requests it answered.

Knows nothing of HTTP: the fast path and the BentoML service both drive it. Raw user ids are hashed here and go no
further; nothing is logged about a single request except that it failed, and where in the code.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.domain.behaviour import pseudonym, visitor_pseudonym
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.merchandising import Revision
from tasks.domain.requests import Feedback, FeedbackAccepted, RankedItem, RankReply, RankRequest, Reason
from tasks.serving.asked import Asked, Ranking
from tasks.serving.events import Shown, event_rows
from tasks.serving.explore import explored
from tasks.serving.feedback import Spool
from tasks.serving.golden import replay
from tasks.serving.merchandise import Watch
from tasks.serving.metrics import Metrics
from tasks.serving.online_store import ValkeyOnlineStore
from tasks.serving.recent import Recorder, purchases_of
from tasks.serving.release import Release, verify
from tasks.serving.rings import FeedbackSeen, Ring, Served, Slate, Slates, user_bucket
from tasks.serving.worker import Groupable, Worker

if TYPE_CHECKING:
    from tasks.serving.engine import Engine

log = logging.getLogger("freshrank.serving")
KEPT_RECORDS = 5_000
RECORD_TIMEOUT_S = 0.5
KEPT_SLATE_ITEMS = 450_000  # 15,000 lists of 20
TOP = 20
SEEN_EVENTS = 50  # of one feedback that the judge is told: 5,000 of them with 1,000 events each would take the memory
WARM_UP_ROUNDS = 3
HOT_USERS, WARM_UP_S = 256, 2.0  # prepared before the first request, as many as fit in
WAITING_SHARE = 0.8  # of the deadline: who would wait longer is refused at once, with 429


class NotReady(Unavailable):
    """The replica is loading, leaving or broken; another one answers."""


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What a launcher decides. Everything about the model is in the release."""

    src: Path
    name: str
    view: Path | None = None
    expected_digest: str | None = None
    public_keys: Path | None = None
    secrets: Path | None = None
    valkey_url: str | None = None
    spool: Path | None = None
    store_config: Path | None = None
    merchandising: Path | None = None
    port: int | None = None
    deadline_ms: float = 100.0
    queue: int = 64
    threads: int = 1


@dataclass(frozen=True, slots=True)
class RankCall:
    """A request between arrival and reply; `job` is what the engine's thread runs."""

    request: RankRequest
    pseudonym: str | None
    request_id: str
    shadow: bool
    arrived: float
    route: str
    job: RankJob


@dataclass(frozen=True, slots=True)
class RankJob(Groupable):
    """One request for the engine's thread, which does those that wait together."""

    engine: Engine
    asked: Asked

    def __call__(self) -> Ranking:
        one = self.asked
        return self.engine.rank(one.request, one.pseudonym, deadline=one.deadline, named=one.named)

    def at_once(self) -> Ranking | None:
        return self.engine.at_once(self.asked)

    def together(self, jobs: Sequence[RankJob]) -> list[Ranking | Exception]:
        return self.engine.rank_together([job.asked for job in jobs])


class Replica:
    """States: loading -> ready -> draining -> closed; broken when the release did not prove itself."""

    def __init__(self, options: ReplicaOptions) -> None:
        self.options = options
        self.state = "loading"
        self.reason = "the release is being loaded"
        self.release: Release | None = None
        self.worker = Worker(options.queue, patience_s=options.deadline_ms * WAITING_SHARE / 1e3)
        self.metrics = Metrics("", options.name)
        self.served: Ring[Served] = Ring(KEPT_RECORDS)
        self.feedback_seen: Ring[FeedbackSeen] = Ring(KEPT_RECORDS)
        self._slates = Slates(KEPT_SLATE_ITEMS)
        self._engine: Engine | None = None
        self._spool: Spool | None = None
        self._recorder: Recorder | None = None
        self._merchandise: Watch | None = None
        self._key: bytes | None = None
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        return self.release.digest if self.release is not None else ""

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def load(self) -> None:
        """Check every byte, load, warm up, answer the golden requests, and only then be ready.

        Raises:
            InputRejected: the release, the view or the key is not the one it should be; nothing was served.
        """
        from tasks.serving.engine import Engine

        options, began = self.options, time.perf_counter()
        try:
            release = _checked(options)
            self._key = _read_key(options.secrets, release.record.key_id)
            self.metrics = Metrics(release.digest, options.name)
            self.release = release
            engine = Engine.open(release, options.view, valkey_url=options.valkey_url, threads=options.threads)
            asked = 0  # on this thread, not the worker's: it may have a lower priority, and nobody else asks yet
            for _ in range(WARM_UP_ROUNDS):
                asked = replay(engine, release.directory / "golden.json")
            engine.count_in(self.metrics)  # from here on: golden requests are nobody's traffic
            hot = engine.warm_up(HOT_USERS, WARM_UP_S)
            self._recorder = _recorder(options, release, self.metrics)
            if options.merchandising is not None:  # after the golden requests, which ask what the model says
                self._merchandise = Watch(options.merchandising, self._arrange_by(engine))
                self._merchandise.start()
            if options.spool is not None:
                self._spool = Spool(
                    options.spool, release.digest, options.name, self.metrics, options.store_config, port=options.port
                )
        except Exception as err:
            self.state, self.reason = "broken", str(err)
            raise
        self._engine = engine
        with self._lock:
            if self.state == "loading":
                self.state, self.reason = "ready", ""
                self.metrics.ready.set(1)
        log.info(
            "replica=%s release=%s view=%s golden=%d hot_users=%d state=%s seconds=%.2f",
            options.name, release.short, release.record.view[:12], asked, hot, self.state, time.perf_counter() - began,
        )  # fmt: skip

    @property
    def merchandising(self) -> int:
        """Revision of the rules that answers are arranged by; 0: none."""
        rules = self._engine.merchandiser if self._engine is not None else None
        return rules.revision if rules is not None else 0

    def drain(self) -> None:
        """Say not-ready from now on, but keep answering what still comes."""
        with self._lock:
            self.state, self.reason = "draining", "this replica is leaving"
            self.metrics.ready.set(0)

    def close(self, timeout_s: float = 5.0) -> None:
        """Finish what was accepted, put feedback on disk, end every thread."""
        self.worker.finish(timeout_s)
        if self._spool is not None:
            self._spool.close()
        if self._recorder is not None:
            self._recorder.close()
        if self._merchandise is not None:
            self._merchandise.close()
        if self._engine is not None:
            self._engine.close()
        self.state, self.reason = "closed", "this replica has left"

    def open_call(
        self, request: RankRequest, request_id: str | None, shadow: bool, arrived: float, route: str = "rank"
    ) -> RankCall:
        """Hash the user, fix the deadline. Raises NotReady before the golden requests have passed."""
        engine = self._engine
        if engine is None or self.state not in ("ready", "draining"):
            raise NotReady(f"{self.reason}; try again in a second")
        user = self._hashed(request.user_id)
        asked = Asked(request, user, arrived + self.options.deadline_ms / 1e3, request.user_id is not None)
        job = RankJob(engine, asked)
        return RankCall(request, user, request_id or os.urandom(16).hex(), shadow, arrived, route, job)

    def answered(self, call: RankCall, ranking: Ranking) -> RankReply:
        """Remember the slate, land it, count it; the reply to send."""
        ranking, propensities = self._explored(call, ranking)
        seconds = time.perf_counter() - call.arrived
        reasons: Sequence[list[Reason] | None] = ranking.reasons or [None] * len(ranking.items)
        reply = RankReply(
            request_id=call.request_id,
            release=self.digest,
            items=[RankedItem(*one) for one in zip(ranking.items, ranking.scores, reasons, strict=True)],
            stage=ranking.stage,
            cut_short=ranking.cut_short,
            latency_ms=round(seconds * 1e3, 3),
        )
        slate = Slate(call.request.surface, call.request.query, call.pseudonym, ranking.items)
        if not call.shadow:  # what nobody saw is no impression, and no feedback belongs to it
            self._slates.remember(call.request_id, slate)
            self._show(call.request_id, slate, ranking.scores, propensities)
        self._record(call.request_id, 200, reply.latency_ms, call.shadow, ranking, call.route, call.pseudonym)
        self.metrics.latency.observe(seconds)
        self.metrics.stages.labels(ranking.stage).inc()
        if ranking.cut_short:
            self.metrics.cut_short.inc()
        if ranking.explored:
            self.metrics.explored.inc()
        return reply

    def _explored(self, call: RankCall, ranking: Ranking) -> tuple[Ranking, list[float] | None]:
        """What to show, and the chance of each place; a copy that nobody sees tells the judge what the model says."""
        rules = self._engine.merchandiser if self._engine is not None else None
        if rules is None or not rules.explored or call.shadow:
            return ranking, None
        return explored(ranking, call.request_id, rules.explored, rules.kept_places(call.request, ranking.items))

    def _show(self, request_id: str, slate: Slate, scores: list[float], propensities: list[float] | None) -> None:
        visitor = slate.pseudonym or self._visitor(request_id)
        if self._spool is None or visitor is None:
            self.metrics.impressions.labels("not_kept").inc(len(slate.items))
            return
        at = datetime.now(UTC).isoformat()
        shown = Shown(
            at, request_id, self.digest, slate.surface, slate.query, visitor, slate.items, scores, propensities
        )
        self._spool.show(shown)

    def failed(self, request_id: str | None, status: int, arrived: float, shadow: bool, route: str = "rank") -> None:
        self._record(request_id or "", status, round((time.perf_counter() - arrived) * 1e3, 3), shadow, None, route)

    def slate(self, request_id: str) -> Slate | None:
        """What this replica served under that id, if it still remembers."""
        return self._slates.find(request_id)

    def open_feedback(
        self, feedback: Feedback, slate: Slate | None = None
    ) -> tuple[list[dict[str, object]], FeedbackAccepted]:
        """Rows for the spool, joined to the slate, and the reply to send once they are on disk.

        slate: what another replica told, where this one did not serve it.
        """
        slate = self.slate(feedback.request_id) or slate
        user = self._hashed(feedback.user_id)
        if user is None and slate is not None:
            user = self._visitor(feedback.request_id)
        rows = event_rows(feedback, slate, user, datetime.now(UTC))
        return rows, FeedbackAccepted(len(rows), slate is not None)

    def feedback_written(self, feedback: Feedback, rows: list[dict[str, object]], accepted: FeedbackAccepted) -> None:
        """Tell the judge, and let purchases count in the user's next request."""
        for user, purchases in purchases_of(rows).items():
            if self._engine is not None:
                self._engine.heard(user, purchases)
            if self._recorder is not None:
                self._recorder.put(user, purchases)
        with self._lock:
            self.feedback_seen.append(
                FeedbackSeen(
                    n=self.feedback_seen.next_number,
                    request_id=feedback.request_id,
                    item_ids=[event.item_id for event in feedback.events[:SEEN_EVENTS]],
                    event_types=[event.event_type for event in feedback.events[:SEEN_EVENTS]],
                    at=time.time(),
                )
            )
        self.metrics.feedback.labels("yes" if accepted.joined else "no").inc(accepted.accepted)

    @property
    def spool(self) -> Spool | None:
        """None when no spool was configured: feedback then only reaches the judge."""
        return self._spool

    def _arrange_by(self, engine: Engine) -> Callable[[Revision], None]:
        def use(told: Revision) -> None:
            engine.obey(told)
            self.metrics.merchandising.set(told.revision)

        return use

    def _hashed(self, user_id: str | None) -> str | None:
        return pseudonym(user_id, self._key) if user_id is not None and self._key is not None else None

    def _visitor(self, request_id: str) -> str | None:
        return visitor_pseudonym(request_id, self._key) if self._key is not None else None

    def _record(
        self,
        request_id: str,
        status: int,
        latency_ms: float,
        shadow: bool,
        ranking: Ranking | None,
        route: str,
        pseudonym: str | None = None,
    ) -> None:
        with self._lock:
            self.served.append(
                Served(
                    n=self.served.next_number,
                    request_id=request_id,
                    at=time.time(),
                    status=status,
                    latency_ms=latency_ms,
                    users_known=ranking is not None and ranking.user_known,
                    items=ranking.items[:TOP] if ranking is not None else [],
                    scores=ranking.scores[:TOP] if ranking is not None else [],
                    stage=ranking.stage if ranking is not None else "",
                    shadow=shadow,
                    kept=ranking is not None and ranking.kept,
                    cut_short=ranking is not None and ranking.cut_short,
                    explored=ranking is not None and ranking.explored,
                    user=user_bucket(pseudonym),
                )
            )
        self.metrics.requests.labels(route, str(status)).inc()


def _recorder(options: ReplicaOptions, release: Release, metrics: Metrics) -> Recorder | None:
    if options.valkey_url is None or options.view is None:
        return None
    return Recorder(release.record.view, ValkeyOnlineStore(options.valkey_url, RECORD_TIMEOUT_S), metrics)


def log_failure(err: BaseException) -> None:
    """What failed and where, without the error's text: a text may repeat what a caller sent."""
    frames = traceback.extract_tb(err.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    log.error("error=%s at=%s", type(err).__name__, where)


def _checked(options: ReplicaOptions) -> Release:
    if options.public_keys is None:
        return verify(options.src, options.expected_digest)
    from tasks.serving.signature import read_public_keys, verify_signed

    return verify_signed(options.src, read_public_keys(options.public_keys), options.expected_digest)


def _read_key(secrets: Path | None, key_id: str | None) -> bytes | None:
    if secrets is None:
        log.warning("pseudonym_key=none every user_id is unknown")
        return None
    try:
        content = json.loads(secrets.read_text())
        key, present = bytes.fromhex(content["pseudonym_key"]), content.get("pseudonym_key_id")
        pseudonym("", key)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputRejected(f"{secrets.name} holds no pseudonym_key; start the stack once, it writes one") from None
    if key_id is not None and present is not None and key_id != present:
        raise InputRejected(f"the release hashes users with key {key_id}, {secrets.name} holds {present}; use its own")
    return key
