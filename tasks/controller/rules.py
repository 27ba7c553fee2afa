"""`python -m tasks.controller.rules DIR`: the merchandising rules of the store into this pod, seconds after a change.

For pods whose disk no `freshrank items` writes to. DIR is the folder that the pod's replica looks at; it is made once the
store has answered, so that whoever waits for it starts with the rules of now. After that nothing ends it: where the store
does not answer, the rules of before stay.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from tasks.adapters.merchandising import InStore, Kept
from tasks.adapters.store import open_store
from tasks.atomic import write_first
from tasks.domain.errors import FreshrankError
from tasks.serving.merchandise import path_of, revisions
from tasks.settings import Settings

log = logging.getLogger("freshrank.rules")
LOOK_EVERY_S = 2.0
LIST_EVERY = 30  # looks; between two lists only the next number is asked for, at a twelfth of a list's price on S3
KEPT_HERE = 5  # a replica that starts again goes back to an older one where the newest cannot be read


def bring(kept: Kept, folder: Path, *, listed: bool) -> bool:
    """Whether a revision came that was not here: of all the newest, or, without a list, the next."""
    have = max(revisions(folder), default=0)
    number = max(kept.numbers(), default=0) if listed else have + 1
    content = kept.read(number) if number > have else None
    folder.mkdir(parents=True, exist_ok=True)
    if content is None:
        return False
    write_first(path_of(folder, number), content)
    for old in revisions(folder):
        if old <= number - KEPT_HERE:
            path_of(folder, old).unlink(missing_ok=True)
    log.info("merchandising=%d event=brought", number)
    return True


def follow(kept: Kept, folder: Path, left: threading.Event) -> None:
    """Bring what is new until `left` is set."""
    looks = 0
    while not left.is_set():
        try:
            while bring(kept, folder, listed=looks % LIST_EVERY == 0):
                pass
            looks += 1
        except (FreshrankError, OSError) as err:
            log.warning("event=not_brought why=%s; the rules of before stay", err)
        left.wait(LOOK_EVERY_S)


def main(given: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m tasks.controller.rules", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args(given).folder
    left = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: left.set())  # else process 1 of a container would not hear it
    try:
        follow(InStore(open_store(Settings())), folder, left)
    except FreshrankError as err:
        log.error("event=refused why=%s", err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
