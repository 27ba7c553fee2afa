"""HEALTHCHECK of every image: the page in HEALTH_URL answers 200; without one, the home can still be written."""

from __future__ import annotations

import os
import sys
import tempfile
import urllib.error
import urllib.request


def problem() -> str | None:
    url = os.environ.get("HEALTH_URL")
    try:
        if url:
            with urllib.request.urlopen(url, timeout=4):  # raises for 400 and above
                return None
        with tempfile.TemporaryFile(dir=os.environ["FRESHRANK_HOME"]) as probe:
            probe.write(b"1")
    except (OSError, ValueError) as err:
        return f"{url or os.environ['FRESHRANK_HOME']}: {err}"
    return None


if __name__ == "__main__":
    sys.exit(problem())
