"""Feedback events on disk before they are acknowledged, served lists soon after; both go to the object store.

A segment is a JSONL file; a torn last line was never acknowledged and is skipped. Uploading runs in a process of its
own (`tasks.serving.upload`): importing the store's client would hold this process's interpreter for a second while
requests wait. The spool is bounded: when it is full, feedback is refused, never dropped silently.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any, TextIO

import msgspec
import orjson

from tasks.domain.errors import Unavailable
from tasks.serving.events import Shown
from tasks.serving.metrics import Metrics

log = logging.getLogger("freshrank.serving")
MAX_SPOOL_BYTES = 64 * 1024 * 1024
MAX_WAITING = 256
MAX_SHOWN = 4_096  # lists that wait for the disk
SHOWN_EVERY_S = 0.5
FLUSH_EVERY_S = 20.0
UPLOAD_TIMEOUT_S = 60.0
_encode = msgspec.json.Encoder().encode
LAST_UPLOAD_S = 6.0  # at the end; what it does not take, the next process of this spool uploads


class Spool:
    """Append-only segments under `<root>/<replica>-<boot>/`, owned through a lock that dies with the process.

    Whatever an earlier process left behind is uploaded by the next one: the uploader takes every directory whose lock
    is free. A full disk or spool refuses feedback and leaves ranking alone.
    """

    def __init__(
        self,
        root: Path,
        release: str,
        replica: str,
        metrics: Metrics,
        store_config: Path | None = None,
        max_bytes: int = MAX_SPOOL_BYTES,
        flush_every_s: float = FLUSH_EVERY_S,
        port: int | None = None,
    ) -> None:
        """port: where this replica tells the others of this spool what it served; they find it in the lock."""
        self._root = root
        self._stem = f"{release[:12]}-{replica}-{os.urandom(4).hex()}"
        self._directory = root / self._stem
        self._metrics = metrics
        self._store_config = store_config
        self._max_bytes = max_bytes
        self._flush_every_s = flush_every_s
        self._segment = 0
        self._written = 0
        self._waiting: queue.Queue[tuple[bytes, Callable[[Exception | None], None]]] = queue.Queue(MAX_WAITING)
        self._shown: deque[tuple[bytes, int]] = deque()
        self._stop = threading.Event()
        self._turn = threading.Lock()  # a segment is either written or handed over
        self._lock = _claim(self._directory)
        self._lock.write(str(port or ""))
        self._lock.flush()
        self._port = port
        self._writer = threading.Thread(target=self._write_loop, name="spool", daemon=True)
        self._writer.start()
        self._flusher = threading.Thread(target=self._flush_loop, name="spool-upload", daemon=True)
        if store_config is not None:
            self._flusher.start()

    def append(self, rows: list[dict[str, Any]], done: Callable[[Exception | None], None]) -> None:
        """Queue rows; `done` is called on the spool's thread once they are on disk, or with the reason they are not."""
        body = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        try:
            self._waiting.put_nowait((body, done))
        except queue.Full:
            raise Unavailable("feedback comes faster than the disk takes it; try again in a second") from None

    def show(self, shown: Shown) -> None:
        """Queue a served list. Nobody waits for it: it is on disk within half a second, or counted as dropped."""
        if len(self._shown) >= MAX_SHOWN:
            self._metrics.impressions.labels("dropped").inc(len(shown.shown))
            return
        self._shown.append((_encode(shown) + b"\n", len(shown.shown)))

    def siblings(self) -> list[int]:
        """Ports of the other replicas that write to this spool; some may be gone."""
        told = [_text(path) for path in self._root.glob("*/lock")]
        return sorted({int(port) for port in told if port.isdigit()} - {self._port or 0})

    def append_and_wait(self, rows: list[dict[str, Any]]) -> None:
        """For callers with a thread of their own."""
        written: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self.append(rows, written.put)
        error = written.get(timeout=30)
        if error is not None:
            raise error

    def close(self) -> None:
        """Write what is queued, give the directory up, and upload once more if a store is configured."""
        self._stop.set()
        self._writer.join(timeout=10)
        self._lock.close()
        if self._store_config is not None:
            self._flusher.join(timeout=LAST_UPLOAD_S)
            if self._used():
                self._upload(LAST_UPLOAD_S)

    def _write_loop(self) -> None:
        while not (self._stop.is_set() and self._waiting.empty() and not self._shown):
            batch = []
            try:
                batch.append(self._waiting.get(timeout=SHOWN_EVERY_S))
            except queue.Empty:
                pass
            while not self._waiting.empty():  # one fsync for all that came meanwhile
                batch.append(self._waiting.get_nowait())
            if batch:
                with self._turn:
                    error = self._write(b"".join(body for body, _ in batch), self._max_bytes)
                for _, done in batch:
                    done(error)
            self._write_shown()

    def _write_shown(self) -> None:
        lists = [self._shown.popleft() for _ in range(len(self._shown))]
        if not lists:
            return
        with self._turn:  # what users did is worth more than what they saw: a quarter of the room is kept for it
            error = self._write(b"".join(body for body, _ in lists), self._max_bytes * 3 // 4)
        outcome = "dropped" if error else "spooled"
        self._metrics.impressions.labels(outcome).inc(sum(items for _, items in lists))

    def _write(self, body: bytes, room: int) -> Exception | None:
        if self._used() + len(body) > room:
            return Unavailable(f"the feedback spool is full ({self._max_bytes >> 20} MiB): the store takes nothing")
        path = self._directory / f"{self._stem}-{self._segment:05d}.jsonl"
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            log.error("spool=unwritable errno=%s", err.errno)
            if path.exists():
                os.truncate(path, before)  # never leave half a line in front of the next one
            return Unavailable(f"feedback could not be written to disk: {err.strerror}; ranking goes on")
        self._written += len(body)
        self._metrics.spool_bytes.set(self._used())
        return None

    def _used(self) -> int:
        """Bytes of all segments, other replicas' too. What an uploader takes away while we look counts for nothing: an error
        here would end the thread that asks, and with it all feedback. `Path.glob` raises for a folder that goes."""
        return sum(_size(self._root / segment) for segment in glob("*/*.jsonl", root_dir=self._root))

    def _flush_loop(self) -> None:
        while not self._stop.wait(self._flush_every_s):
            if self._written or self._used():
                with self._turn:
                    self._written = 0
                    self._segment += 1  # the writer starts a new file; the uploader takes the ones before
                self._upload()

    def _upload(self, timeout_s: float = UPLOAD_TIMEOUT_S) -> None:
        command = [sys.executable, "-B", "-m", "tasks.serving.upload"]
        command += ["--spool", str(self._root), "--store-config", str(self._store_config)]
        command += ["--own", self._directory.name, "--before", str(self._segment)]
        try:
            done = subprocess.run(command, timeout=timeout_s, capture_output=True, check=False)
            outcome, why = "uploaded" if done.returncode == 0 else "failed", done.stderr.decode(errors="replace")
        except (OSError, subprocess.TimeoutExpired) as err:
            outcome, why = "failed", str(err)
        if outcome == "failed":
            log.warning("feedback_upload=failed spool_bytes=%d %s", self._used(), " ".join(why.split())[-300:])
        self._metrics.uploads.labels(outcome).inc()
        self._metrics.spool_bytes.set(self._used())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # uploaded and removed meanwhile
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # uploaded and removed meanwhile
        return ""


def _claim(directory: Path) -> TextIO:
    """The lock of a directory of our own. Another replica's uploader may find it empty and take it away before we hold it."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock = (directory / "lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (directory / "lock").stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
            lock.close()
        except FileNotFoundError:
            continue
