"""Progress that a person sees: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import re
import sys
import time
from typing import Any, Self

from tqdm import tqdm

EVERY_S = 5.0
SAID = re.compile(r"[a-z][\w -]*: \d+/\d+ \w+ \(\d+ %\), \d+ s.*")


def last_said(log: str) -> str:
    """The latest progress line in a step's log, or nothing."""
    found = SAID.findall(log)
    return found[-1] if found else ""


class Progress:
    """`with Progress("train", total) as bar: bar.advance(1, "loss 1.23")`."""

    def __init__(self, label: str, total: int, unit: str = "it") -> None:
        self.label, self.total, self.unit, self.done, self._note = label, total, unit, 0, ""
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=label, unit=unit, file=sys.stderr, disable=not self._terminal)
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
        if error[0] is None and self.done:
            self._say()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done, self._note = self.done + amount, note or self._note
        self._bar.update(amount)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        if time.monotonic() - self._said >= EVERY_S and self.done < self.total:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        if not self._terminal:
            share = 100 * self.done / max(self.total, 1)
            sys.stderr.write(
                f"{self.label}: {self.done}/{self.total} {self.unit} ({share:.0f} %), "
                f"{self._said - self._began:.0f} s{', ' if self._note else ''}{self._note}\n"
            )
            sys.stderr.flush()
