"""What people and the stock say about a list after the model has ranked it: not this item, this one first, no more of that.

Merchandising rules belong to no release: they change in seconds, hold for whichever release serves, and outlive a rollback.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from tasks.domain.errors import InputRejected
from tasks.domain.exploration import MOST_EXPLORED
from tasks.domain.manifest import Record
from tasks.domain.requests import MAX_QUERY_CHARACTERS

MAX_ITEMS = 200_000  # blocked, or unavailable: a file of about 3 MB
MAX_PINNED = 20  # on top of one list
MAX_DIVERSE = 50  # places; each costs a look at all that could take it
MAX_FIRST = 1_000  # a cap looks at so many places at most, as many as an answer has

ItemId = Annotated[str, Field(min_length=1, max_length=128)]


class Pinned(Record):
    """These items come first, in this order: in answers to one query, or in every recommendation.

    Where the caller sends candidates, only those of them that are among them.
    """

    items: tuple[ItemId, ...] = Field(min_length=1, max_length=MAX_PINNED)
    query: str | None = Field(default=None, min_length=1, max_length=MAX_QUERY_CHARACTERS)


class Cap(Record):
    """At most `most` items of one brand (or type, or category) among the first `first`; the others move behind those."""

    by: Literal["brand", "type", "category"]
    most: int = Field(ge=1)
    first: int = Field(ge=2, le=MAX_FIRST)

    @model_validator(mode="after")
    def _bites(self) -> Cap:
        if self.most >= self.first:
            raise ValueError(f"at most {self.most} among the first {self.first} excludes nothing")
        return self


class Diversity(Record):
    """The first `first` places go to items that are good and unlike those above them; the higher `weight`, the more unlike."""

    weight: float = Field(gt=0, lt=1)
    first: int = Field(ge=2, le=MAX_DIVERSE)


class Merchandising(Record):
    """All rules in force. `blocked` is what people said, `unavailable` what the stock said; neither is ever shown."""

    blocked: frozenset[ItemId] = Field(default=frozenset(), max_length=MAX_ITEMS)
    unavailable: frozenset[ItemId] = Field(default=frozenset(), max_length=MAX_ITEMS)
    pinned: tuple[Pinned, ...] = Field(default=(), max_length=1_000)
    caps: tuple[Cap, ...] = Field(default=(), max_length=8)
    diversity: Diversity | None = None
    explored: float = Field(default=0.0, ge=0, le=MOST_EXPLORED)  # share of lists, see tasks/domain/exploration.py

    @field_validator("pinned")
    @classmethod
    def _one_list_each(cls, pinned: tuple[Pinned, ...]) -> tuple[Pinned, ...]:
        keys = [query_key(one.query) for one in pinned]
        for one in pinned:
            if keys.count(query_key(one.query)) > 1:
                what = f"query {one.query!r}" if one.query else "recommendations"
                raise ValueError(f"{what} has more than one list of pinned items; join them")
            twice = next((item for item in one.items if one.items.count(item) > 1), None)
            if twice is not None:
                raise ValueError(f"{twice} is pinned twice in one list")
        return pinned

    @field_serializer("blocked", "unavailable", when_used="json")
    def _in_order(self, items: frozenset[str]) -> list[str]:
        """So that a difference of two files is a difference of rules."""
        return sorted(items)

    @property
    def hidden(self) -> frozenset[str]:
        return self.blocked | self.unavailable

    @property
    def sentence(self) -> str:
        parts = [f"{len(self.blocked):,} blocked", f"{len(self.unavailable):,} unavailable"]
        parts += [f"{len(self.pinned)} lists with pinned items", f"{len(self.caps)} caps"]
        if self.diversity is not None:
            parts.append(f"the first {self.diversity.first} diverse by {self.diversity.weight:g}")
        parts += [f"{self.explored:.1%} of lists explored"] if self.explored else []
        return ", ".join(parts)


class Revision(Record):
    """One state of the rules, and who made it so. Revision 0 is never written: no rules."""

    revision: int = Field(ge=1)
    at: str
    actor: str
    reason: str
    rules: Merchandising


def query_key(query: str | None) -> str | None:
    """Queries that differ in case and spaces alone are one."""
    return " ".join(unicodedata.normalize("NFC", query).casefold().split()) if query is not None else None


def first_problem(err: ValidationError) -> str:
    """Where in the rules, and what."""
    first = err.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def read_rules(text: str, name: str) -> tuple[int, Merchandising]:
    """(revision that the writer saw, rules) of a YAML file as `freshrank items rules` prints it. Raises InputRejected."""
    try:
        content = yaml.safe_load(text)
        if not isinstance(content, dict) or not isinstance(content.get("revision"), int):
            raise InputRejected(
                f"{name} has no `revision:`; start from what `freshrank items rules` prints, so that nobody's change is lost"
            )
        return content.pop("revision"), Merchandising.model_validate(content)
    except ValidationError as err:
        raise InputRejected(f"{name}: {first_problem(err)}") from None
    except yaml.YAMLError as err:
        raise InputRejected(f"{name} is not YAML: {' '.join(str(err).split())[:200]}") from None


def write_rules(revision: int, rules: Merchandising) -> str:
    """The file that `read_rules` reads."""
    content = {"revision": revision, **rules.model_dump(exclude_none=True, mode="json")}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
