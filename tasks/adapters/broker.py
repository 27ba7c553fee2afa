"""The broker of the Celery workers: who serves which queue, what waits there, and which code the scheduler runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tasks.domain.errors import Unavailable

ANNOUNCED, DEVICES = "freshrank:version", "freshrank:devices"
TIMEOUT_S = 5.0
ANSWERS_WITHIN_S = 2.0  # workers answer within milliseconds; the call always takes this long


@dataclass(frozen=True, slots=True)
class Version:
    """Digests of the code and of the lock."""

    code: str
    lock: str


class Broker:
    def __init__(self, url: str) -> None:
        """url: redis://:password@host:port/0."""
        self.url = url

    def workers(self) -> dict[str, list[str]]:
        """Queue -> names of the workers that take tasks from it now. Raises Unavailable."""
        from celery import Celery
        from kombu import pools

        found: dict[str, list[str]] = defaultdict(list)
        with self.asked(), Celery(broker=self.url, set_as_current=False) as app:
            app.conf.broker_transport_options = {"socket_connect_timeout": TIMEOUT_S, "socket_timeout": TIMEOUT_S}
            try:
                answers = app.control.inspect(timeout=ANSWERS_WITHIN_S).active_queues() or {}
            finally:  # kombu keeps them for the whole process; a broker that is started again has cut them
                pools.reset()
        for worker, queues in answers.items():
            for queue in queues:
                found[queue["name"]].append(worker)
        return dict(found)

    def waiting(self, queue: str) -> int:
        """Messages that no worker has taken. Raises Unavailable."""
        with self.asked() as client:
            return int(client.llen(queue))

    def memory(self) -> tuple[int, int]:
        """(bytes it holds, bytes it may hold; 0: no limit). One that is full takes no more tasks. Raises Unavailable."""
        with self.asked() as client:
            told = client.info("memory")
        return int(told["used_memory"]), int(told.get("maxmemory", 0))

    def announce(self, version: Version) -> None:
        with self.asked() as client:
            client.hset(ANNOUNCED, mapping=asdict(version))

    def announced(self) -> Version | None:
        """What the scheduler of this broker runs; None before it ever started. Raises Unavailable."""
        with self.asked() as client:
            found = client.hgetall(ANNOUNCED)
        return Version(**found) if found else None

    def arrived(self, worker: str, device: str) -> None:
        """Leave word of what a worker that starts computes on. Raises Unavailable."""
        with self.asked() as client:
            client.hset(DEVICES, worker, device)

    def devices(self) -> dict[str, str]:
        """Worker -> what it said that it computes on when it last started, whether it still runs or not. Raises Unavailable."""
        with self.asked() as client:
            return dict(client.hgetall(DEVICES))

    def _client(self):  # type: ignore[no-untyped-def]  # a client of the untyped package
        from valkey import Valkey

        return Valkey.from_url(
            self.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True
        )

    @contextmanager
    def asked(self) -> Iterator[Any]:
        """A client of the broker; what goes wrong with it meanwhile is Unavailable."""
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError  # of kombu's transport
        from valkey.exceptions import ValkeyError

        try:
            yield self._client()
        except (OperationalError, RedisError, ValkeyError, OSError) as err:
            where = self.url.rpartition("@")[2]
            raise Unavailable(
                f"the broker at {where} does not answer ({type(err).__name__}); tasks wait until it does: see "
                f"logs/broker.log, or setting broker_url"
            ) from err
