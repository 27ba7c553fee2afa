"""Talk to the controller: for the command line, the DAGs and the steps. Its refusals arrive as the errors it raised."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

import httpx

from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.settings import Settings

ENDED = ("promoted", "aborted", "rolled_back", "failed")
POLL_S = 0.5


class ControllerClient:
    """One connection pool. What breaks is sent again once: reads change nothing, and writes carry a key."""

    def __init__(
        self, settings: Settings, timeout_s: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._url = settings.url("controller")
        headers = {"authorization": f"Bearer {settings.secrets.controller_token}"}
        self._http = httpx.Client(base_url=self._url, timeout=timeout_s, headers=headers, transport=transport)

    def status(self) -> dict[str, Any]:
        """{champion, challenger, previous, weights, rollout, frozen, revision}."""
        return self._get("/status")

    def replicas(self) -> list[tuple[str, str]]:
        """(host:port, first digits of its release) of every replica on this machine."""
        return [(one["targets"][0], one["labels"]["release"]) for one in self._ask("GET", "/targets")]

    def submit(
        self,
        *,
        release: str,
        kind: Literal["bootstrap", "canary"],
        actor: str,
        reason: str,
        idempotency_key: str,
        policy: dict[str, Any] | None = None,
        expected_champion: str | None = None,
    ) -> dict[str, Any]:
        """Start a rollout, or find the one that this key started: {rollout, revision}."""
        body: dict[str, Any] = {"release": release, "kind": kind, "policy": policy, "actor": actor, "reason": reason}
        body |= {"idempotency_key": idempotency_key, "expected_champion": expected_champion}
        return self._post("/rollouts", body)

    def rollout(self, rollout: str) -> dict[str, Any]:
        return self._get(f"/rollouts/{rollout}")

    def wait(
        self, rollout: str, *, deadline_s: float = 600, on_change: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Follow a rollout to its end, through restarts of the controller, and return it.

        Raises:
            Unavailable: it has not ended in time. It goes on without the caller.
        """
        until, last = time.monotonic() + deadline_s, ("", "")
        while True:
            try:
                found = self.rollout(rollout)
                if on_change and (found["state"], found["step"]) != last:
                    on_change(found)
                last = (found["state"], found["step"])
                if found["state"] in ENDED:
                    return found
            except Unavailable:
                if time.monotonic() > until:
                    raise
            if time.monotonic() > until:
                where = " ".join(last)
                raise Unavailable(f"{rollout} is still {where} after {deadline_s:.0f} s; `freshrank status` follows it")
            time.sleep(POLL_S)

    def rollback(
        self, *, actor: str, reason: str, to: str | None = None, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """{from, to, seconds, changed}, once no new request reaches `from`."""
        return self._post("/rollback", {"to": to} | _press(actor, reason, idempotency_key), timeout_s=90)

    def abort(self, *, actor: str, reason: str, idempotency_key: str | None = None) -> dict[str, Any]:
        return self._post("/abort", _press(actor, reason, idempotency_key), timeout_s=30)

    def freeze(self, *, actor: str, reason: str, idempotency_key: str | None = None) -> dict[str, Any]:
        return self._post("/freeze", _press(actor, reason, idempotency_key))

    def unfreeze(self, *, actor: str, reason: str, idempotency_key: str | None = None) -> dict[str, Any]:
        return self._post("/unfreeze", _press(actor, reason, idempotency_key))

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", "/log", params={"after": after})
        return found

    def pins(self) -> dict[str, Any]:
        """Release -> {actor, reason}: what a person pinned where the controller runs, which may be another machine than ours."""
        return self._get("/pins")

    def served_at(self, moment: str) -> dict[str, Any]:
        """What served at an ISO time, and the row that made it so."""
        return self._get("/served-at", time=moment)

    def _get(self, path: str, **params: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", path, params=params)
        return found

    def _post(self, path: str, body: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        extra = {"timeout": timeout_s} if timeout_s else {}
        found: dict[str, Any] = self._ask("POST", path, json=body, **extra)
        return found

    def _ask(self, method: str, path: str, **given: Any) -> Any:
        for attempt in (1, 2):
            try:
                reply = self._http.request(method, path, **given)
                break
            except httpx.TimeoutException as err:
                why = f"the controller at {self._url} did not answer {path} in time; what it was told may still happen"
                raise Unavailable(why) from err
            except httpx.HTTPError as err:
                if attempt == 2:
                    raise Unavailable(
                        f"the controller at {self._url} does not answer ({type(err).__name__}); "
                        f"traffic stays as it is. See logs/controller.log, or start the stack: `make run`"
                    ) from err
        if reply.is_success:
            return reply.json()
        raise _error(reply)


def told_of_rollback(done: dict[str, Any]) -> str:
    """What a rollback did, in one sentence."""
    if not done.get("changed", True):
        return f"nothing to do: {done['reason']}"
    if done["to"] is None:
        return (
            f"stopped {done['from'][:12]} in {done['seconds']:.2f} s; nothing served before it, so nothing serves now"
        )
    return f"rolled back from {done['from'][:12]} to {done['to'][:12]} in {done['seconds']:.2f} s"


def _press(actor: str, reason: str, idempotency_key: str | None) -> dict[str, Any]:
    return {"actor": actor, "reason": reason, "idempotency_key": idempotency_key or uuid.uuid4().hex}


def _error(reply: httpx.Response) -> Exception:
    try:
        said = str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = f"the controller answered {reply.status_code}: {reply.text[:200]}"
    kind = Unavailable if reply.status_code >= 500 else Conflict if reply.status_code == 409 else InputRejected
    return kind(said)
