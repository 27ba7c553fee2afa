"""One small dataset, trained and compressed once for all files that read it; each file has a copy of the cache."""

from __future__ import annotations

import shutil

import pytest

from tasks.compress import compress
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import prepare
from tests.shop import LAST, open_shop
from tests.tiny_training import PARTITION, RECIPE, built, trained


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    return open_shop(tmp_path_factory.mktemp("shop") / "days", last=LAST + 3)


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """Where the shared parts lie: nobody but these fixtures writes there."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def dataset(shop, kept):
    return built(shop, kept, PARTITION)[0]


@pytest.fixture(scope="session")
def model(dataset, kept):
    return trained(dataset, kept / "model")


@pytest.fixture(scope="session")
def compressed(model, dataset, kept):
    out = kept / "compressed"
    out.mkdir()
    return out, compress(model[0], dataset, RECIPE, kept / "cache", out)


@pytest.fixture(scope="session")
def slates(dataset):
    data = Dataset.open(dataset)
    return prepare(data.mornings(data.split.validation_days))


@pytest.fixture(scope="module")
def home(compressed, kept, tmp_path_factory):
    """A folder of this file's own, with all that is in the cache by now."""
    own = tmp_path_factory.mktemp("training")
    shutil.copytree(kept / "cache", own / "cache")
    return own
