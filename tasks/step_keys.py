"""What the result of a step depends on beside its inputs, as it is when the run begins: it becomes part of the run's key.

Asked once for each run; the step itself reads what was found here (`Call.params`). Nothing heavy is imported before that.
"""

from __future__ import annotations

import hashlib
import json

from tasks.domain.manifest import Parameter, digest_of
from tasks.run import Asked, Call


def recipe_of(told: Call | Asked) -> str:
    return str(told.options.get("recipe") or told.settings.recipe)


def source(asked: Asked) -> dict[str, Parameter]:
    return {"source": asked.settings.source}


def landed(asked: Asked) -> dict[str, Parameter]:
    """Days by revision: one that was landed anew without an erased user, or released by a person, is judged anew."""
    from tasks.adapters.partitions import landed_revisions
    from tasks.validate_data import releases

    days = {day: revision for day, revision in landed_revisions(asked.store).items() if day <= asked.partition}
    released = {day: rules for day, rules in releases(asked.store).items() if day in days}
    return {"landed": digest_of([days, released])[:16], "days": len(days)}


def accepted(asked: Asked) -> dict[str, Parameter]:
    from tasks.adapters.partitions import accepted_revisions

    days = {day: revision for day, revision in accepted_revisions(asked.store).items() if day <= asked.partition}
    return {"accepted": digest_of(days)[:16], "days": len(days), **training(asked)}


def training(asked: Asked) -> dict[str, Parameter]:
    """The recipe by content: a file of one's own may change under its name."""
    from tasks.domain.recipe import load_recipe

    name = recipe_of(asked)
    return {"recipe": name, "recipe_digest": load_recipe(name).digest[:16]}


def serving(asked: Asked) -> dict[str, Parameter]:
    """The answer is part of the key: asking again after a promotion is another question."""
    from tasks.controller.client import ControllerClient

    status = ControllerClient(asked.settings).status()
    return {role: status[role]["digest"] if status.get(role) else None for role in ("champion", "previous")}


def groups(asked: Asked) -> dict[str, Parameter]:
    """Whose groups are compared: a person may have been erased since."""
    from tasks.adapters.user_groups import users_digest

    digest = users_digest(asked.store, asked.partition)
    return {"user_groups": digest[:16] if digest else None}


def policy(asked: Asked) -> dict[str, Parameter]:
    from tasks.policies import load_policy

    policy = load_policy(asked.settings.policy).gate
    # as it is spelled: the order of its entries is the order of the findings
    return {"policy": policy.name, "policy_digest": hashlib.sha256(policy.model_dump_json().encode()).hexdigest()[:16]}


def limits(asked: Asked) -> dict[str, Parameter]:
    """How many pairs are needed depends on how much slower the policy allows; creep, on the benches before."""
    from tasks.bench_history import bench_keys
    from tasks.policies import load_policy

    limits = load_policy(asked.settings.policy).gate.latency_ratio
    return {"latency_ratio": json.dumps(limits), "history": digest_of(bench_keys(asked.store, asked.partition))[:16]}
