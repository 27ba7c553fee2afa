"""The steps in the order of the data's path, and how each plain function gets its arguments.

Nothing heavy is imported until a step runs: the Airflow page and the command line read this table.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import step_keys
from tasks.copies import in_use
from tasks.domain.errors import InputRejected
from tasks.run import Call, Step, code_version, lock_digest, read_manifest

if TYPE_CHECKING:
    from tasks.adapters.store import Store
    from tasks.domain.gate import Decision
    from tasks.settings import Settings

log = logging.getLogger("freshrank.steps")


def _ingest(call: Call) -> dict[str, Any]:
    from tasks.ingest import ingest
    from tasks.sources import Source, open_source
    from tasks.sources.feedback import Feedback

    secrets, source = call.settings.secrets, call.settings.source
    opened: Source
    if source == "none":
        opened = Feedback(call.store, call.partition, secrets.pseudonym_key_id, datetime.now(UTC).date().isoformat())
    else:
        opened = open_source(source)
    summary = ingest(
        opened,
        call.store,
        through=call.partition,
        key=bytes.fromhex(secrets.pseudonym_key),
        key_id=secrets.pseudonym_key_id,
    )
    return _written(call.out / "ingest.json", summary)


def _validate_data(call: Call) -> dict[str, Any]:
    from tasks.adapters.partitions import landed_days
    from tasks.validate_data import landed_events, load_policy, validate_data

    by: dict[str, Any] = {}
    if call.settings.tables == "spark":
        from tasks.adapters.spark import SparkRules

        by["caught_by"] = SparkRules(call.settings.spark_master, call.work, lambda day: landed_events(call.store, day))
    days = [day for day in landed_days(call.store) if day <= call.partition]
    return validate_data(days, call.store, load_policy(), call.out, **by)


def _resolve_champion(call: Call) -> dict[str, Any]:
    from tasks.adapters.releases import release_description
    from tasks.resolve_champion import resolve_champion

    # as the key has it: a promotion since then belongs to another run
    status = {role: {"digest": str(call.params[role])} for role in ("champion", "previous") if call.params[role]}
    champion = release_description(call.store, status["champion"]["digest"]) if "champion" in status else {}
    try:
        previous = release_description(call.store, status["previous"]["digest"]) if "previous" in status else None
    except InputRejected:  # retired or taken out since; it is compared for the record only
        previous = None
    return resolve_champion(status, champion, call.out, previous)


def _build_dataset(call: Call) -> dict[str, Any]:
    from tasks.adapters.accepted_days import fetch_accepted
    from tasks.build_dataset import build_dataset
    from tasks.domain.recipe import load_recipe
    from tasks.lineage import PARTITIONS_JSON
    from tasks.training_set import allowed
    from tasks.validate_data import load_policy

    by: dict[str, Any] = {}
    if call.settings.tables == "spark":
        from tasks.adapters.spark_tables import SparkTables

        by["tables"] = SparkTables(call.settings.spark_master, call.work)
    events = fetch_accepted(call.store, through=call.partition, target=call.cache / "accepted")
    summary = build_dataset(
        accepted=events.events,
        plans=events.plans,
        catalogue=events.catalogue,
        partition=call.partition,
        recipe=load_recipe(step_keys.recipe_of(call)),
        cache=call.cache,
        out=call.out,
        champion=_champion_view(call) if "resolve_champion" in call.inputs else None,
        **by,
    )
    _written(call.out / PARTITIONS_JSON, dict(events.digests))
    return summary | {"marked": "; ".join(allowed(summary, load_policy().training))}


def _finetune(call: Call) -> dict[str, Any]:
    from tasks.domain.recipe import load_recipe
    from tasks.finetune import finetune
    from tasks.finetune_in_cluster import finetune_in_cluster
    from tasks.finetune_together import finetune_together, processes_for

    recipe = load_recipe(step_keys.recipe_of(call))
    warm = recipe.training.start == "champion" and "resolve_champion" in call.inputs
    given: dict[str, Any] = {
        "dataset": call.inputs["build_dataset"],
        "recipe": recipe,
        "workdir": call.work,
        "out": call.out,
        "seed": call.seed,
        "threads": call.settings.threads,
        "champion": _champion_release(call) / "release" / "model" if warm else None,
    }
    if call.settings.train_job:
        return finetune_in_cluster(**given, pattern=call.settings.train_job)
    processes = processes_for(call.settings.train_processes)
    return finetune_together(**given, processes=processes) if processes > 1 else finetune(**given)


def _compress(call: Call) -> dict[str, Any]:
    from tasks.compress import compress
    from tasks.domain.recipe import load_recipe

    return compress(
        model=call.inputs["finetune"],
        dataset=call.inputs["build_dataset"],
        recipe=load_recipe(step_keys.recipe_of(call)),
        cache=call.cache,
        out=call.out,
        seed=call.seed,
    )


def _candidate(call: Call) -> Path | None:
    """What compress made; None where the run has no new weights, or none of their variants can serve."""
    made = call.inputs.get("compress")
    return made if made is not None and (made / "model").exists() else None


def _evaluate(call: Call) -> dict[str, Any]:
    from tasks.adapters.user_groups import user_groups
    from tasks.evaluate import evaluate

    return evaluate(
        dataset=call.inputs["build_dataset"],
        candidate=_candidate(call),
        champion=_champion_release(call) if "resolve_champion" in call.inputs else None,
        champion_view=_champion_view(call) if "resolve_champion" in call.inputs else None,
        out=call.out,
        groups=user_groups(call.store, call.partition),
        previous=_previous(call),
    )


def _benchmark(call: Call) -> dict[str, Any]:
    from tasks.bench_history import earlier_benches
    from tasks.benchmark import benchmark
    from tasks.policies import load_policy

    return benchmark(
        dataset=call.inputs["build_dataset"],
        candidate=_candidate(call),
        champion=_champion_release(call),
        champion_view=_champion_view(call),
        out=call.out,
        seed=call.seed,
        limits=load_policy(call.settings.policy).gate.latency_ratio,
        partition=call.partition,
        earlier=earlier_benches(call.store, call.partition),
    )


def _gate(call: Call) -> dict[str, Any]:
    from tasks.domain.champion import read_champion
    from tasks.explain.bundle import ENVIRONMENT, environment
    from tasks.gate import gate
    from tasks.gate_evidence import Compared
    from tasks.policies import load_policy

    _written(call.out / ENVIRONMENT, environment())
    pinned = "resolve_champion" in call.inputs
    compared = Compared(
        candidate=call.inputs.get("compress"),
        champion=_champion_release(call) if pinned and "compress" in call.inputs else None,
        with_release={name: release for name in ("evaluate", "benchmark") if (release := _compared_by(call, name))},
    )
    return gate(
        evaluation=call.inputs["evaluate"],
        measured=call.inputs.get("benchmark"),
        champion=read_champion(call.inputs["resolve_champion"]) if pinned else None,
        policy=load_policy(call.settings.policy).gate,
        out=call.out,
        seed=call.seed,
        asked=str(call.options.get("candidates") or "both"),
        compared=compared,
    )


def _compared_by(call: Call, step: str) -> str | None:
    """The release that an earlier step of this run took for the champion."""
    uri = call.manifests[step].inputs.get("resolve_champion") if step in call.manifests else None
    return str(read_manifest(call.store, uri).summary["release"]) if uri else None


def _package(call: Call) -> dict[str, Any]:
    from tasks.adapters.releases import publish_release
    from tasks.adapters.signing import signing_keys
    from tasks.domain.gate import Decision
    from tasks.domain.refresh import approvable, override_of
    from tasks.erasure.view_without import publish_view
    from tasks.package import package

    decision = Decision.model_validate_json((call.inputs["gate"] / "decision.json").read_text())
    choice = decision.shipped if decision.shipped != "none" else approvable(decision)
    if choice is None or (decision.shipped == "none" and call.options.get("approved") != choice):  # and nobody approved
        raise InputRejected(f"nothing may be packaged: {decision.reason}")
    if decision.shipped == "none":  # a person decided: without a name and a reason nothing is built
        override = override_of(decision, choice, call.options).model_dump(mode="json")
        (call.out / "override.json").write_text(json.dumps(override, indent=1, sort_keys=True))
    champion = _champion_release(call) if "resolve_champion" in call.inputs else None
    # not `work` itself: a second live copy of this step clears what the first one is publishing, and half a release stays
    with tempfile.TemporaryDirectory(dir=call.work) as folder:
        out = Path(folder) / "package"
        summary = package(
            choice=choice,
            candidate=_candidate(call),
            champion=champion,
            dataset=call.inputs["build_dataset"],
            partition=call.partition,
            key_id=call.settings.secrets.pseudonym_key_id,
            bento_home=call.settings.data / "bentoml",
            out=out,
            keys=signing_keys(call.settings),
            provenance=_provenance(call, decision, choice),
        )
        publish_view(call.store, summary["view"], out / "view")
        publish_release(call.store, summary["release"], out / "src", summary["signed_by"])
    return _written(call.out / "release.json", summary)


def _provenance(call: Call, decision: Decision, choice: str) -> dict[str, Any]:
    """What a release says of its making. By content: a run's key would make equal releases differ."""
    dataset, gate = call.manifests["build_dataset"], call.manifests["gate"]
    verdict = next(verdict for verdict in decision.verdicts if verdict.kind == choice)
    return {
        "partition": call.partition,
        "code": code_version(),
        "lock": lock_digest(),
        "seed": call.seed,
        "recipe": {"name": dataset.params["recipe"], "digest": dataset.params["recipe_digest"]},
        "policy": {"name": decision.policy, "digest": gate.params["policy_digest"]},
        "verdict": {"kind": choice, "outcome": str(verdict.outcome), "approved": decision.shipped == "none"},
    }


def _told(execute: Callable[[Call], dict[str, Any]]) -> Callable[[Call], dict[str, Any]]:
    """A GPU step: its first line says where it computes."""

    @functools.wraps(execute)
    def on_device(call: Call) -> dict[str, Any]:
        from tasks.device import described
        from tasks.domain.recipe import load_recipe
        from tasks.worker import name

        device = described(load_recipe(step_keys.recipe_of(call)).training.precision)
        log.info("step=%s worker=%s %s", execute.__name__.strip("_"), name(), device)
        if call.settings.executor != "local" and not device.startswith("device=cuda"):
            log.warning(
                "worker %s was sent a GPU step and has no GPU: it computes on the CPU, see `freshrank doctor`", name()
            )
        return execute(call)

    return on_device


def _champion_release(call: Call) -> Path:
    from tasks.domain.champion import read_champion

    return _release(call, read_champion(call.inputs["resolve_champion"]).release)


def _release(call: Call, digest: str) -> Path:
    return release_of(call.store, digest, call.settings)


def release_of(store: Store, digest: str, settings: Settings) -> Path:
    """A local copy of a published release, its files and its signature checked."""
    from tasks.adapters.releases import fetch_release
    from tasks.adapters.signing import public_keys
    from tasks.serving.signature import read_public_keys

    keys, root = read_public_keys(public_keys(settings)), settings.data / "releases"
    in_use(root / digest, root)
    return fetch_release(store, digest, root / digest, keys)


def _previous(call: Call) -> Path | str:
    """The release that served before the champion, or why there is nothing to compare with."""
    from tasks.domain.champion import read_champion

    champion = read_champion(call.inputs["resolve_champion"]) if "resolve_champion" in call.inputs else None
    if champion is None or champion.previous is None:
        return "no release served before"
    if champion.previous_weights_digest == champion.weights_digest:
        return "the release before has the champion's weights"
    try:
        return _release(call, champion.previous)
    except InputRejected as err:
        return str(err)


def _champion_view(call: Call) -> Path:
    from tasks.adapters.releases import fetch
    from tasks.domain.champion import read_champion

    digest, root = read_champion(call.inputs["resolve_champion"]).view, call.settings.data / "views"
    in_use(root / digest, root)
    return fetch(call.store, "views", digest, root / digest)


def _written(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    path.write_text(json.dumps(summary, indent=1, sort_keys=True))
    return summary


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("ingest", (), _ingest, depends=step_keys.source),
        Step("validate_data", ("ingest",), _validate_data, depends=step_keys.landed),
        Step("resolve_champion", (), _resolve_champion, depends=step_keys.serving, optional=("validate_data",)),
        Step(
            "build_dataset",
            ("validate_data",),
            _build_dataset,
            depends=step_keys.accepted,
            optional=("resolve_champion",),
        ),
        Step(
            "finetune", ("build_dataset",), _told(_finetune), depends=step_keys.training, optional=("resolve_champion",)
        ),
        Step("compress", ("finetune", "build_dataset"), _told(_compress), depends=step_keys.training),
        Step(
            "evaluate",
            ("build_dataset",),
            _told(_evaluate),
            depends=step_keys.groups,
            optional=("compress", "resolve_champion"),
        ),
        Step(
            "benchmark",
            ("build_dataset", "resolve_champion"),
            _told(_benchmark),
            depends=step_keys.limits,
            optional=("compress", "evaluate"),
        ),
        Step(
            "gate",
            ("evaluate",),
            _gate,
            depends=step_keys.policy,
            optional=("benchmark", "compress", "resolve_champion"),
        ),
        Step("package", ("gate", "build_dataset"), _package, optional=("compress", "resolve_champion")),
    )
}


def step_named(name: str) -> Step:
    if name not in STEPS:
        raise InputRejected(f"there is no step {name!r}; the steps are {', '.join(STEPS)}")
    return STEPS[name]
