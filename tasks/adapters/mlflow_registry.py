"""The registry in an MLflow server, over its REST API, in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import httpx

from tasks.adapters.registry import MODEL, RELEASE, RUN_KEY, Dataset, Metric, Recorded, Registry, Version
from tasks.domain.errors import InputRejected, Unavailable
from tasks.settings import Settings

EXPERIMENT = "model_refresh"
TIMEOUT_S = 5.0
METRICS_A_CALL, PARAMS_A_CALL, TAGS_A_CALL = 800, 90, 90  # MLflow refuses more than 1,000, 100 and 100
PROXIED = "mlflow-artifacts:/"


class MlflowRegistry(Registry):
    """One connection. Nothing is retried here: the caller keeps what was not written and writes it later."""

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        self._url = settings.url("mlflow")
        self._http = httpx.Client(base_url=self._url, timeout=timeout_s)
        self._experiment_id: str | None = None
        self._has_model = False

    def run_page(self, run_id: str) -> str:
        return f"{self._url}/#/experiments/{self._experiment()}/runs/{run_id}"

    def pages(self, run_key: str, step: str) -> str:
        """The folder of one step's pages in the run of a refresh; the front page while there is no such run."""
        known = self._find(run_key)
        return f"{self.run_page(known.run_id)}/artifacts/{step}" if known else self._url

    def _page(self, run_id: str, path: str) -> str:
        return f"{self.run_page(run_id)}/artifacts/{path}"

    def read_run(self, run_id: str) -> Recorded:
        return _recorded(self._api("GET", "runs/get", params={"run_id": run_id})["run"])

    def find_version(self, release: str) -> Version | None:
        wanted = f"name = {_quoted(MODEL)} and tags.{RELEASE} = {_quoted(release)}"
        found = self._api("GET", "model-versions/search", params={"filter": wanted}).get("model_versions", [])
        oldest = min(found, key=lambda row: int(row["version"]), default=None)
        return Version(oldest["version"], oldest["source"], _pairs(oldest.get("tags", []))) if oldest else None

    def aliases(self) -> dict[str, str]:
        if not self._has_model:
            self._model()
        try:
            model = self._api("GET", "registered-models/get", params={"name": MODEL})["registered_model"]
        except InputRejected:  # deleted under our hands: made again at the next call
            self._has_model = False
            raise
        return {row["alias"]: row["version"] for row in model.get("aliases", [])}

    def artifact(self, run_id: str, path: str) -> bytes:
        return self._send("GET", self._artifact_path(run_id, path)).content

    def _find(self, value: str, tag: str = RUN_KEY) -> Recorded | None:
        wanted = {
            "experiment_ids": [self._experiment()],
            "filter": f'tags."{tag}" = {_quoted(value)}',
            "order_by": ["attributes.start_time ASC"],
            "max_results": 1,
        }
        runs = self._api("POST", "runs/search", json=wanted).get("runs", [])
        return _recorded(runs[0]) if runs else None

    def _create(self, name: str, run_key: str, tags: Mapping[str, str]) -> str:
        body = {
            "experiment_id": self._experiment(),
            "run_name": name,
            "start_time": _now_ms(),
            "tags": _rows({RUN_KEY: run_key, **tags}),
        }
        return str(self._api("POST", "runs/create", json=body)["run"]["info"]["run_id"])

    def _write(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        points = ({"key": m.key, "value": m.value, "timestamp": m.at_ms, "step": m.step} for m in metrics)
        left = [iter(points), iter(_rows(params or {})), iter(_rows(tags or {}))]
        limits = (METRICS_A_CALL, PARAMS_A_CALL, TAGS_A_CALL)
        while any(batch := [list(islice(rows, limit)) for rows, limit in zip(left, limits, strict=True)]):
            body = dict(zip(("metrics", "params", "tags"), batch, strict=True))
            self._api("POST", "runs/log-batch", json={"run_id": run_id, **body})

    def _log_input(self, run_id: str, dataset: Dataset) -> None:
        described = {
            "name": dataset.name,
            "digest": dataset.digest,
            "source_type": "freshrank",
            "source": json.dumps({"uri": dataset.uri}),
            "profile": json.dumps({"num_rows": dataset.rows}),
        }
        tags = _rows({"mlflow.data.context": dataset.context})
        self._api(
            "POST", "runs/log-inputs", json={"run_id": run_id, "datasets": [{"tags": tags, "dataset": described}]}
        )

    def _artifact_uri(self, run_id: str, path: str) -> str:
        root = self._api("GET", "runs/get", params={"run_id": run_id})["run"]["info"]["artifact_uri"]
        return f"{root}/{path}"

    def _put_artifact(self, run_id: str, path: str, content: bytes) -> None:
        self._send("PUT", self._artifact_path(run_id, path), content=content)

    def _end(self, run_id: str, status: str) -> None:
        self._api("POST", "runs/update", json={"run_id": run_id, "status": status, "end_time": _now_ms()})

    def _create_version(self, source: str, tags: Mapping[str, str], run_id: str | None) -> str:
        self._model()
        body = {"name": MODEL, "source": source, "tags": _rows(tags)} | ({"run_id": run_id} if run_id else {})
        return str(self._api("POST", "model-versions/create", json=body)["model_version"]["version"])

    def _tag_version(self, version: str, key: str, value: str) -> None:
        self._api(
            "POST", "model-versions/set-tag", json={"name": MODEL, "version": version, "key": key, "value": value}
        )

    def _set_alias(self, alias: str, version: str) -> None:
        self._api("POST", "registered-models/alias", json={"name": MODEL, "alias": alias, "version": version})

    def _drop_alias(self, alias: str) -> None:
        self._api("DELETE", "registered-models/alias", json={"name": MODEL, "alias": alias})

    def _experiment(self) -> str:
        if self._experiment_id is None:
            self._api("POST", "experiments/create", json={"name": EXPERIMENT}, exists_is_fine=True)
            found = self._api("GET", "experiments/get-by-name", params={"experiment_name": EXPERIMENT})
            self._experiment_id = str(found["experiment"]["experiment_id"])
        return self._experiment_id

    def _model(self) -> None:
        self._api("POST", "registered-models/create", json={"name": MODEL}, exists_is_fine=True)
        self._has_model = True

    def _artifact_path(self, run_id: str, path: str) -> str:
        root = str(self._api("GET", "runs/get", params={"run_id": run_id})["run"]["info"]["artifact_uri"])
        if not root.startswith(PROXIED):
            raise InputRejected(
                f"MLflow keeps artifacts at {root.split(':')[0]}, which this adapter does not write; start the server "
                f"with --artifacts-destination"
            )
        return f"/api/2.0/mlflow-artifacts/artifacts/{root.removeprefix(PROXIED).lstrip('/')}/{path}"

    def _api(self, method: str, path: str, *, exists_is_fine: bool = False, **body: Any) -> dict[str, Any]:
        answer = self._send(method, f"/api/2.0/mlflow/{path}", exists_is_fine=exists_is_fine, **body)
        told: dict[str, Any] = answer.json() if answer.content else {}
        return told

    def _send(self, method: str, path: str, *, exists_is_fine: bool = False, **body: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **body)
        except httpx.HTTPError as err:
            raise Unavailable(f"MLflow at {self._url} did not answer {method} {path}: {type(err).__name__}") from err
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable(f"MLflow answered {answer.status_code} to {method} {path}; see logs/mlflow.log")
        if answer.status_code >= 400 and not (exists_is_fine and "RESOURCE_ALREADY_EXISTS" in answer.text):
            raise InputRejected(f"MLflow refused {method} {path}: {answer.text[:300]}")
        return answer


def _recorded(row: Mapping[str, Any]) -> Recorded:
    info, data = row["info"], row.get("data", {})
    return Recorded(
        run_id=info["run_id"],
        name=info.get("run_name", ""),
        status=info["status"],
        metrics={metric["key"]: float(metric["value"]) for metric in data.get("metrics", [])},
        params=_pairs(data.get("params", [])),
        tags=_pairs(data.get("tags", [])),
        datasets=[_dataset(one) for one in row.get("inputs", {}).get("dataset_inputs", [])],
    )


def _dataset(row: Mapping[str, Any]) -> Dataset:
    said = row["dataset"]
    return Dataset(
        name=said["name"],
        digest=said["digest"],
        uri=json.loads(said["source"])["uri"],
        context=_pairs(row.get("tags", [])).get("mlflow.data.context", ""),
        rows=json.loads(said.get("profile", "{}")).get("num_rows", 0),
    )


def _pairs(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {row["key"]: row.get("value", "") for row in rows}


def _rows(pairs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in pairs.items()]


def _quoted(text: str) -> str:
    """A string of MLflow's filter language, which has no escape: the names that we ask for hold no quote."""
    if "'" in text:
        raise InputRejected(f"{text!r} cannot be looked up in MLflow: it holds a quote")
    return f"'{text}'"


def _now_ms() -> int:
    return int(time.time() * 1000)
