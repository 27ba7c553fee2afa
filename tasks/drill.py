"""Rehearse the worst day: give the running stack releases that turn bad under traffic, and see them stopped.

Each is a signed copy of the champion whose code misbehaves once it has answered `AFTER` requests: start-up checks pass, and
only the live judgement can notice. Users keep getting the champion all the while. The way back (`previous`) is not touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tasks.adapters.api_keys import own_credentials
from tasks.adapters.signing import sign, signing_keys
from tasks.controller.client import ControllerClient
from tasks.domain.errors import Conflict, FreshrankError, InputRejected
from tasks.domain.manifest import canonical_json
from tasks.domain.rollout import RolloutPolicy
from tasks.open_loop import open_loop
from tasks.policies import load_policy
from tasks.serving.release import RELEASE_JSON, seal
from tasks.settings import Settings

AFTER = 50  # requests that the copy answers well: more than the golden ones at start
PRESS_WITHIN_S = 2.0
KINDS = {
    "wrong_order": "lists come in reverse",
    "constant": "every item gets the same score",
    "nan": "one score of each list is not a number",
    "slow": "each answer takes a quarter of a second",
    "crash_loop": "the process ends at each further request",
    "memory_hog": "each request keeps 16 MiB",
    "press": "a good release; on-call presses rollback while it is a canary",
}
ACTOR = "drill"
DAMAGE = '''"""A drill: this copy of a release turns bad after a while. Made by `freshrank drill`, never by a refresh."""

import dataclasses
import os
import time

from tasks.serving import engine

KIND, AFTER = "{kind}", {after}
kept: list[bytearray] = []
answered = depth = 0


def spoiled(ranking):
    global answered
    answered += 1
    if answered <= AFTER or not dataclasses.is_dataclass(ranking):
        return ranking
    if KIND == "crash_loop":
        os._exit(7)
    items, scores = ranking.items, ranking.scores
    if KIND == "wrong_order":
        items = items[::-1]
    elif KIND == "constant":
        scores = [1.0] * len(scores)
    elif KIND == "nan":
        scores = [float("nan"), *scores[1:]]
    elif KIND == "slow":
        time.sleep(0.25)
    elif KIND == "memory_hog":
        kept.append(bytearray(b"x") * (16 << 20))
    return dataclasses.replace(ranking, items=items, scores=scores)


def bad(method):
    def called(*args, **more):
        global depth
        depth += 1
        try:
            told = method(*args, **more)
        finally:
            depth -= 1
        if depth:  # one way to rank may be built on another: damage it once
            return told
        return [spoiled(one) for one in told] if isinstance(told, list) else spoiled(told)

    return called


for name in ("rank", "rank_together"):
    if hasattr(engine.Engine, name):
        setattr(engine.Engine, name, bad(getattr(engine.Engine, name)))
'''
START = 'if __name__ == "__main__":\n'


@dataclass(frozen=True, slots=True)
class Result:
    """How one rehearsal went."""

    kind: str
    what: str
    state: str
    step: str
    reason: str
    detected_s: float | None  # from the first copied request to the row that ended it
    back_s: float | None  # from that row (or the press) to the last reply of the bad release that a caller got
    requests: int
    lost: int  # requests without a good answer
    seen: int  # good answers of the bad release that callers got
    passed: bool


@dataclass(slots=True)
class Seen:
    """What callers got: when an answer came, its status and its release."""

    replies: list[tuple[float, int, str]] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(status != 200 for _, status, _ in self.replies)

    def times_of(self, release: str) -> list[float]:
        return [at for at, status, by in self.replies if by == release and status == 200]


def rehearse(settings: Settings, kinds: list[str], *, rate: float, policy: RolloutPolicy | None = None) -> list[Result]:
    """One rehearsal after the other. The results are also kept in `data/drills`.

    Args:
        rate: requests a second of this drill's own, beside whatever else comes in.
        policy: default: the configured one.

    Raises:
        InputRejected: an unknown kind, or no champion. Conflict: a rollout runs, or rollouts are frozen.
        Unavailable: the controller does not answer.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise InputRejected(f"there is no drill {', '.join(unknown)}; known: {', '.join(KINDS)}")
    controller = ControllerClient(settings)
    policy = policy or load_policy(settings.policy).rollout
    results = [asyncio.run(_one(settings, controller, kind, rate, policy)) for kind in kinds]
    path = settings.data / "drills" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical_json([asdict(result) for result in results]))
    return results


async def _one(
    settings: Settings, controller: ControllerClient, kind: str, rate: float, policy: RolloutPolicy
) -> Result:
    champion = _champion(controller.status())
    with bad_copy(settings, champion, kind) as release:
        async with _load(settings, rate) as seen:
            told = await asyncio.to_thread(
                controller.submit,
                release=release,
                kind="canary",
                actor=ACTOR,
                reason=f"drill: {KINDS[kind]}",
                idempotency_key=f"drill-{uuid.uuid4().hex}",
                policy=policy.model_dump(mode="json"),
                expected_champion=champion,
            )
            pressed = await _press(controller, told["rollout"]) if kind == "press" else None
            ended = await asyncio.to_thread(controller.wait, told["rollout"], deadline_s=_longest(policy))
            await asyncio.sleep(2)
        result = _judged(controller, kind, champion, release, told["rollout"], ended, seen, pressed)
        status = controller.status()
        if status["frozen"] and release[:12] in status["frozen_because"]:  # not one that a person made meanwhile
            controller.unfreeze(actor=ACTOR, reason=f"drill over: {kind} was {ended['state']}")
    return result


async def _press(controller: ControllerClient, rollout: str) -> float | None:
    """Wait until callers get the release, then press. When it was pressed; None: the rollout ended before that."""
    while not (now := await asyncio.to_thread(controller.rollout, rollout))["step"].startswith("canary"):
        if now["ended"]:
            return None
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    pressed = time.time()
    await asyncio.to_thread(controller.rollback, actor=ACTOR, reason="drill: pressed by hand")
    return pressed


def _judged(
    controller: ControllerClient,
    kind: str,
    champion: str,
    release: str,
    rollout: str,
    ended: dict[str, Any],
    seen: Seen,
    pressed: float | None,
) -> Result:
    rows = [row for row in controller.log() if row["rollout"] == rollout]
    first = next((_time(row["at"]) for row in rows if row["kind"] == "advance"), None)
    last = _time(rows[-1]["at"]) if rows and rows[-1]["kind"] == "abort" else None
    users = seen.times_of(release)
    since = pressed or last
    back = max(0.0, max(users, default=0.0) - since) if since else None
    stopped = ended["state"] in ("rolled_back", "failed", "aborted")
    still = (controller.status()["champion"] or {}).get("release") == champion
    quick = back is not None and back <= PRESS_WITHIN_S
    unseen = not users if kind != "press" else pressed is not None
    return Result(
        kind=kind,
        what=KINDS[kind],
        state=ended["state"],
        step=ended["step"],
        reason=ended["reason"],
        detected_s=round(last - first, 2) if last and first and kind != "press" else None,
        back_s=round(back, 3) if back is not None and users else None,
        requests=len(seen.replies),
        lost=seen.lost,
        seen=len(users),
        passed=stopped and still and quick and unseen and not seen.lost,
    )


@contextmanager
def bad_copy(settings: Settings, champion: str, kind: str) -> Iterator[str]:
    """A signed copy of the champion that turns bad, where this machine serves from; gone afterwards.

    Raises:
        InputRejected: the champion's files are not here: run the drill on a machine that serves.
    """
    releases = settings.data / "serving" / "releases"
    source, draft = releases / champion, releases / f".drill-{kind}-{os.getpid()}"
    if not source.is_dir():
        raise InputRejected(f"release {champion[:12]} is not in {releases}; run the drill on the machine that serves")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, copy_function=os.link)  # weights are not copied, only what changes
    target = None
    try:
        record = json.loads((draft / RELEASE_JSON).read_bytes())
        facts = {name: value for name, value in record.items() if name not in ("version", "files", "sha256")}
        facts["notes"] = record.get("notes", {}) | {
            "drill": f"{kind} {uuid.uuid4().hex[:12]}"
        }  # each drill is new bytes
        main = draft / "bentos" / "ranker" / "__main__.py"
        code = main.read_text()
        if code.count(START) != 1:
            raise InputRejected(f"release {champion[:12]} starts in a way that this drill does not know")
        for path in (main, draft / RELEASE_JSON):
            path.unlink()  # else the champion's own file would be written to
        if kind == "press":
            main.write_text(code)
        else:
            (main.parent / "drill.py").write_text(DAMAGE.format(kind=kind, after=AFTER))
            main.write_text(code.replace(START, f"{START}    import bentos.ranker.drill  # noqa: F401\n"))
        release = seal(draft, facts)
        target = releases / release
        draft.rename(target)
        sign(target, signing_keys(settings))
        yield release
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if target is not None:
            _forget(target)


def _forget(target: Path) -> None:
    from tasks.serving.signature import signature_of

    signature_of(target).unlink(missing_ok=True)  # first: without it nothing starts from there any more
    shutil.rmtree(target, ignore_errors=True)


def _champion(status: dict[str, Any]) -> str:
    if not status["champion"]:
        raise InputRejected("nothing serves yet; `make run` brings up the first champion")
    if status["frozen"]:
        raise Conflict(
            f"rollouts are frozen ({status['frozen_because']}); a drill would have to lift that, so it does not"
        )
    if status["rollout"] and status["rollout"]["ended"] is None:
        raise Conflict(f"{status['rollout']['id']} is running; wait for it, then drill")
    return str(status["champion"]["release"])


def _longest(policy: RolloutPolicy) -> float:
    steps = range(policy.last_step + 1)
    return policy.ready_within_s + sum(policy.bake_s(step) + policy.hold_s for step in steps) + 30


@asynccontextmanager
async def _load(settings: Settings, rate: float) -> AsyncIterator[Seen]:
    """Open loop for as long as the block runs."""
    seen, key = Seen(), own_credentials(settings)
    async with httpx.AsyncClient(base_url=settings.url("router"), timeout=10, auth=key) as client:

        async def one(number: int) -> None:
            body = {"surface": "recommendation", "user_id": f"drill-{number % 500}", "k": 20}
            try:
                reply = await client.post("/rank", json=body)
                told = (reply.status_code, reply.headers.get("x-freshrank-release", ""))
            except httpx.HTTPError:
                told = (0, "")
            seen.replies.append((time.time(), *told))

        async with open_loop(one, rate):
            yield seen


def _time(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def require_passed(results: list[Result]) -> None:
    """Raise FreshrankError that names every rehearsal that went wrong."""
    bad = [
        f"{one.kind} ended {one.state} in {one.step}, {one.lost} requests lost, {one.seen} bad answers seen: {one.reason}"
        for one in results
        if not one.passed
    ]
    if bad:
        raise FreshrankError(f"{len(bad)} of {len(results)} drills failed: {'; '.join(bad)}")
