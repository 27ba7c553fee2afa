"""Airflow over its REST API v2: trigger a DAG, follow its tasks. Used by people's commands, never by a step."""

from __future__ import annotations

import time
from typing import Any

import httpx

from tasks.domain.errors import InputRejected, Unavailable
from tasks.settings import Settings

FINAL_STATES = ("success", "failed")


class AirflowClient:
    """One signed-in session. The token is fetched at first use and renewed when Airflow says 401."""

    def __init__(self, settings: Settings) -> None:
        self._password = settings.secrets.airflow_password
        self._url = settings.url("airflow")
        self._http = httpx.Client(base_url=self._url, timeout=20)

    def healthy(self) -> dict[str, str]:
        """Component -> status, as Airflow's health page says it."""
        answer: dict[str, dict[str, Any]] = self._request("GET", "/api/v2/monitor/health", signed=False)
        return {name: str(part.get("status")) for name, part in answer.items()}

    def unpause(self, dag: str, *, deadline_s: float = 90) -> None:
        """A new DAG is paused, and unknown until it is parsed: wait for that."""
        until = time.monotonic() + deadline_s
        while True:
            try:
                self._request("PATCH", f"/api/v2/dags/{dag}?update_mask=is_paused", json={"is_paused": False})
                return
            except InputRejected as err:
                if time.monotonic() > until:
                    raise Unavailable(
                        f"Airflow has not parsed {dag} after {deadline_s:.0f} s ({err}); see logs/airflow-dag-processor.log"
                    ) from err
                time.sleep(1)

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run with `conf` as its params and return its id."""
        answer = self._request("POST", f"/api/v2/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf})
        return str(answer["dag_run_id"])

    def dags(self) -> list[str]:
        """Ours, parsed and not paused."""
        answer = self._request("GET", "/api/v2/dags?limit=100&paused=false")
        return sorted(str(dag["dag_id"]) for dag in answer["dags"])

    def runs(self, dag: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Newest first."""
        answer = self._request("GET", f"/api/v2/dags/{dag}/dagRuns?limit={limit}&order_by=-run_after")
        found: list[dict[str, Any]] = answer["dag_runs"]
        return found

    def run_state(self, dag: str, run_id: str) -> str:
        return str(self._request("GET", f"/api/v2/dags/{dag}/dagRuns/{run_id}")["state"])

    def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        """task_id, state, duration, start_date ... of every task of a run, in Airflow's order."""
        answer = self._request("GET", f"/api/v2/dags/{dag}/dagRuns/{run_id}/taskInstances?limit=100")
        found: list[dict[str, Any]] = answer["task_instances"]
        return found

    def task_log(self, dag: str, run_id: str, task: str, attempt: int) -> str:
        path = f"/api/v2/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/logs/{max(1, attempt)}?full_content=true"
        answer = self._request("GET", path)
        return "\n".join(_log_line(line) for line in answer.get("content", []))

    def xcom(self, dag: str, run_id: str, task: str) -> Any:
        """What a task returned: a manifest URI."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value"
        return self._request("GET", path)["value"]

    def links(self, dag: str, run_id: str, task: str) -> dict[str, str]:
        """The buttons of a task: what is written on them -> where they lead."""
        found = self._request("GET", f"/api/v2/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/links")
        return dict(found["extra_links"])

    def run_page(self, dag: str, run_id: str) -> str:
        return f"{self._url}/dags/{dag}/runs/{run_id}"

    def _request(self, method: str, path: str, *, signed: bool = True, json: Any = None) -> Any:
        try:
            if signed and "authorization" not in self._http.headers:
                self._sign_in()
            answer = self._http.request(method, path, json=json)
            if answer.status_code == 401 and signed:
                self._sign_in()
                answer = self._http.request(method, path, json=json)
        except httpx.HTTPError as err:
            raise Unavailable(
                f"Airflow at {self._url} does not answer ({type(err).__name__}); run `freshrank doctor`"
            ) from err
        if answer.status_code >= 500:
            raise Unavailable(
                f"Airflow answered {answer.status_code} to {method} {path}; see logs/airflow-api-server.log"
            )
        if answer.status_code >= 400:
            raise InputRejected(f"Airflow refused {method} {path}: {_detail(answer)}")
        return answer.json()

    def _sign_in(self) -> None:
        answer = self._http.post("/auth/token", json={"username": "admin", "password": self._password})
        if answer.status_code >= 400:
            raise InputRejected("Airflow refused the password of secrets.json; was it started with another home?")
        self._http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"


def _log_line(line: Any) -> str:
    """The text of one structured entry; of an error, what was raised."""
    if not isinstance(line, dict):
        return str(line)
    raised = [f"{one.get('exc_type')}: {one.get('exc_value')}" for one in line.get("error_detail") or ()]
    return " ".join([str(line.get("event", "")), *raised])


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.text))
    except ValueError:
        return answer.text[:300]
