"""A feedback segment that a failing disk spoilt is put aside; what lies behind it still reaches the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.serving import upload

ROW = {"event_id": "e1", "event_time": "2026-01-05T10:00:00+00:00", "event_type": "purchase", "item_id": "a"}


class Bucket:
    def __init__(self, config: object) -> None:
        self.keys: list[str] = []
        BUCKETS.append(self)

    def put_new(self, key: str, body: bytes) -> None:
        self.keys.append(key)


BUCKETS: list[Bucket] = []


def upload_all(home: Path) -> int:
    (home / "store.json").write_text("{}")
    return upload.main(["--spool", str(home / "spool"), "--store-config", str(home / "store.json")])


@pytest.mark.parametrize("spoilt", [b"\0\0\0\0\n", b'{"event_id": "e0"}\n', b"[1]\n", b"\xff\xfe\n"])
def test_a_damaged_segment_is_kept_aside_and_those_behind_it_are_uploaded(
    spoilt: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upload, "BucketWriter", Bucket)
    for name, content in (("r1-000001", spoilt), ("r1-000002", json.dumps(ROW).encode() + b"\n")):
        (tmp_path / "spool" / "r1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "spool" / "r1" / f"{name}.jsonl").write_bytes(content)
    assert upload_all(tmp_path) == 1
    assert "segment r1-000001.jsonl is damaged" in capsys.readouterr().err
    assert BUCKETS[-1].keys == ["feedback/dt=2026-01-05/r1-000002.parquet"]
    assert (tmp_path / "spool" / "damaged" / "r1-000001.jsonl").read_bytes() == spoilt
    assert upload_all(tmp_path) == 0, "it is said once, and not tried for ever"
    assert BUCKETS[-1].keys == []
