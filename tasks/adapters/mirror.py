"""Calls that must not be lost and must not hold anybody up: made at once, or kept on disk and made before the next one.

A kept call is a JSON file of names and URIs, never of data: playing it again reads the truth anew. Calls are played in
the order in which they were kept, by one process at a time. One that the service never answers must not hold back the
others: after TRIES it goes to the end of the line, and is set aside once another was answered while it was not.
"""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.atomic import drafted
from tasks.domain.errors import FreshrankError, Unavailable

log = logging.getLogger("freshrank.mirror")
Play = Callable[..., None]
TRIES = 20  # with the pauses of tasks/registry_mirror.py half an hour
REFUSED, ASIDE = "refused", "aside"
LONGEST_S = 60.0  # of one flush: a service that answers slowly must not hold a step up for all that waits


class Mirror:
    """A folder of kept calls in front of a service that may be down."""

    def __init__(self, folder: Path, plays: Mapping[str, Play]) -> None:
        self.folder = folder
        self._plays = plays

    def call(self, name: str, **arguments: Any) -> bool:
        """Make this call, after those that are still waiting. False: it is kept for later, or it was refused for good.

        Nothing escapes: a step must not fail, or run twice, because its mirror image could not be made.
        """
        if name not in self._plays:
            raise ValueError(f"{name!r} is no call of this mirror: {', '.join(self._plays)}")
        try:
            kept = self._keep({"call": name, "arguments": arguments})
            self.flush()
        except OSError as err:
            log.warning("mirror=%s call=%s outcome=lost error=%r", self.folder.name, name, err)
            return False
        return not kept.exists() and not any((self.folder / off / kept.name).exists() for off in (REFUSED, ASIDE))

    def waiting(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def left(self, off: str) -> list[Path]:
        """What was taken out of the line: REFUSED (the service said no) or ASIDE (it never answered)."""
        return sorted((self.folder / off).glob("*.json"))

    def flush(self) -> None:
        """Play what waits, oldest first, until it is done, the service does not answer, or `LONGEST_S` have passed."""
        with self._alone() as mine:
            if not mine:
                return  # another process is playing, and takes ours too or leaves it to the next call
            until, answered = time.monotonic() + LONGEST_S, False
            for path in sorted(self.waiting(), key=lambda one: (_tries(one) >= TRIES, one)):
                if time.monotonic() > until:
                    log.warning("mirror=%s waiting=%d error='slow'", self.folder.name, len(self.waiting()))
                    return
                try:
                    kept = json.loads(path.read_text())
                    self._plays[kept["call"]](**kept["arguments"])
                except Unavailable as err:
                    if answered and _tries(path) >= TRIES:  # the service is well, so it is this call
                        self._take_out(path, ASIDE, err)
                        continue
                    _write(path, kept | {"tries": _tries(path) + 1, "error": str(err)})
                    log.warning("mirror=%s waiting=%d error=%r", self.folder.name, len(self.waiting()), str(err))
                    return
                except FreshrankError as err:
                    self._take_out(path, REFUSED, err)
                except Exception as err:  # a bug or a damaged file must stop neither the step nor the queue
                    self._take_out(path, REFUSED, err)
                else:
                    answered = True
                    path.unlink()

    def _keep(self, call: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(3)}.json"
        _write(path, call)
        return path

    def _take_out(self, path: Path, to: str, err: Exception) -> None:
        folder = self.folder / to
        folder.mkdir(exist_ok=True)
        path.replace(folder / path.name)
        log.warning("mirror=%s call=%s outcome=%s error=%r", self.folder.name, path.name, to, err)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def _write(path: Path, call: Mapping[str, Any]) -> None:
    with drafted(path) as draft:
        draft.write_text(json.dumps(call, sort_keys=True))


def _tries(path: Path) -> int:
    """How often the service did not answer this call; 0 of a file that cannot be read, which is refused when played."""
    try:
        return int(json.loads(path.read_text()).get("tries", 0))
    except (OSError, ValueError, AttributeError, TypeError):
        return 0
