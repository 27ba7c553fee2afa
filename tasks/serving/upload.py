"""Feedback segments -> Parquet in the object store, in a process of its own: `python -m tasks.serving.upload`.

The only module of serving that knows a store. A segment is deleted after the store has it; the same segment again
writes the same bytes under the same key, so a crash between the two loses nothing and doubles nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.domain.contract import EVENT, arrow_schema
from tasks.serving.events import impression_rows

DAMAGED = "damaged"  # a directory of the spool


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="upload sealed feedback segments")
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--store-config", type=Path, required=True, help="JSON file, see BucketWriter")
    parser.add_argument("--own", default="", help="the caller's directory: only segments --before are done")
    parser.add_argument("--before", type=int, default=0)
    options = parser.parse_args(arguments)
    store, damaged = BucketWriter(json.loads(options.store_config.read_text())), 0
    for segment in sealed_segments(options.spool, options.own, options.before):
        try:
            tables = {day: parquet_of(rows) for day, rows in by_day(read_segment(segment)).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as err:  # Arrow's errors are among them
            put_aside(segment, options.spool / DAMAGED, err)
            damaged += 1
            continue
        for day, table in tables.items():
            store.put_new(f"feedback/dt={day}/{segment.stem}.parquet", table)
        segment.unlink()
    return 1 if damaged else 0


def put_aside(segment: Path, folder: Path, err: Exception) -> None:
    """Out of the way of the segments behind it, whole: a disk that lost power leaves bytes that are no rows."""
    folder.mkdir(exist_ok=True)
    segment.replace(folder / segment.name)
    sys.stderr.write(
        f"feedback segment {segment.name} is damaged ({type(err).__name__}: {err}); it is kept in {folder.name}/ of the "
        f"spool and not uploaded. Mend its lines and put it into a directory of its own there, or delete it\n"
    )


def sealed_segments(spool: Path, own: str, before: int) -> Iterator[Path]:
    """Segments nobody writes to: the caller's finished ones, and all of a process that is gone."""
    for directory in sorted(path for path in spool.glob("*") if path.is_dir() and path.name != DAMAGED):
        with (directory / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                alone = False
            segments = sorted(directory.glob("*.jsonl"))
            if alone:
                yield from segments
                if not any(directory.glob("*.jsonl")):
                    shutil.rmtree(directory, ignore_errors=True)
            elif directory.name == own:
                yield from (s for s in segments if int(s.stem.rsplit("-", 1)[1]) < before)


def read_segment(path: Path) -> list[dict[str, Any]]:
    """Every whole line as rows, a served list as its impressions; a torn last line was never acknowledged."""
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line]
    return [row for line in lines for row in (impression_rows(line) if "shown" in line else [line])]


def by_day(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    days: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        days.setdefault(row["event_time"][:10], []).append(row)
    return days


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    """The event contract, release and score as Parquet, one row an event id, sorted by it: equal rows make equal bytes.

    Feedback that no slate was found for may lack user and surface; validate_data puts such rows aside.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # a caller may send an impression too: the service's row, which knows more, counts
    first = {row["event_id"]: row for row in sorted(rows, key=lambda row: "release" not in row)[::-1]}
    unique = [{**row, "event_time": datetime.fromisoformat(row["event_time"])} for _, row in sorted(first.items())]
    fields = [field.with_nullable(True) for field in arrow_schema(EVENT)]
    fields += [pa.field("release", pa.string()), pa.field("score", pa.float64())]
    columns = [pa.array([row.get(field.name) for row in unique], field.type) for field in fields]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), sink, compression="zstd")
    return sink.getvalue()


class BucketWriter:
    """Writes to one bucket. `config`: bucket, endpoint?, region?, access_key?, secret_key?, sse?, kms_key?."""

    def __init__(self, config: dict[str, Any]) -> None:
        import boto3
        from botocore.config import Config

        timeout = float(config.get("timeout_s", 10.0))
        keys = {"aws_access_key_id": config.get("access_key"), "aws_secret_access_key": config.get("secret_key")}
        self._bucket = config["bucket"]
        named = {"ServerSideEncryption": config.get("sse"), "SSEKMSKeyId": config.get("kms_key")}
        self._extra = {name: value for name, value in named.items() if value}
        self._client = boto3.client(
            "s3",
            endpoint_url=config.get("endpoint"),
            region_name=config.get("region", "us-east-1"),
            config=Config(
                connect_timeout=timeout,
                read_timeout=timeout,
                retries={"max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": "path" if config.get("endpoint") else "auto"},
            ),
            **{name: value for name, value in keys.items() if value},
        )

    def put_new(self, key: str, body: bytes) -> None:
        """Write once; an object that is there already is this segment, uploaded before a crash."""
        from botocore.exceptions import ClientError

        try:
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*", ChecksumAlgorithm="SHA256", **self._extra
            )
        except ClientError as err:
            if err.response.get("Error", {}).get("Code") not in ("412", "PreconditionFailed"):
                raise


if __name__ == "__main__":
    sys.exit(main())
