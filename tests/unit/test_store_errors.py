"""What an object store says no with, as sentences, and whether a retry may help."""

from __future__ import annotations

import pytest
from botocore.stub import Stubber

from tasks import doctor
from tasks.adapters.store import S3Store
from tasks.domain.errors import FreshrankError, InputRejected, Unavailable
from tasks.settings import Settings


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("ExpiredToken", Unavailable, r"the credential for s3://freshrank/a has expired \(ExpiredToken .*\); renew it"),
        ("AccessDenied", InputRejected, "check the store's credentials"),
        ("SlowDown", Unavailable, "the object store failed on s3://freshrank/a"),
    ],
)
def test_a_refusal_is_a_sentence(tmp_path, code: str, kind: type[FreshrankError], says: str) -> None:
    store = S3Store(Settings(home=tmp_path, store_endpoint="http://127.0.0.1:9", store_attempts=1))
    with Stubber(store._client) as stub:
        stub.add_client_error("get_object", service_error_code=code, service_message="The provided token.")
        with pytest.raises(kind, match=says):
            store.get("a")


def test_the_doctor_says_that_a_credential_has_expired(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expired(self: S3Store, key: str, content: bytes) -> None:
        raise Unavailable("the credential for s3://freshrank/health/doctor has expired (ExpiredToken); renew it")

    monkeypatch.setattr(S3Store, "replace", expired)
    settings = Settings(home=tmp_path, store_endpoint="http://127.0.0.1:9")
    (found,) = doctor._store(settings)
    assert not found["ok"] and "has expired" in found["sentence"] and found["next"]
