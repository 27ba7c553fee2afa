"""The attributes of users as the last accepted day knew them, for fairness slices; never a feature."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.adapters.partitions import accepted_revisions, read_accepted_manifest, read_users
from tasks.adapters.store import Store


def users_digest(store: Store, through: str) -> str | None:
    """Names the user table of the last accepted day up to `through`; None where a source sends none."""
    days = [day for day in accepted_revisions(store) if day <= through]
    return read_accepted_manifest(store, max(days)).users if days else None


def user_groups(store: Store, through: str) -> Mapping[str, Mapping[str, str]]:
    """Pseudonym -> attribute -> value. Only texts and yes or no are groups; numbers would make one group a user."""
    sha256 = users_digest(store, through)
    if sha256 is None:
        return {}
    table = read_users(store, sha256)
    import pyarrow as pa

    named = [
        field.name
        for field in table.schema
        if field.name != "user_id"
        and (pa.types.is_string(field.type) or pa.types.is_large_string(field.type) or pa.types.is_boolean(field.type))
    ]
    return {
        row["user_id"]: {name: str(row[name]) for name in named if row[name] is not None}
        for row in table.select(["user_id", *named]).to_pylist()
    }
