"""`python -m tasks.controller.fetch RELEASE --link DIR`: a release and its view into this pod, checked, before it serves.

For pods of one release, where no controller shares their disk. DIR/src and DIR/view are links to what was fetched, so that
the pod's command line need not know which view the release names.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tasks.adapters.signing import public_keys
from tasks.adapters.store import open_store
from tasks.controller.pull import Library, ReleaseLibrary
from tasks.domain.errors import FreshrankError
from tasks.settings import Settings


def fetch(library: Library, release: str, links: Path) -> None:
    """Pull `release`, check every byte and the signature, then point `links` at it. Repeating it is harmless.

    Raises:
        InputRejected: no such release, a damaged file, or no signature of a trusted key: a restart would say the same.
        Unavailable: the store does not answer.
    """
    local = library.pull(release)
    library.verify(release)
    links.mkdir(parents=True, exist_ok=True)
    for name, target in (("src", local.src), ("view", local.view)):
        draft = links / f".{name}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(links / name)


def main(given: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m tasks.controller.fetch", description=__doc__)
    parser.add_argument("release", help="the whole digest")
    parser.add_argument("--link", type=Path, required=True, metavar="DIR")
    asked = parser.parse_args(given)
    try:
        settings = Settings()
        root = settings.data / "serving"
        library = ReleaseLibrary(root, lambda: open_store(settings), public_keys(settings))
        fetch(library, asked.release, asked.link)
    except FreshrankError as err:
        logging.getLogger(__name__).error("event=refused why=%s", err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
