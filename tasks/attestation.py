"""A release's provenance in the form that policy engines read: an in-toto statement (v1) with SLSA's provenance (v1).

`freshrank lineage RELEASE --in-toto` prints it. The facts are those of provenance.json, which the release's signature
covers; the statement itself is not signed.
Source: https://github.com/in-toto/attestation, https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.domain.errors import InputRejected

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://freshrank.dev/model-refresh/v1"


def in_toto_statement(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The statement about one release, from what `tasks.lineage.of_release` tells.

    Raises:
        InputRejected: the release carries no provenance.
    """
    from google.protobuf.json_format import MessageToDict
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    made_by = lineage["provenance"]
    if not made_by:
        raise InputRejected(f"release {lineage['release'][:12]} carries no provenance, so nothing can be stated of it")
    subject = ResourceDescriptor(name="release", digest={"sha256": lineage["release"]})
    statement = Statement([subject.pb], PREDICATE, _predicate(lineage, made_by))
    statement.validate()
    told: dict[str, Any] = MessageToDict(statement.pb)
    return told


def _predicate(lineage: Mapping[str, Any], made_by: Mapping[str, Any]) -> dict[str, Any]:
    days = [
        {"name": f"partition {day}", "digest": {"freshrankPartition": digest}}  # of content: no file has this sha256
        for day, digest in sorted(made_by["partitions"].items())
    ]
    tools = [
        {"name": "code", "annotations": {"version": made_by["code"]}},
        {"name": "requirements.lock", "annotations": {"digest": made_by["lock"]}},
    ]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {name: made_by[name] for name in ("recipe", "policy", "seed")}
            | {"partition": lineage["partition"]},
            "internalParameters": {"verdict": made_by["verdict"], "kind": lineage["kind"]},
            "resolvedDependencies": [*days, *tools],
        },
        "runDetails": {
            "builder": {"id": BUILD_TYPE, "version": {"freshrank": made_by["code"]}},
            "byproducts": [{"name": step["step"], "uri": step["manifest"]} for step in lineage["steps"]],
        },
    }
