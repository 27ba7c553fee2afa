"""The same erasure against a real object store and a real Valkey: conditional puts, listings, deletions, keys."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.adapters.erasures import DONE, ERASED
from tasks.adapters.partitions import accepted_key, landed_days, read_accepted_events, read_partition
from tasks.adapters.releases import publish
from tasks.adapters.store import S3Store
from tasks.domain.behaviour import pseudonym
from tasks.domain.erasure import erasure_id
from tasks.erasure.erase import erase, look_for
from tasks.erasure.view_without import USERS_JSON, leave_out_of_view
from tasks.ingest import ingest
from tasks.serving.online_store import ValkeyOnlineStore
from tasks.settings import Settings
from tests.behaviour_builders import FIRST, KEY, KEY_ID, accept
from tests.erasure_builders import CAUGHT, MARKED, SECOND, THIRD, a_source
from tests.view_builders import ANNA as VIEWED
from tests.view_builders import a_view

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_a_user_is_gone_from_the_real_store_and_the_real_valkey(store_settings: Settings, tmp_path) -> None:
    bucket = S3Store(store_settings.model_copy(update={"store_bucket": "freshrank-erase"}))
    bucket.create_bucket()
    online = ValkeyOnlineStore(store_settings.url("valkey"), 5.0)
    for key in bucket.list(""):
        bucket.delete(key)
    ingest(a_source(), bucket, THIRD, KEY, KEY_ID)
    for day in (FIRST, SECOND):
        accept(bucket, day, CAUGHT, MARKED)
    user = pseudonym("user-7", KEY)
    before = [row for row in read_accepted_events(bucket, FIRST).to_pylist() if row["user_id"] != user]

    holdings = look_for(bucket, user)
    assert holdings.rows == 12 and len(holdings.found.tabled) == 3
    done = erase(bucket, store_settings.model_copy(update={"home": tmp_path}), online, holdings, "test", "asked", NOW)
    assert {day: (one.landed, one.accepted) for day, one in done.days.items()} == {FIRST: (2, 2), THIRD: (2, None)}
    assert all(user not in read_partition(bucket, day).events["user_id"].to_pylist() for day in landed_days(bucket))
    assert read_accepted_events(bucket, FIRST).to_pylist() == before
    assert bucket.exists(accepted_key(FIRST)) and bucket.exists(accepted_key(FIRST, "manifest-000002.json"))
    assert bucket.list(ERASED) == [f"{ERASED}{erasure_id(user)}{DONE}", f"{ERASED}{erasure_id(user)}.json"]
    assert look_for(bucket, user).nothing

    digest = a_view(tmp_path / "view")
    publish(bucket, "views", digest, tmp_path / "view")
    online.publish(digest, [(VIEWED, b"history")])
    assert leave_out_of_view(bucket, digest, {VIEWED}) and online.forget([digest], {VIEWED}) == 1
    assert online.get(digest, VIEWED) is None
    [listed] = [key for key in bucket.list(f"views/{digest}/") if key.endswith(USERS_JSON)]
    assert VIEWED.encode() not in bucket.get(listed)
