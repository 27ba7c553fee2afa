"""The release console: one page, the numbers it polls, and the decision page of a release. Reads only; its buttons post to
the controller's own routes.

Nobody can press for somebody else: a change needs the token in a header, which no other site can send from a browser,
and nothing here reads a cookie. The page's policy lets no script run but its own, and no frame hold it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tasks.atomic import drafted
from tasks.controller.commands import Commands
from tasks.controller.live import Live
from tasks.controller.reconcile import Reconciler
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.rollout import PENDING
from tasks.domain.rollout_commands import checked_release
from tasks.domain.rollout_log import short

PAGE = Path(__file__).parent / "page"
ROWS_SHOWN = 40
DECISION_S = 60.0
COMMAND = (sys.executable, "-c", "from tasks.cli import main; main()")


class Console:
    """`alerts` says which fire now, `decisions` is where pages of decisions are kept."""

    def __init__(
        self,
        commands: Commands,
        reconciler: Reconciler,
        live: Live,
        *,
        alerts: Callable[[], list[dict[str, Any]]],
        decisions: Path,
    ) -> None:
        self._commands = commands
        self._loop = reconciler
        self._live = live
        self._alerts = alerts
        self._decisions = decisions
        self._explaining = asyncio.Semaphore(1)  # it imports a lot: one at a time, in a process of its own
        self._page, self._policy = _assembled()

    def routes(self) -> list[Route]:
        return [
            Route("/", self._show),
            Route("/console/data", self._data),
            Route("/decision/{release}", self._decision),
        ]

    def data(self) -> dict[str, Any]:
        """What the page draws: the status, the rollout with its ladder and findings, the last rows, points and alerts."""
        status = self._commands.status()
        return status | {
            "rollout": self._rollout(status["rollout"]),
            "rows": self._commands.rows(max(0, status["revision"] - ROWS_SHOWN)),
            "points": self._live.points(),
            "alerts": self._alerts(),
            "now": self._loop.clock().isoformat(timespec="milliseconds"),
        }

    def _rollout(self, told: dict[str, Any] | None) -> dict[str, Any] | None:
        if told is None:
            return None
        found = self._loop.state().find(told["id"])
        assert found is not None
        steps = [found.policy.step_name(step) for step in range(PENDING, found.policy.last_step + 1)]
        if found.kind == "bootstrap":
            steps = steps[:1]
        entered = {"steps": steps, "entered": found.entered.isoformat()}
        return told | entered | {"observations": self._commands.rollout(told["id"])["observations"]}

    async def _show(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=_headers(self._policy))

    async def _data(self, request: Request) -> Response:
        return JSONResponse(self.data(), headers={"cache-control": "no-store"})

    async def _decision(self, request: Request) -> Response:
        release = checked_release(request.path_params["release"])
        kept = self._decisions / f"{release}.html"
        if not kept.exists():
            async with self._explaining:
                if not kept.exists():
                    await self._explain(release, kept)
        return HTMLResponse(
            kept.read_text(), headers=_headers("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
        )

    async def _explain(self, release: str, kept: Path) -> None:
        """By `freshrank explain`, as a child: what it imports and the store it opens have no place in this process."""
        partition = self._loop.library.describe(release).get("partition")
        if not partition:
            raise InputRejected(
                f"release {short(release)} is not on this machine; `freshrank explain DAY` has its decision"
            )
        with drafted(kept) as draft:
            command = [*COMMAND, "explain", str(partition), "--page", str(draft), "--json"]
            child = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            try:
                out, err = await asyncio.wait_for(child.communicate(), DECISION_S)
            except TimeoutError:
                child.kill()
                await child.wait()
                raise Unavailable(
                    f"the decision of {partition} was not put together in {DECISION_S:.0f} s; try again"
                ) from None
            if child.returncode:
                said = err.decode(errors="replace").strip().splitlines()
                raise Unavailable(f"no decision page for {short(release)}: {said[-1] if said else child.returncode}")
            if json.loads(out)["release"] != release:
                why = f"the latest decision of {partition} is not the one that shipped {short(release)}"
                raise InputRejected(f"{why}; `freshrank lineage {short(release)}` names the right one")


def _assembled() -> tuple[str, str]:
    """The page with its style and script inside, and the policy that allows exactly these two."""
    style, script = ((PAGE / name).read_text() for name in ("console.css", "console.js"))
    page = (PAGE / "console.html").read_text().replace("@STYLE@", style).replace("@SCRIPT@", script)
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _headers(policy: str) -> dict[str, str]:
    return {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
