"""Merchandising rules at work: an ordered list in, the list that may be shown out. The folder is looked at each second.

Rules are applied to what the model made, before the answer is cut to its length, so that blocked items leave no gap.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from tasks.domain.merchandising import Cap, Merchandising, Revision, query_key
from tasks.domain.requests import RankRequest
from tasks.ranker.arrays import Ints
from tasks.ranker.rank import Ranking
from tasks.ranker.state import ItemState
from tasks.serving.diversity import diversified

log = logging.getLogger("freshrank.serving")
LOOK_EVERY_S = 1.0
NAME = re.compile(r"(\d{8})\.json")


class Merchandiser:
    """The rules of one revision, spelled in the rows of one release. Any thread may use it: it never changes."""

    def __init__(self, revision: int, rules: Merchandising, items: ItemState) -> None:
        self.revision = revision
        self._items = items
        self._hidden_ids = rules.hidden
        hidden = items.rows(self._hidden_ids)
        self._hidden = np.zeros(items.size + 1, bool)  # the last one is row -1: an item that the state does not know
        self._hidden[hidden[hidden >= 0]] = True
        self._pinned = {query_key(one.query): one.items for one in rules.pinned}
        self._caps = [(cap, getattr(items, cap.by)) for cap in rules.caps]
        self._diversity = rules.diversity
        self.explored = rules.explored

    def arranged(self, request: RankRequest, rows: Ints, ranked: Ranking) -> tuple[Ints, Ranking]:
        """(rows, ranking) as `ranked` is over `rows`, with hidden items left out, pinned ones first, the next ones
        diverse, and caps kept.

        Scores of items that moved are levelled with their new neighbours: along a list they never rise.
        """
        shown = self._may_be_shown(request.candidates, rows, ranked.order)
        order, scores = ranked.order[shown], ranked.scores[shown]
        rows, pinned = self._pinned_places(request, rows)
        if len(pinned):
            rest = ~np.isin(order, pinned)
            best = np.full(len(pinned), scores[0] if len(scores) else np.float32(0), np.float32)
            order, scores = np.r_[pinned, order[rest]], np.r_[best, scores[rest]]
        if self._diversity is not None:
            places = diversified(self._diversity, self._items, rows[order], scores, len(pinned))
            order, scores = order[places], scores[places]
        for cap, codes in self._caps:
            places = capped(cap, codes, rows[order], len(pinned))
            order, scores = order[places], scores[places]
        return rows, Ranking(order, np.minimum.accumulate(scores), ranked.stage)

    def kept_places(self, request: RankRequest, items: Sequence[str]) -> list[int]:
        """Places of a list made by `arranged` whose border to the next one exploration leaves alone.

        Rules made the order of diverse lists, pinned items and what is behind a cap: levelled scores are no near ties.
        """
        if self._diversity is not None:
            return list(range(len(items)))
        wanted = self._wanted(request)
        pinned = next((place for place, item in enumerate(items) if item not in wanted), len(items))
        behind = min((cap.first - 1 for cap, _ in self._caps), default=len(items))
        return [*range(pinned), *range(behind, len(items))]

    def _wanted(self, request: RankRequest) -> tuple[str, ...]:
        """Items that are pinned to such a request."""
        return self._pinned.get(query_key(request.query if request.surface == "search" else None), ())

    def _may_be_shown(self, candidates: Sequence[str] | None, rows: Ints, order: Ints) -> np.ndarray:
        shown: np.ndarray = ~self._hidden[rows[order]]
        if candidates is not None:  # an item that this release does not know yet may be blocked all the same
            for place in np.flatnonzero(rows[order] < 0).tolist():
                shown[place] = candidates[order[place]] not in self._hidden_ids
        return shown

    def _pinned_places(self, request: RankRequest, rows: Ints) -> tuple[Ints, Ints]:
        """Positions of the pinned items, and the rows with those that were not retrieved behind them."""
        if not self._pinned:
            return rows, np.zeros(0, np.int32)
        wanted = [item for item in self._wanted(request) if item not in self._hidden_ids]
        if not wanted:
            return rows, np.zeros(0, np.int32)
        if request.candidates is not None:
            place_of = {item: place for place, item in enumerate(request.candidates)}
            return rows, np.array([place_of[item] for item in wanted if item in place_of], np.int32)
        pinned = self._items.rows(wanted)
        pinned = pinned[pinned >= 0]
        new = pinned[~np.isin(pinned, rows)]
        rows = np.r_[rows, new].astype(np.int32)
        place_of_row = {row: place for place, row in enumerate(rows.tolist())}
        return rows, np.array([place_of_row[row] for row in pinned.tolist()], np.int32)


def capped(cap: Cap, codes: Ints, rows: Ints, pinned: int) -> Ints:
    """Places of `rows` in an order that keeps the cap: what is too many moves behind the first `cap.first`, in its order.

    Pinned items, which are the first, stay and count; unknown items count for nothing. Where the list has too few others,
    what was moved fills the gap: a cap hides nothing.
    """
    seen: dict[int, int] = {}
    first: list[int] = []
    moved: list[int] = []
    for place, row in enumerate(rows.tolist()):
        if len(first) == cap.first:
            break
        code = int(codes[row]) if row >= 0 else -1
        if code >= 0 and place >= pinned and seen.get(code, 0) >= cap.most:
            moved.append(place)
            continue
        seen[code] = seen.get(code, 0) + 1
        first.append(place)
    rest = range(len(first) + len(moved), len(rows))
    return np.array([*first, *moved, *rest], np.int32)


class Watch:
    """The newest revision in a folder of them, told to `use` when it changes. One that cannot be read is not used."""

    def __init__(self, folder: Path, use: Callable[[Revision], None], every_s: float = LOOK_EVERY_S) -> None:
        self._folder, self._use, self._every_s = folder, use, every_s
        self._used = 0
        self._refused: set[int] = set()
        self._told: set[int] = set()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="merchandise", daemon=True)

    def start(self) -> None:
        """Use what is there, before anybody is answered, and look again each second from now on."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        self._left.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        new = {number for number in revisions(self._folder) if number > self._used} - self._refused
        for number in sorted(new, reverse=True):
            try:  # a rule that only later versions know does not make this release deaf to a recall beside it
                told = Revision.model_validate_json(path_of(self._folder, number).read_bytes(), extra="ignore")
            except (OSError, ValidationError) as err:
                if isinstance(err, ValidationError):
                    self._refused.add(number)  # its bytes stay as they are; what the disk refuses now it may give later
                if number not in self._told:
                    log.error(
                        "merchandising=%d state=unreadable error=%s the one before stays", number, type(err).__name__
                    )
                self._told.add(number)
                continue
            self._use(told)
            self._used = number
            log.info("merchandising=%d state=in_force %s", number, told.rules.sentence)
            return

    def _run(self) -> None:
        while not self._left.wait(self._every_s):
            try:
                self.look()
            except Exception as err:  # answers go on by the rules of before; the next second tries again
                log.error("merchandising=unknown error=%s", type(err).__name__)


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.json"


def revisions(folder: Path) -> list[int]:
    """Numbers of the revisions in a folder; none where it is missing."""
    try:
        return [number for path in folder.iterdir() if (number := number_of(path.name)) is not None]
    except FileNotFoundError:
        return []


def number_of(name: str) -> int | None:
    """Of the revision that a file of this name holds."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None
