"""Stacks that share a bucket. Each says there what its own rollout log needs; what one of them needs, none deletes.

Told on every pass and never taken back by us: a stack that does not prune for months still serves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.domain.prune import MARKS

STACKS = f"{MARKS}stacks/"


def tell(store: Store, stack: str, needed: Mapping[str, str]) -> None:
    """stack: hash of the first row of its rollout log. Raises Forbidden where this role may not prune."""
    store.replace(_key(stack), canonical_json({"needed": dict(needed)}))


def needed_by_others(store: Store, stack: str) -> dict[str, str]:
    """Release -> which other stack needs it. Raises InputRejected where one cannot be read."""
    why: dict[str, str] = {}
    for key in store.list(STACKS):
        if key != _key(stack):
            try:
                needed = json.loads(store.get(key))["needed"]
                why |= {
                    str(release): f"another stack needs it; {key} says so, delete it when that one is gone"
                    for release in needed
                }
            except (ValueError, KeyError, TypeError) as err:
                raise InputRejected(
                    f"{store.uri(key)} is damaged ({err}): nobody knows what that stack needs, so nothing is pruned. Delete it "
                    f"if the stack is gone; else its next `freshrank prune --only store` writes it anew"
                ) from None
    return why


def _key(stack: str) -> str:
    return f"{STACKS}{stack[:16]}.json"
