"""Pruning against a real object store, plain and with versions under a lock: what is hidden, what stays, what can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from tasks.adapters.releases import fetch
from tasks.adapters.store import S3Store
from tasks.domain.prune import RetentionPolicy
from tasks.prune.store import Pruned, prune_store
from tasks.settings import Settings
from tests.prune_builders import a_refresh, digest_of

POLICY = RetentionPolicy(decision_days=30)
NAMES = ("first", "refused", "third")


@pytest.fixture
def settings(store_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("tasks.run.MIN_FREE_BYTES", 0)
    return store_settings.model_copy(update={"home": tmp_path, "store_bucket": f"freshrank-prune-{uuid4().hex[:8]}"})


@pytest.fixture(params=["plain", "locked"])
def bucket(request: pytest.FixtureRequest, store_settings: Settings, settings: Settings) -> Iterator[S3Store]:
    # the credentials are those of the running server, so they are looked up in its home
    made = S3Store(store_settings.model_copy(update={"store_bucket": settings.store_bucket}))
    if request.param == "plain":
        made.create_bucket()
    else:
        lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
        made._client.create_bucket(Bucket=made.bucket, ObjectLockEnabledForBucket=True)
        made._client.put_object_lock_configuration(Bucket=made.bucket, ObjectLockConfiguration=lock)
    yield made


def prune(bucket: S3Store) -> Pruned:
    return prune_store(bucket, lambda: {digest_of("first"): "serves"}, POLICY, datetime.now(UTC) + timedelta(days=40))


def test_what_serves_is_pulled_as_before_and_what_went_is_gone_for_every_reader(
    bucket: S3Store, settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for number, name in enumerate(NAMES, start=1):
        a_refresh(bucket, settings, f"2017-07-0{number}", name)
    refused = f"releases/{digest_of('refused')}"
    before = {one.key: one.bytes for one in bucket.stat("")}
    assert refused in prune(bucket).marked and bucket.exists(f"{refused}.json")
    done = prune(bucket)
    after = {one.key for one in bucket.stat("")}
    gone = before.keys() - after
    assert refused in done.gone and done.gone_bytes == sum(before[key] for key in gone)
    assert f"{refused}/release/model.bin" in gone and f"{refused}/release/release.json" in after
    fetch(bucket, "releases", digest_of("first"), tmp_path / "src")
    fetch(bucket, "views", digest_of("view of first"), tmp_path / "view")
    again = prune(bucket)
    assert (again.marked, again.gone, again.orphans) == ((), (), 0)
    locked = "locked" in request.node.name
    assert (bucket._client.get_bucket_versioning(Bucket=bucket.bucket).get("Status") == "Enabled") == locked
    if locked:
        _locked_bytes_are_still_there(bucket, f"{refused}/release/model.bin")


def _versions(bucket: S3Store, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bucket._client.list_object_versions(Bucket=bucket.bucket, Prefix=key).get(
        "Versions", []
    )
    return found


def _locked_bytes_are_still_there(bucket: S3Store, key: str) -> None:
    """Nobody can destroy them before the lock ends, we did not try, and a person can take the deletion back."""
    (version,) = _versions(bucket, key)
    with pytest.raises(ClientError):
        bucket._client.delete_object(Bucket=bucket.bucket, Key=key, VersionId=version["VersionId"])
    (marker,) = bucket._client.list_object_versions(Bucket=bucket.bucket, Prefix=key)["DeleteMarkers"]
    bucket._client.delete_object(Bucket=bucket.bucket, Key=key, VersionId=marker["VersionId"])
    assert bucket.get(key) == b"weights of refused"
