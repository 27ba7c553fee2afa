"""How a person names a user on the command line: the raw id, which is hashed at once and never shown, or the pseudonym."""

from __future__ import annotations

import re
import sys

import typer

from tasks.domain.behaviour import pseudonym
from tasks.domain.contract import PSEUDONYM
from tasks.domain.errors import InputRejected
from tasks.settings import Settings


def typed_user(user: str | None, given: str | None, settings: Settings) -> str:
    """The pseudonym. Neither given: the raw id is asked for, without echo; `-`: it is read from standard input.

    Raises:
        InputRejected: both are given, or the id is blank.
    """
    if given is not None:
        if user is not None or not re.fullmatch(PSEUDONYM, given):
            raise InputRejected("give either the raw id or --pseudonym with 64 hex digits")
        return given
    if user is None:
        user = typer.prompt("User id", hide_input=True)
    raw = sys.stdin.readline().rstrip("\n") if user == "-" else str(user)
    if not raw.strip():
        raise InputRejected("a blank user id names nobody")
    return pseudonym(raw, bytes.fromhex(settings.secrets.pseudonym_key))
