"""A Job of the cluster that a step starts and waits for. Its name is the step's: two live copies of the step share one Job.

What the Job writes is named by its uid, which the API server gives out once: pods of a Job that was replaced, and that
nobody could reach to stop them, write where no one reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from tasks.adapters.kubernetes_api import Object
from tasks.domain.errors import Unavailable

LOOKS_EVERY_S = 5.0
LOOKS_FOR_RESULTS = 24  # two minutes: a shared file system may show a new file that late


class Jobs(Protocol):
    """What is needed of KubernetesApi."""

    async def get(self, kind: str, name: str) -> Object | None: ...
    async def create(self, body: Object) -> bool: ...
    async def delete_exactly(self, kind: str, name: str, uid: str) -> None: ...


async def run_job(
    api: Jobs, job: Object, has_results: Callable[[str], bool], on_change: Callable[[str], None], every_s: float
) -> str:
    """Start the Job, or join the one of its name, and wait for its end; its uid.

    A Job that had failed before we came is an earlier try's: it is replaced. One that fails under our eyes is ours to report.

    Args:
        has_results: uid -> whether what a Job of that uid should have written is there.

    Raises:
        Unavailable: it failed, was deleted, or left no results. InputRejected: the API server does not take it.
    """
    name, running, earlier, looks, said = str(job["metadata"]["name"]), "", "", 0, ""
    while True:
        found = await api.get("Job", name)
        if found is None:
            if running:
                raise Unavailable(f"Job {name} was deleted while it ran; a retry goes on from the checkpoint")
            await api.create(job)  # a copy of this step may be first: then its Job is the Job
            continue
        uid, how = str(found["metadata"]["uid"]), state(found)
        if (now := f"state={how} {pods(found)}") != said:
            on_change(now)
            said = now
        if how == "complete" and has_results(uid):
            return uid
        if how == "complete" and looks < LOOKS_FOR_RESULTS:
            looks += 1
        elif how in ("complete", "failed"):
            if running == uid or earlier not in ("", uid):
                raise Unavailable(
                    f"Job {name} ended as {how}{why(found)}; `kubectl logs --selector job-name={name}` has its last lines, and a "
                    f"retry goes on from the checkpoint"
                )
            earlier, looks = uid, 0
            await api.delete_exactly("Job", name, uid)
        elif how == "running":
            running = uid
        await asyncio.sleep(every_s)


def state(job: Object) -> str:
    """running, complete, failed; or going, where it is being deleted."""
    if job["metadata"].get("deletionTimestamp"):
        return "going"
    held = {one["type"] for one in job.get("status", {}).get("conditions") or () if one.get("status") == "True"}
    return "complete" if "Complete" in held else "failed" if "Failed" in held else "running"


def pods(job: Object) -> str:
    status = job.get("status", {})
    return " ".join(f"{name}={status.get(name) or 0}" for name in ("active", "succeeded", "failed"))


def why(job: Object) -> str:
    for one in job.get("status", {}).get("conditions") or ():
        if one["type"] == "Failed" and one.get("status") == "True":
            return f" ({one.get('reason', 'no reason given')}: {one.get('message', '')[:200]})"
    return " without results"
