"""Raw ids become pseudonyms, each computed once, and no other column of a row keeps one.

A source may repeat an id where the contract expects none: in its event ids, in a query that somebody typed, in a second
column of the user table. What repeats it is rewritten or left out, so that the pseudonym is all there is.
"""

from __future__ import annotations

import polars as pl

from tasks.domain.behaviour import pseudonym, session_pseudonym
from tasks.domain.contract import USER

REPEATS = ("event_id", "query", "request_id")  # other columns of an event join with other tables and stay as they are
SHORTEST = 6  # a shorter id is part of too many words and numbers to say that it was repeated


class Pseudonyms:
    """One key's pseudonyms. Users come back every day, so theirs are kept."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._users: dict[str, str] = {}

    def events(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The same rows without raw ids. A blank id is no id: it would be one user for all of them."""
        frame = raw.with_columns(_unless_blank("user_id"), _unless_blank("session_id"))
        sessions = {one: session_pseudonym(one, self._key) for one in _distinct(frame["session_id"])}
        users = self._of(frame["user_id"])
        for name in REPEATS:
            frame = _rewritten(frame, name, {"user_id": users, "session_id": sessions})
        return frame.with_columns(_replaced("user_id", users), _replaced("session_id", sessions))

    def users(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
        """(the same rows without raw ids, names of columns that only repeat the id and were left out)."""
        frame = raw.with_columns(_unless_blank("user_id"))
        users = self._of(frame["user_id"])
        further = [name for name in frame.columns if name not in USER.names]
        copies = [name for name in further if _is_copy(frame[name], frame["user_id"])]
        for name in further:
            if frame[name].dtype == pl.String:
                frame = _rewritten(frame, name, {"user_id": users})
        return frame.drop(copies).with_columns(_replaced("user_id", users)), copies

    def _of(self, column: pl.Series) -> dict[str, str]:
        found = _distinct(column)
        for user in found:
            if user not in self._users:
                self._users[user] = pseudonym(user, self._key)
        return {user: self._users[user] for user in found}


class AlreadyHashed:
    """For rows that come from the service, which hashes at its own door: hashed twice they would name nobody."""

    def events(self, sent: pl.DataFrame) -> pl.DataFrame:
        return sent

    def users(self, sent: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
        return sent, []


def _distinct(column: pl.Series) -> list[str]:
    return column.unique().drop_nulls().to_list()


def _unless_blank(name: str) -> pl.Expr:
    return pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name))


def _replaced(name: str, pseudonyms: dict[str, str]) -> pl.Expr:
    old, new = list(pseudonyms), list(pseudonyms.values())
    return pl.col(name).replace_strict(old, new, default=None, return_dtype=pl.String)


def _rewritten(frame: pl.DataFrame, name: str, ids: dict[str, dict[str, str]]) -> pl.DataFrame:
    """Where text holds a raw id of its own row, the pseudonym stands in its place."""
    for column, pseudonyms in ids.items():
        if frame[name].null_count() == len(frame):
            break
        holds = pl.col(name).str.contains(pl.col(column), literal=True) & (pl.col(column).str.len_chars() >= SHORTEST)
        at = frame.select(holds.fill_null(False)).to_series().arg_true()
        if len(at):
            pairs = zip(frame[name].gather(at), frame[column].gather(at), strict=True)
            clean = pl.Series([text.replace(raw, pseudonyms[raw]) for text, raw in pairs], dtype=pl.String)
            frame = frame.with_columns(frame[name].scatter(at, clean))
    return frame


def _is_copy(column: pl.Series, raw_ids: pl.Series) -> bool:
    """Whether the column is the id once more, as text or as a number."""
    text = column.cast(pl.Int64, strict=False) if column.dtype.is_float() else column
    same = text.cast(pl.String, strict=False) == raw_ids
    return bool(raw_ids.n_unique() > 1 and same.fill_null(True).all() and same.any())
