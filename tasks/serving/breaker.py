"""A circuit breaker: after a few failures nobody asks, until a thread of its own finds that asking helps again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("freshrank.serving")


class Breaker:
    """Closed: ask. Open: do not ask; `probe` runs beside the requests every `interval_s` until it succeeds.

    No request pays for a probe, so a service that hangs costs at most `failures` timeouts in all.
    """

    def __init__(self, name: str, probe: Callable[[], None], failures: int = 3, interval_s: float = 2.0) -> None:
        self._name = name
        self._probe = probe
        self._limit = failures
        self._interval_s = interval_s
        self._failed = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._prober: threading.Thread | None = None

    @property
    def closed(self) -> bool:
        return self._failed < self._limit

    def succeeded(self) -> None:
        self._failed = 0

    def failed(self) -> None:
        with self._lock:
            self._failed += 1
            if self._failed != self._limit or self._stop.is_set():
                return
            log.warning("breaker=%s state=open failures=%d", self._name, self._failed)
            self._prober = threading.Thread(target=self._probe_until_well, name=f"probe-{self._name}", daemon=True)
            self._prober.start()

    def stop(self) -> None:
        self._stop.set()
        if self._prober is not None:
            self._prober.join(timeout=5)

    def _probe_until_well(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._probe()
            except Exception:  # whatever it is, it is not well yet
                continue
            with self._lock:
                self._failed = 0
            log.warning("breaker=%s state=closed", self._name)
            return
