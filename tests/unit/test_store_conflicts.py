"""What S3 says of two writes at once, in the words that tell a task whether to try again."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tasks.adapters.store import S3Store
from tasks.domain.errors import Unavailable
from tasks.settings import Settings


class _Busy:
    """An S3 that answers 409 while somebody else's write is under way: the object is not there yet."""

    def put_object(self, **_: object) -> None:
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")

    def get_object(self, **_: object) -> None:
        raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")


def test_a_write_that_met_another_one_is_tried_again(tmp_path: Path) -> None:
    store = S3Store(Settings(home=tmp_path))
    store._client = _Busy()
    with pytest.raises(Unavailable, match="by somebody else; try again"):
        store.put_new("runs/a.json", b"1")
