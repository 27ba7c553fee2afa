"""Who may ask the controller for what. Reads are for everybody who reaches the port, which is loopback; changes need a token.

The token of secrets.json may do everything. A role's token is derived from it, so that there is nothing to store, and a new
secrets.json makes all of them void.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Literal, get_args

Change = Literal["submit", "rollback", "abort", "freeze", "unfreeze"]
Role = Literal["viewer", "releaser", "oncall"]
ROLES: tuple[Role, ...] = get_args(Role)
# on-call stops and goes back, and never promotes; a pipeline promotes, and may stop what it started
MAY: dict[Role, frozenset[Change]] = {
    "viewer": frozenset(),
    "releaser": frozenset({"submit", "abort"}),
    "oncall": frozenset({"rollback", "abort", "freeze", "unfreeze"}),
}


def token_of(role: Role, secret: str) -> str:
    return f"{role}.{hmac.new(secret.encode(), f'freshrank role {role}'.encode(), sha256).hexdigest()}"


def role_of(given: str, secret: str) -> Role | Literal["owner"] | None:
    """Whose token this is; None: nobody's. Takes the same time for every wrong one."""
    found: Role | Literal["owner"] | None = "owner" if hmac.compare_digest(given.encode(), secret.encode()) else None
    for role in ROLES:
        if hmac.compare_digest(given.encode(), token_of(role, secret).encode()):
            found = role
    return found


def may(role: Role | Literal["owner"], change: Change) -> bool:
    return role == "owner" or change in MAY[role]
