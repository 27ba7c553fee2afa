"""Catalogue rows -> what search knows of an item: its fields as lists of values, its numbers, and the encoder's text.

A field is a column (title, text, category_path, brand, price) or a key of `attributes`; which of them count is said by a
recipe's `search` section. An item that lacks a field, or whose JSON is damaged, lacks it: nothing raises.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tasks.domain.manifest import canonical_json
from tasks.domain.recipe import SearchFields
from tasks.ranker.arrays import Floats, Ints

DOCUMENTS = "documents.json"
COLUMNS = ("item_id", "title", "text", "category_path", "brand", "price", "attributes")
WORD = re.compile(r"\w+")
ASIDE = re.compile(r"\s*\([^)]*\)")  # "Vitaly (voice)" is Vitaly to who searches


def words(text: str) -> list[str]:
    """Lower case, without accents, split at what is neither letter nor digit; an apostrophe splits nothing.

    Scripts written without spaces stay whole runs here; the encoder's own tokenizer reads them.
    """
    plain = unicodedata.normalize("NFKD", text.lower().replace("'", "").replace("\u2019", ""))
    return WORD.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


@dataclass(frozen=True)
class Documents:
    """The catalogue as search reads it. Row -1 of every table is an item that the catalogue does not know."""

    ids: list[str]
    fields: SearchFields
    values: dict[str, list[list[str]]]  # field -> values of each item
    numbers: Floats  # [items + 1, len(fields.numbers)], NaN where unknown

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def rows(self, items: Sequence[str]) -> Ints:
        """Row of each item, -1 for one that the catalogue does not know."""
        return np.array([self.row_of.get(item, -1) for item in items], np.int32)

    @property
    def titles(self) -> list[str]:
        """Of each item; empty where it has none."""
        return [" ".join(of) for of in self.values.get("title", [[] for _ in self.ids])]

    @cached_property
    def written(self) -> list[str]:
        """What the encoder reads: `title (year) a, b. c, d`. Numbers stand in brackets behind what is before them."""
        return [self._write(row) for row in range(len(self.ids))]

    def _write(self, row: int) -> str:
        told = ""
        for field, most in self.fields.written:
            if field in self.fields.numbers:
                number = float(self.numbers[row, self.fields.numbers.index(field)])
                part, joint = (f"({number:g})", " ") if math.isfinite(number) else ("", "")
            else:
                kept = (ASIDE.sub("", value).strip() for value in self.values[field][row][:most])
                part, joint = ", ".join(value for value in kept if value), ". "
            if part:
                # as sentence-transformers saw titles in its own training: "Heat (1995) crime, drama. ..."
                told += (" " if told.endswith(")") else joint if told else "") + part
        return told


def read_documents(rows: Sequence[Mapping[str, Any]], fields: SearchFields) -> Documents:
    """Documents of catalogue rows (see tasks.domain.contract.ITEM), in the order given."""
    named = dict.fromkeys((*fields.matched, *(name for name, _ in fields.written)))
    numbers = np.full((len(rows) + 1, len(fields.numbers)), np.nan, np.float32)
    values: dict[str, list[list[str]]] = {name: [] for name in named if name not in fields.numbers}
    for at, row in enumerate(rows):
        known = {**_attributes(row.get("attributes")), **{name: row.get(name) for name in COLUMNS[1:-1]}}
        for name, column in values.items():
            column.append(_values(known.get(name), split=name == "category_path"))
        numbers[at] = [_number(known.get(name)) for name in fields.numbers]
    return Documents([str(row["item_id"]) for row in rows], fields, values, numbers)


def save_documents(path: Path, documents: Documents) -> None:
    numbers = [[None if np.isnan(one) else float(one) for one in row] for row in documents.numbers[:-1].tolist()]
    told: dict[str, Any] = {
        "fields": documents.fields.model_dump(mode="json"),
        "ids": documents.ids,
        "values": documents.values,
        "numbers": numbers,
    }
    path.write_bytes(canonical_json(told))


def load_documents(path: Path) -> Documents:
    told = json.loads(path.read_bytes())
    fields = SearchFields.model_validate_json(json.dumps(told["fields"]))
    numbers = np.full((len(told["ids"]) + 1, len(fields.numbers)), np.nan, np.float32)
    if told["ids"] and fields.numbers:
        numbers[:-1] = np.array(told["numbers"], np.float32)
    return Documents(told["ids"], fields, told["values"], numbers)


def _attributes(told: Any) -> dict[str, Any]:
    try:
        known = json.loads(told) if told else {}
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def _values(told: Any, *, split: bool) -> list[str]:
    if told is None:
        return []
    if split and isinstance(told, str):
        told = told.split(" > ")
    return [str(value).strip() for value in (told if isinstance(told, list | tuple) else [told]) if str(value).strip()]


def _number(told: Any) -> float:
    try:
        number = float(told)
    except (TypeError, ValueError):
        return math.nan
    return number if abs(number) < 1e30 else math.nan
