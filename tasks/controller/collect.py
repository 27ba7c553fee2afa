"""Old releases leave this machine's disk; the store keeps them. Never what serves, what served before, what is rolled out,
the last champions, or what a person pinned."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from tasks.adapters.shelf import Shelf
from tasks.controller.reconcile import Reconciler
from tasks.domain.errors import FreshrankError
from tasks.domain.rollout_log import short
from tasks.domain.rollout_state import needed

log = logging.getLogger(__name__)
EVERY_S = 600.0
YOUNG_S = 3600.0  # just pulled, or just made here: its rollout may be about to be submitted
LOGS_KEPT_S = 14 * 86_400.0


class Collector:
    """retire: takes a view out of the online store, where nothing else ever removes one."""

    def __init__(
        self, loop: Reconciler, shelf: Shelf, logs: Path, retire: Callable[[str], None] = lambda view: None
    ) -> None:
        self._loop = loop
        self._shelf = shelf
        self._logs = logs
        self._retire = retire

    async def run(self) -> None:
        """Until cancelled. What fails is told and tried again."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.collect()
            except (FreshrankError, OSError) as err:
                log.warning("event=not-collected why=%s", err)

    async def collect(self) -> list[str]:
        """The releases that went. Nothing goes while a rollout runs or a release is fetched: it may share a view."""
        # what a crash left in the trash would be in the way of the same release, if it came and went again
        await asyncio.to_thread(self._shelf.empty_trash)
        held, views, pins = await asyncio.to_thread(
            lambda: (self._shelf.held(), self._shelf.views(), self._shelf.pins())
        )
        # from here to the renames nothing is awaited: nobody can begin to need what is found not needed
        state = self._loop.state()
        here = {one.release for one in held}
        if state.rollout is not None or state.champion is None or set(self._loop.wanted(state)) - here:
            return []
        kept = needed(state) | self._loop.held | set(self._loop.launcher.replicas()) | pins.keys()
        young = time.time() - YOUNG_S
        old = {one.release for one in held if one.release not in kept and one.used < young}
        views_kept = {one.view for one in held if one.release not in old}
        views_gone = {view for view in views if view not in views_kept} if old else set[str]()
        self._shelf.take_away(old, views_gone)
        for release in sorted(old):
            log.info("release=%s event=collected", short(release))
        await asyncio.to_thread(self._clean)
        for view in sorted(views_gone):
            await asyncio.to_thread(self._retire, view)
        return sorted(old)

    def _clean(self) -> None:
        self._shelf.empty_trash()
        running = {one.name for group in self._loop.launcher.replicas().values() for one in group.all}
        for path in self._logs.glob("replica-*.log*"):
            name = path.name.removeprefix("replica-").split(".log")[0]
            if name not in running and path.stat().st_mtime < time.time() - LOGS_KEPT_S:
                path.unlink(missing_ok=True)
