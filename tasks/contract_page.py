"""`python -m tasks.contract_page [--check]`: the tables of docs/data-contract.md and docs/contract/*.schema.json.

Both are written from tasks/domain/contract.py. With --check nothing is written: the exit code says whether they are up
to date.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tasks.domain.contract import CONTRACT_VERSION, CONTRACTS, EARLIEST, LATEST, TIME, Column, Contract, as_sent

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = "data-contract.md"
NAMED = {"timestamp": "timestamp (us, UTC)"}
JSON_TYPES = {"string": "string", "timestamp": "string", "bool": "boolean", "int32": "integer"}


def main(arguments: list[str]) -> int:
    stale = [name for name, text in pages(DOCS).items() if not _is(DOCS / name, text)]
    if "--check" in arguments:
        for name in stale:
            sys.stderr.write(f"docs/{name} is not what the contract says; `python -m tasks.contract_page` writes it\n")
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(pages(DOCS)[name])
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


def pages(docs: Path) -> dict[str, str]:
    """What each generated file must hold, by its name under docs/. The page's own words are kept as they are."""
    page = (docs / PAGE).read_text()
    for contract in CONTRACTS:
        page = _between(f"contract:{contract.name}", markdown(contract), page)
    page = _between("contract:version", f"This is version {CONTRACT_VERSION} of the contract.", page)
    schemas = {
        f"contract/{contract.name}.schema.json": json.dumps(json_schema(contract), indent=1, ensure_ascii=False) + "\n"
        for contract in CONTRACTS
    }
    return {PAGE: page, **schemas}


def markdown(contract: Contract) -> str:
    rows = ["| column | type | required | meaning | limits | why |", "|---|---|---|---|---|---|"]
    for column in contract.columns:
        needed, limits = "yes" if column.required else "", limits_of(column)
        cells = (column.name, NAMED.get(column.type, column.type), needed, column.meaning, limits, column.reason)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if contract.open:
        rows.append("\nAny further columns are kept: text and bool as categories, numbers as float64.")
    return "\n".join(rows)


def limits_of(column: Column) -> str:
    """What a sound value looks like, in words."""
    said = list(column.values)
    if column.pseudonym:
        said.append("64 hex digits after ingest")
    elif column.pattern:
        said.append(f"`{column.pattern}`")
    if column.longest:
        said.append(f"at most {column.longest:,} characters")
    if column.minimum is not None:
        said.append("above 0" if 0 < column.minimum < 1e-6 else f"at least {column.minimum:g}")
    if column.maximum is not None:
        said.append(f"at most {column.maximum:g}")
    if column.type.startswith("float"):
        said.append("finite")
    if column.type == "timestamp":
        said.append(f"{EARLIEST[:4]} to {int(LATEST[:4]) - 1}, with its offset")
    if column.required and column.type == "string" and not column.values:
        said.append("not blank")
    return ", ".join(said)


def json_schema(contract: Contract) -> dict[str, Any]:
    """JSON Schema 2020-12 of one row as a source sends it: raw ids where ingest will put pseudonyms."""
    further: Any = {"type": ["string", "number", "boolean", "null"]} if contract.open else True
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:freshrank:contract:{CONTRACT_VERSION}:{contract.name}",
        "title": f"freshrank {contract.name}, contract version {CONTRACT_VERSION}",
        "type": "object",
        "properties": {column.name: _json_column(column) for column in as_sent(contract).columns},
        "required": list(contract.required),
        "additionalProperties": further,
    }


def _json_column(column: Column) -> dict[str, Any]:
    kind = JSON_TYPES.get(column.type, "number")
    meaning = column.meaning + ("; send the raw id, ingest replaces it" if column.pseudonym else "")
    said: dict[str, Any] = {"description": meaning, "type": kind if column.required else [kind, "null"]}
    if column.values:
        said["enum"] = [*column.values] if column.required else [*column.values, None]
    if column.type == "timestamp":
        said |= {"format": "date-time", "pattern": TIME}
    elif column.pattern:
        said["pattern"] = column.pattern
    elif column.required and column.type == "string" and not column.values:
        said["pattern"] = r"\S"
    if column.longest:
        said["maxLength"] = column.longest
    if column.minimum is not None or column.type == "int32":
        said["minimum"] = column.minimum if column.minimum is not None else -(2**31)
    if column.maximum is not None or column.type == "int32":
        said["maximum"] = column.maximum if column.maximum is not None else 2**31 - 1
    return said


def _between(marker: str, text: str, page: str) -> str:
    written, found = re.subn(
        rf"(<!-- {marker} -->\n).*?(<!-- end -->)", lambda at: f"{at[1]}{text}\n{at[2]}", page, flags=re.DOTALL
    )
    if found != 1:
        raise ValueError(f"docs/{PAGE} has {found} places marked <!-- {marker} -->, it needs one")
    return written


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
