"""Two errors, named for what the reader should do.

FreshrankError
├── InputRejected   the input is wrong: fix it, do not retry
└── Unavailable     something that should answer does not: retry later

Messages say what happened (with values), what was left behind, and what to do next.
"""


class FreshrankError(Exception):
    """Base of every error that freshrank raises on purpose; its text is written for the person on call."""


class InputRejected(FreshrankError):
    """The input can never work. Retrying does the same thing again."""


class Unavailable(FreshrankError):
    """A service or resource did not answer. The same call may work later."""


class Conflict(InputRejected):
    """Something else was written first under the same name; nothing was overwritten."""


class Forbidden(InputRejected):
    """Whoever we are may not do this. Somebody else may."""
