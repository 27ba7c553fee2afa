"""What is acceptable: named YAML files, validated whole, with every problem told at once."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from tasks.domain.errors import InputRejected
from tasks.domain.gate import GatePolicy
from tasks.domain.manifest import Record
from tasks.domain.prune import RetentionPolicy
from tasks.domain.rollout import RolloutPolicy

FOLDER = Path(__file__).parent
NOT_RELEASE_POLICIES = ("data",)


class Policy(Record):
    gate: GatePolicy
    rollout: RolloutPolicy
    retention: RetentionPolicy = RetentionPolicy()


def policy_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in NOT_RELEASE_POLICIES)


def load_policy(name: str) -> Policy:
    """Read tasks/policies/NAME.yaml, or a file of your own by its absolute path.

    Raises:
        InputRejected: no such policy, or a file that does not validate.
    """
    path = Path(name) if Path(name).is_absolute() else FOLDER / f"{name}.yaml"
    if not path.is_file() or (path.parent == FOLDER and path.stem not in policy_names()):
        raise InputRejected(
            f"there is no policy {name!r}; known: {', '.join(policy_names())}, or the absolute path of a .yaml file"
        )
    try:
        return Policy.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
        raise InputRejected(f"policy {name} is not valid: {problems}") from err
