"""`finetune` in a Job of several pods: this step starts it, waits, and takes what it made. Nobody else creates or ends it.

The pods run tasks/finetune_together.py under torchrun; they and this step's pod share one file system, and dataset, checkpoint
and results travel by no other way. Rendered, parsed, and played by processes in tests: run on Kubernetes it was not.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

import yaml

from tasks.adapters.kubernetes_api import Object, in_cluster
from tasks.adapters.kubernetes_jobs import LOOKS_EVERY_S, Jobs, run_job
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.manifest import digest_of
from tasks.domain.recipe import Recipe
from tasks.finetune_together import OUT, REFUSED, SUMMARY, asked, told_by

log = logging.getLogger("freshrank.finetune")
NAME, REQUEST = "0" * 12, "REQUEST"  # in the pattern, where the digest of the step's work and its request go


def finetune_in_cluster(
    dataset: Path,
    recipe: Recipe,
    workdir: Path,
    out: Path,
    seed: int,
    threads: int,
    champion: Path | None,
    pattern: Path,
    api: Jobs | None = None,
    every_s: float = LOOKS_EVERY_S,
) -> dict[str, Any]:
    """As tasks.finetune.finetune, by the pods of the Job in `pattern`.

    A retry of this step, or a second live copy of it, joins the Job that runs; after a failed one it starts the next, which
    goes on from the checkpoint.

    Raises:
        InputRejected: what the training itself raised, or the Job is not to be had. Unavailable: the Job failed.
    """
    # a refusal from before may be of what was mended since, the pods' image say: its Job is followed by another
    refused_before = {path.parent.name for path in workdir.glob(f"*/{REFUSED}")}
    request = asked(workdir, dataset, recipe, None, seed, threads, champion)
    job = job_of(pattern, digest_of(str(workdir))[: len(NAME)], request)

    def has_results(uid: str) -> bool:
        return uid not in refused_before and any((workdir / uid / name).exists() for name in (SUMMARY, REFUSED))

    def told(now: str) -> None:
        log.info("job=%s %s", job["metadata"]["name"], now)

    async def run() -> str:
        if api is not None:
            return await run_job(api, job, has_results, told, every_s)
        ours = in_cluster("train_job", "train on the machine of the step")
        try:
            return await run_job(ours, job, has_results, told, every_s)
        finally:
            await ours.aclose()

    made = workdir / asyncio.run(run())
    summary = told_by(made)
    if summary is None:
        raise Unavailable(f"{made / SUMMARY} was there and is gone; a retry trains again from the checkpoint")
    shutil.copytree(made / OUT, out, dirs_exist_ok=True)
    return summary


def job_of(pattern: Path, digest: str, request: Path) -> Object:
    """The chart's Job for this request. Raises InputRejected where the file holds none."""
    try:
        text = pattern.read_text().replace(NAME, digest)
        found = [one for one in yaml.safe_load_all(text) if isinstance(one, dict) and one.get("kind") == "Job"]
        (job,) = found
        (container,) = job["spec"]["template"]["spec"]["containers"]
        container["args"] = [str(request) if one == REQUEST else one for one in container["args"]]
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as err:
        raise InputRejected(
            f"train_job is {pattern}, which holds no Job to train in ({type(err).__name__}); the chart makes that file "
            f"(infra/helm/freshrank/templates/training.yaml)"
        ) from err
    ours: Object = job
    return ours
