"""A release as MLflow shows a model: what goes in, what comes out, an example, and where the real one is.

MLmodel names no flavor that MLflow can load: a model is served from its signed release, never from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from tasks.domain.requests import RankReply, RankRequest

EXAMPLE, SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"
TOLD = ("kind", "partition", "train_end", "state_through", "weights_digest")


def mlmodel_files(
    release: str, uri: str, described: Mapping[str, Any], golden: Mapping[str, Any], run_id: str
) -> dict[str, bytes]:
    """MLmodel and a request that the release really answered, its smallest golden one. No clock: twice is the same.

    Args:
        described: release.json.
        golden: golden.json.
    """
    example = min((case["request"] for case in golden["cases"]), key=lambda request: len(json.dumps(request)))
    about = {name: described[name] for name in TOLD if name in described}
    mlmodel = {
        "flavors": {"freshrank": {"release": release, "uri": uri, **about}},
        "run_id": run_id,
        "signature": {"inputs": json.dumps(columns(RankRequest)), "outputs": json.dumps(columns(RankReply))},
        "saved_input_example_info": {
            "artifact_path": EXAMPLE,
            "serving_input_path": SERVING_EXAMPLE,
            "type": "json_object",
        },
    }
    body = json.dumps(example, indent=1, sort_keys=True).encode()
    return {"MLmodel": json.dumps(mlmodel, indent=1).encode(), EXAMPLE: body, SERVING_EXAMPLE: body}


def columns(struct: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """The fields of a request or reply as an MLflow schema."""
    found = inspect.type_info(struct)
    assert isinstance(found, inspect.StructType)
    return [{"name": field.encode_name, "required": field.required, **_kind(field.type)} for field in found.fields]


def _kind(found: inspect.Type) -> dict[str, Any]:
    match found:
        case inspect.Metadata(type=inner):
            return _kind(inner)
        case inspect.UnionType(types=types):
            some = [_kind(one) for one in types if not isinstance(one, inspect.NoneType)]
            return some[0] if len(some) == 1 else {"type": "any"}
        case inspect.ListType(item_type=item):
            return {"type": "array", "items": _kind(item)}
        case inspect.StructType(fields=fields):
            kinds = {field.encode_name: {**_kind(field.type), "required": field.required} for field in fields}
            return {"type": "object", "properties": kinds}
        case inspect.DictType(value_type=value):
            return {"type": "map", "values": _kind(value)}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "long"}
        case inspect.FloatType():
            return {"type": "double"}
        case inspect.StrType() | inspect.LiteralType() | inspect.DateTimeType():  # as they travel
            return {"type": "string"}
    raise TypeError(f"{found!r} has no counterpart in an MLflow schema")
