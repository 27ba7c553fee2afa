"""IAM policies against the calls that a run really makes, on a real object store: all allowed, and no more than that.

What is not recorded here: MLflow's server makes its calls in a process of its own; its role is asked about what its
documentation says (get, put, list under mlflow/). Training reads and writes objects through the same door as the steps here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.adapters import merchandising
from tasks.adapters.merchandising import InStore
from tasks.adapters.registry import MemoryRegistry
from tasks.adapters.releases import publish, publish_release
from tasks.adapters.signing import public_keys
from tasks.adapters.store import S3Store
from tasks.clock import drop_anchor, newest_partition
from tasks.controller.fetch import fetch
from tasks.controller.pull import ReleaseLibrary
from tasks.controller.rules import bring
from tasks.domain.behaviour import pseudonym
from tasks.domain.merchandising import Merchandising
from tasks.domain.prune import RetentionPolicy
from tasks.erasure.erase import erase, look_for
from tasks.ingest import ingest
from tasks.prune.store import prune_store
from tasks.record import mirror_serving
from tasks.run import run
from tasks.serving import upload
from tasks.serving.release import verify
from tasks.serving.signature import read_public_keys
from tasks.settings import Settings
from tasks.steps import STEPS
from tests.behaviour_builders import KEY, KEY_ID
from tests.contract.test_feedback_upload import keep, write_config
from tests.erasure_builders import THIRD, a_source
from tests.iam_builders import BUCKET, Asked, allows, of_object, policy, recorded
from tests.iam_builders import KEY as KMS_KEY
from tests.rollout_stack import make_release
from tests.shop_source import write_shop

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DAY = "2017-03-24"
ROLES = ("steps", "controller", "ranker", "mlflow", "eraser", "pruner")


@pytest.fixture(scope="module")
def calls(store_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Asked]]:
    """Role -> what it was seen to ask for: three steps, a release published, pulled, mirrored, fed back to and erased from."""
    home = tmp_path_factory.mktemp("iam")
    settings = store_settings.model_copy(
        update={"store_bucket": "freshrank-iam", "source": f"files:{write_shop(home)}", "recipe": "tiny"}
    )
    made = Settings(home=home / "made")
    seen: dict[str, set[Asked]] = {}
    S3Store(settings).create_bucket()
    release = make_release(made, "one")
    serving, keys = made.data / "serving", public_keys(made)
    view = verify(serving / "releases" / release).record.view

    with recorded() as seen["steps"]:
        store = S3Store(settings)
        ingested = run(STEPS["ingest"], DAY, {}, settings, store=store)
        validated = run(STEPS["validate_data"], DAY, {"ingest": ingested}, settings, store=store)
        assert run(STEPS["validate_data"], DAY, {"ingest": ingested}, settings, store=store) == validated
        publish_release(store, release, serving / "releases" / release, next(iter(read_public_keys(keys))))
        publish(store, "views", view, serving / "views" / view)
        newest_partition(store, "2026-01-01")
    drop_anchor(store, "2026-01-01", DAY)  # by `make run`, with the person's own rights
    with recorded() as seen["controller"]:
        store = S3Store(settings)
        ReleaseLibrary(home / "controller", lambda: store, keys).pull(release)
        status = {"champion": {"release": release}, "challenger": None, "previous": None}
        assert mirror_serving(MemoryRegistry(), store, status)
        _say_rules(settings)
    with recorded() as seen["ranker"]:
        fetch(ReleaseLibrary(home / "pod", lambda: S3Store(settings), keys), release, home / "pod" / "current")
        _upload_feedback(settings, home)
        assert bring(InStore(S3Store(settings)), home / "pod" / "merchandising", listed=True)
    elsewhere = settings.model_copy(update={"store_bucket": "freshrank-iam-erase"})
    S3Store(elsewhere).create_bucket()
    with recorded() as seen["eraser"]:
        _erase_somebody(S3Store(elsewhere), settings, home)
    with recorded() as seen["pruner"]:
        for _ in range(2):  # marked, then deleted; nothing serves, and months have passed
            prune_store(S3Store(settings), dict, RetentionPolicy(), datetime.now(UTC) + timedelta(days=400))
    return seen


def _say_rules(settings: Settings) -> None:
    """More changes than are kept."""
    in_store = settings.model_copy(update={"merchandising": "store"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merchandising, "KEPT", 1)
        for item in ("a", "b"):
            rules = Merchandising(blocked=frozenset({item}))
            merchandising.change(in_store, "test", "recall", lambda _, rules=rules: rules)


def _upload_feedback(settings: Settings, home: Path) -> None:
    from tasks.serving.feedback import Spool
    from tasks.serving.metrics import Metrics

    nowhere = write_config(home / "nowhere.json", settings, "http://127.0.0.1:1")
    spool = Spool(home / "spool", "d" * 64, "r1", Metrics("d" * 64, "r1"), nowhere)
    keep(spool, "request-1")
    spool.close()
    config = write_config(home / "store.json", settings, settings.url("store"))
    assert upload.main(["--spool", str(home / "spool"), "--store-config", str(config)]) == 0


def _erase_somebody(store: S3Store, settings: Settings, home: Path) -> None:
    ingest(a_source(), store, THIRD, KEY, KEY_ID)
    holdings = look_for(store, pseudonym("user-7", KEY))
    erase(store, settings.model_copy(update={"home": home / "e"}), None, holdings, "test", "asked", NOW)


@pytest.mark.parametrize("role", ["steps", "controller", "ranker", "eraser", "pruner"])
def test_every_call_that_was_made_is_allowed(role: str, calls: dict[str, set[Asked]]) -> None:
    made, granted = calls[role], policy(role)
    assert len(made) >= 8
    assert [one for one in made if not allows(granted, one)] == []


@pytest.mark.parametrize("role", ["steps", "controller", "ranker", "pruner"])
def test_nothing_is_granted_that_no_call_was_seen_to_need(role: str, calls: dict[str, set[Asked]]) -> None:
    """Each statement is used by a recorded call, so that a right that nobody needs any more is found."""
    for statement in policy(role):
        assert any(allows([statement], one) for one in calls[role]), statement["Sid"]


def test_mlflow_keeps_to_its_folder() -> None:
    granted = policy("mlflow")
    for action in ("s3:GetObject", "s3:PutObject"):
        assert allows(granted, of_object(action, "mlflow/1/abc/artifacts/gate/decision.html"))
    assert allows(granted, Asked("s3:ListBucket", BUCKET, {"s3:prefix": "mlflow/1/"}))
    assert not allows(granted, Asked("s3:ListBucket", BUCKET, {"s3:prefix": "users/"}))
    assert not allows(granted, Asked("s3:ListBucket", BUCKET))


OTHER = "arn:aws:s3:::other"
FORBIDDEN = [
    # nobody deletes but the eraser, and she does not delete releases or the record of an erasure; and the pruner, who touches
    # no row of a person and makes no release
    *((role, of_object("s3:DeleteObject", "releases/a/release/model/base.bin")) for role in ROLES[:5]),
    ("pruner", of_object("s3:DeleteObject", "behaviour/dt=2017-03-24/manifest.json")),
    ("pruner", of_object("s3:DeleteObject", "control/erased/a.json")),
    ("pruner", of_object("s3:DeleteObjectVersion", "releases/a.json")),
    ("pruner", of_object("s3:GetObject", "views/a/users.json")),
    ("pruner", of_object("s3:PutObject", "releases/a.json")),
    ("steps", of_object("s3:PutObject", "control/pruned/runs/finetune/2017-03-24/a.json")),
    *((role, of_object("s3:DeleteObject", "behaviour/dt=2017-03-24/manifest.json")) for role in ROLES[:4]),
    ("eraser", of_object("s3:DeleteObject", "control/erased/a.json")),
    ("eraser", of_object("s3:DeleteObjectVersion", "users/a.parquet")),
    # the lock and the history stay
    *((role, of_object("s3:BypassGovernanceRetention", "runs/ingest/a.json")) for role in ROLES),
    ("steps", of_object("s3:PutObjectRetention", "releases/a.json")),
    ("steps", Asked("s3:PutBucketVersioning", BUCKET)),
    ("eraser", Asked("s3:PutLifecycleConfiguration", BUCKET)),
    ("steps", Asked("s3:PutBucketPolicy", BUCKET)),
    # who serves neither trains nor reads behaviour
    ("ranker", of_object("s3:PutObject", "releases/a.json")),
    ("ranker", of_object("s3:GetObject", "behaviour/dt=2017-03-24/events-0001.parquet")),
    ("ranker", of_object("s3:GetObject", "users/a.parquet")),
    ("ranker", of_object("s3:GetObject", "feedback/dt=2017-03-24/a.parquet")),
    ("ranker", of_object("s3:PutObject", "behaviour/dt=2017-03-24/manifest.json")),
    ("controller", of_object("s3:PutObject", "releases/a.json")),
    ("controller", of_object("s3:PutObject", "feedback/dt=2017-03-24/a.parquet")),
    ("controller", of_object("s3:GetObject", "users/a.parquet")),
    ("controller", of_object("s3:PutObject", "control/released/2017-03-24.json")),
    ("controller", of_object("s3:DeleteObject", "control/erased/a.json")),
    # what may not be shown is said where the controller runs, and nowhere else
    *(
        (role, of_object("s3:PutObject", "control/merchandising/00000001.json"))
        for role in ROLES
        if role != "controller"
    ),
    *(
        (role, of_object("s3:DeleteObject", "control/merchandising/00000001.json"))
        for role in ROLES
        if role != "controller"
    ),
    # who trains decides neither what a person let pass nor who was erased
    ("steps", of_object("s3:PutObject", "control/released/2017-03-24.json")),
    ("steps", of_object("s3:PutObject", "control/erased/a.json")),
    ("steps", of_object("s3:PutObject", "control/anchor.json")),
    ("steps", of_object("s3:GetObject", "mlflow/1/abc/artifacts/gate/decision.html")),
    ("mlflow", of_object("s3:GetObject", "users/a.parquet")),
    ("mlflow", of_object("s3:PutObject", "releases/a.json")),
    # no other bucket, key or service
    *((role, Asked("s3:GetObject", f"{OTHER}/releases/a.json")) for role in ROLES),
    *((role, Asked("kms:ScheduleKeyDeletion", KMS_KEY)) for role in ROLES),
    *((role, Asked("kms:Decrypt", f"{KMS_KEY}-of-the-database")) for role in ROLES),
    *((role, Asked("iam:PassRole", "arn:aws:iam::123456789012:role/admin")) for role in ROLES),
    *((role, Asked("sts:AssumeRole", "arn:aws:iam::123456789012:role/freshrank-eraser")) for role in ROLES),
]


def test_there_are_thirty_and_more() -> None:
    assert len({(role, asked.action, asked.resource) for role, asked in FORBIDDEN}) == len(FORBIDDEN) >= 30


@pytest.mark.parametrize(("role", "asked"), FORBIDDEN, ids=lambda part: getattr(part, "action", part))
def test_what_nobody_needs_is_denied(role: str, asked: Asked) -> None:
    assert not allows(policy(role), asked)


def test_the_evaluator_denies_first_and_refuses_what_it_does_not_know() -> None:
    allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    read = of_object("s3:GetObject", "users/a")
    assert allows([allow], read)
    assert not allows([allow, allow | {"Effect": "Deny", "Action": ["s3:Get*"]}], read)
    assert not allows([], read)
    with pytest.raises(AssertionError, match="does not know"):
        allows([allow | {"NotAction": "s3:GetObject"}], read)
