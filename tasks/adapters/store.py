"""Objects in an S3 bucket: write-once by default, so that a name means the same bytes forever.

`S3Store` works against SeaweedFS (the local default) and Amazon S3. What it needs from a server, and what the contract
suite therefore checks: conditional put (`If-None-Match: *` answers 412 and has one winner), read after write, listing
in pages, SHA-256 checksums.
"""

from __future__ import annotations

import builtins
import hashlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from tasks.atomic import write_atomically
from tasks.domain.errors import Conflict, Forbidden, InputRejected, Unavailable
from tasks.domain.manifest import Record
from tasks.settings import Settings


class Stored(Record):
    """One object as a listing tells of it."""

    key: str
    bytes: int
    written: datetime


class Store(Protocol):
    """Bytes by key. Keys are relative paths without `..`; `uri` is what manifests and people write."""

    def uri(self, key: str) -> str: ...

    def key(self, uri: str) -> str:
        """The key that a URI of this store names. Raises InputRejected for a URI of another store."""
        ...

    def put_new(self, key: str, content: bytes | Path) -> None:
        """Write once. The same bytes again are a no-op; other bytes raise Conflict and change nothing."""
        ...

    def replace(self, key: str, content: bytes) -> None:
        """Overwrite; for pointers and mirrors only, never for data."""
        ...

    def get(self, key: str) -> bytes:
        """Raises InputRejected when the key does not exist."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Write the object to `path` atomically: a crash leaves the old file or none."""
        ...

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> list[str]: ...

    def stat(self, prefix: str) -> builtins.list[Stored]:
        """`list`, with how large each object is and since when it is there."""
        ...

    def clock(self) -> datetime:
        """What time it is by the store's own clock, which also says when an object was written."""
        ...

    def delete(self, key: str) -> None:
        """In a bucket with versions the key is gone for every reader, and its bytes when the bucket's own rule says so."""
        ...


def checked_key(key: str) -> str:
    if not key or key.startswith("/") or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise InputRejected(f"object key {key!r} is not a plain relative path")
    return key


def _read(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


class MemoryStore:
    """The in-memory twin, for unit tests. Passes the same contract suite as S3Store."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._written: dict[str, datetime] = {}
        self._since = datetime.now(UTC)  # of what a test planted

    def uri(self, key: str) -> str:
        return f"memory://{checked_key(key)}"

    def key(self, uri: str) -> str:
        return _strip(uri, "memory://")

    def put_new(self, key: str, content: bytes | Path) -> None:
        body = _read(content)
        if self._objects.setdefault(checked_key(key), body) != body:
            raise Conflict(_conflict(self.uri(key), body, self._objects[key]))
        self._written.setdefault(key, datetime.now(UTC))

    def replace(self, key: str, content: bytes) -> None:
        self._objects[checked_key(key)] = content
        self._written[key] = datetime.now(UTC)

    def get(self, key: str) -> bytes:
        try:
            return self._objects[checked_key(key)]
        except KeyError:
            raise InputRejected(_missing(self.uri(key))) from None

    def download(self, key: str, path: Path) -> None:
        write_atomically(path, self.get(key))

    def exists(self, key: str) -> bool:
        return checked_key(key) in self._objects

    def list(self, prefix: str) -> list[str]:
        return [found.key for found in self.stat(prefix)]

    def stat(self, prefix: str) -> builtins.list[Stored]:
        found = sorted((key, body) for key, body in self._objects.copy().items() if key.startswith(prefix))
        return [Stored(key=key, bytes=len(body), written=self._written.get(key, self._since)) for key, body in found]

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def delete(self, key: str) -> None:
        self._objects.pop(checked_key(key), None)
        self._written.pop(key, None)


class S3Store:
    """boto3 against one bucket. Errors of the vendor become Unavailable (retry) or InputRejected (do not)."""

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.store_bucket
        self._extra: dict[str, str] = {}
        if settings.store_sse:
            self._extra["ServerSideEncryption"] = settings.store_sse
        if settings.store_kms_key:
            self._extra["SSEKMSKeyId"] = settings.store_kms_key
        self._checksum = settings.store_checksum
        self._client = _client(settings)

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{checked_key(key)}"

    def key(self, uri: str) -> str:
        return _strip(uri, f"s3://{self.bucket}/")

    def create_bucket(self) -> None:
        """For the local stack; on Amazon S3 the bucket is made by infra/terraform."""
        from botocore.exceptions import ClientError

        try:
            self._call("create_bucket")
        except ClientError as err:
            if err.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise Unavailable(f"bucket {self.bucket} could not be created: {_said(err)}") from err

    def put_new(self, key: str, content: bytes | Path) -> None:
        from botocore.exceptions import ClientError

        body = _read(content)
        try:
            self._call(
                "put_object",
                Key=checked_key(key),
                Body=body,
                IfNoneMatch="*",
                ChecksumAlgorithm=self._checksum,
                Metadata={"sha256": hashlib.sha256(body).hexdigest()},
                **self._extra,
            )
        except ClientError as err:
            if _code(err) not in ("412", "PreconditionFailed", "409", "ConditionalRequestConflict"):
                raise _translated(err, self.uri(key)) from err
            try:
                present = self.get(key)
            except InputRejected as missing:  # 409: another write of it is under way, or a delete came between
                raise Unavailable(f"{self.uri(key)} is being written by somebody else; try again") from missing
            if present != body:
                raise Conflict(_conflict(self.uri(key), body, present)) from None

    def replace(self, key: str, content: bytes) -> None:
        from botocore.exceptions import ClientError

        try:
            self._call("put_object", Key=checked_key(key), Body=content, **self._extra)
        except ClientError as err:
            raise _translated(err, self.uri(key)) from err

    def get(self, key: str) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._call("get_object", Key=checked_key(key))
            body: bytes = answer["Body"].read()
        except ClientError as err:
            raise _translated(err, self.uri(key)) from err
        except BotoCoreError as err:  # the connection broke while the body was read
            raise Unavailable(f"{self.uri(key)} broke off while reading: {err}") from err
        if len(body) != answer["ContentLength"]:
            raise Unavailable(f"{self.uri(key)} came back truncated: {len(body)} of {answer['ContentLength']} bytes")
        return body

    def download(self, key: str, path: Path) -> None:
        write_atomically(path, self.get(key))

    def exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._call("head_object", Key=checked_key(key))
        except ClientError as err:
            if _code(err) in ("404", "NoSuchKey"):
                return False
            raise _translated(err, self.uri(key)) from err
        return True

    def list(self, prefix: str) -> list[str]:
        return [found.key for found in self.stat(prefix)]

    def stat(self, prefix: str) -> builtins.list[Stored]:
        from botocore.exceptions import BotoCoreError, ClientError

        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        try:
            told = [found for page in pages for found in page.get("Contents", ())]
        except ClientError as err:
            raise _translated(err, f"s3://{self.bucket}/{prefix}") from err
        except BotoCoreError as err:
            raise Unavailable(f"listing s3://{self.bucket}/{prefix} failed: {err}") from err
        found = [Stored(key=one["Key"], bytes=one["Size"], written=one["LastModified"]) for one in told]
        return sorted(found, key=lambda one: one.key)

    def clock(self) -> datetime:
        from botocore.exceptions import ClientError

        try:
            answer = self._call("list_objects_v2", MaxKeys=1)
        except ClientError as err:
            raise _translated(err, f"s3://{self.bucket}") from err
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def delete(self, key: str) -> None:
        from botocore.exceptions import ClientError

        try:
            self._call("delete_object", Key=checked_key(key))
        except ClientError as err:
            raise _translated(err, self.uri(key)) from err

    def _call(self, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        try:
            return getattr(self._client, operation)(Bucket=self.bucket, **arguments)
        except NoCredentialsError as err:
            raise InputRejected("no credentials for the object store; set a role or the AWS_* variables") from err
        except BotoCoreError as err:
            raise Unavailable(f"the object store did not answer {operation}: {err}; see `freshrank doctor`") from err


def open_store(settings: Settings) -> S3Store:
    return S3Store(settings)


def _client(settings: Settings) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=settings.store_timeout_s,
        read_timeout=settings.store_timeout_s,
        retries={"max_attempts": settings.store_attempts, "mode": "standard"},
        s3={"addressing_style": "path" if settings.store_endpoint != "aws" else "auto"},
        max_pool_connections=16,
    )
    if settings.local_store:
        return boto3.client(
            "s3",
            endpoint_url=settings.url("store"),
            region_name=settings.store_region,
            aws_access_key_id=settings.secrets.store_access_key,
            aws_secret_access_key=settings.secrets.store_secret_key,
            config=config,
        )
    endpoint = None if settings.store_endpoint == "aws" else settings.store_endpoint
    session = _assumed_role(settings) if settings.store_role_arn else boto3.Session()
    return session.client("s3", endpoint_url=endpoint, region_name=settings.store_region, config=config)


def _assumed_role(settings: Settings) -> Any:
    """A session whose credentials renew themselves: a refresh outlives the hour that a role session lasts."""
    import boto3
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
    from botocore.session import get_session

    source = get_session()
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=source.create_client,
        source_credentials=source.get_credentials(),
        role_arn=settings.store_role_arn,
        extra_args={"RoleSessionName": "freshrank"},
    )
    assumed = get_session()
    assumed._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    return boto3.Session(botocore_session=assumed)


def _strip(uri: str, prefix: str) -> str:
    if not uri.startswith(prefix):
        raise InputRejected(f"{uri} is not in this store; its URIs start with {prefix}")
    return checked_key(uri[len(prefix) :])


def _code(err: Any) -> str:
    return str(err.response.get("Error", {}).get("Code", ""))


def _said(err: Any) -> str:
    return f"{_code(err)} {err.response.get('Error', {}).get('Message', '')}".strip()


def _translated(err: Any, uri: str) -> Exception:
    if _code(err) in ("404", "NoSuchKey"):
        return InputRejected(_missing(uri))
    if _code(err) in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return Forbidden(f"the object store refused {uri}: {_said(err)}; check the store's credentials")
    if _code(err) in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"):
        return Unavailable(
            f"the credential for {uri} has expired ({_said(err)}); renew it, the step is tried again meanwhile"
        )
    return Unavailable(f"the object store failed on {uri}: {_said(err)}")


def _missing(uri: str) -> str:
    return f"{uri} does not exist"


def _conflict(uri: str, new: bytes, present: bytes) -> str:
    a, b = (hashlib.sha256(x).hexdigest()[:12] for x in (new, present))
    return f"{uri} already holds other content (sha256 {b}, tried to write {a}); nothing was overwritten"
