"""Runs and model versions in MLflow: a view for people of what manifests, decisions and the rollout log already say.

`Registry` knows what is written where; `MlflowRegistry` and `MemoryRegistry` only how. Everything may be written
twice: runs are found by tag, metrics carry the time of their manifest, versions are found by release. No pickle, no model
files: a version names the release in the object store. The adapter speaks MLflow's REST API, because importing the client
costs each step three seconds of compute and 2,000 modules.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tasks.domain.gate import Verdict
from tasks.domain.manifest import Manifest

MODEL = "ranker"
RUN_KEY = "freshrank.run_key"
NOTE = "mlflow.note.content"  # MLflow shows this tag as the page's description
PARENT = "mlflow.parentRunId"
RELEASE = "release"
ALIASES = ("champion", "challenger", "previous")
FINDING_NUMBERS = ("champion", "candidate", "difference", "bound", "margin")
LONGEST_TAG = 5_000
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Metric:
    key: str
    value: float
    at_ms: int
    step: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """Data that a run read: a name, a digest (36 characters at most) and where it is. `context` says what for."""

    name: str
    digest: str
    uri: str
    context: str
    rows: int


@dataclass(slots=True)
class Recorded:
    """One run as the registry has it."""

    run_id: str
    name: str
    status: str = "RUNNING"
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[Dataset] = field(default_factory=list)


@dataclass(slots=True)
class Version:
    """One registered version of the ranker: which release it names, and what is known about it."""

    version: str
    source: str
    tags: dict[str, str] = field(default_factory=dict)


class Registry(ABC):
    """What freshrank writes down for people. Raises Unavailable when the registry does not answer in time."""

    def refresh_run(
        self, run_key: str, partition: str, tags: Mapping[str, str] | None = None, named: str = "refresh"
    ) -> str:
        """The id of the run of one refresh, made at first use. Of two made at once, the older one is the run."""
        known = self._find(run_key)
        run_id = known.run_id if known else self._create(f"{named} {partition}", run_key, {"partition": partition})
        if tags:
            self._write(run_id, tags=tags)
        return run_id

    def log_step(self, run_id: str, uri: str, manifest: Manifest) -> None:
        """Params, every number of the summary as `step.name`, every sentence as a tag, and where the manifest is."""
        step, at = manifest.step, _milliseconds(manifest.started_at)
        numbers = {f"{step}.{key}": value for key, value in _numbers(manifest.summary)} | {
            f"{step}.seconds": manifest.seconds
        }
        tags = {f"{step}.{key}": value for key, value in manifest.summary.items() if isinstance(value, str)}
        tags |= {
            f"{step}.manifest": uri,
            "code": manifest.code_version,
            "lock": manifest.lock_digest,
            "seed": str(manifest.seed),
        }
        params = {f"{step}.{key}": str(value) for key, value in manifest.params.items()}
        self._log(run_id, [Metric(key, value, at) for key, value in numbers.items()], params, tags)

    def log_candidate(self, run_id: str, verdict: Verdict, at: str, tags: Mapping[str, str] | None = None) -> str:
        """A nested run for one candidate with every finding: its numbers as metrics, all of it as findings.json."""
        parent = self.read_run(run_id)
        key = f"{parent.tags[RUN_KEY]}/{verdict.kind}"
        known = self._find(key)
        nested = (
            known.run_id if known else self._create(f"{verdict.kind} {parent.tags['partition']}", key, {PARENT: run_id})
        )
        numbers = [
            Metric(finding_metric(finding.name, finding.slice, name), number, _milliseconds(at))
            for finding in verdict.findings
            for name in FINDING_NUMBERS
            if (number := getattr(finding, name)) is not None
        ]
        told = {"outcome": str(verdict.outcome), "kind": verdict.kind, NOTE: shortened(verdict.reason)}
        self._log(nested, numbers, {}, told | dict(tags or {}))
        findings = [finding.model_dump(mode="json") for finding in verdict.findings]
        self.log_artifacts(nested, {"findings.json": json.dumps(findings, indent=1, sort_keys=True).encode()})
        self.close(nested, "FINISHED")
        return nested

    def log_curves(self, run_id: str, curves: Mapping[str, Sequence[float]], at: str) -> None:
        """A series each, one point a step."""
        moment = _milliseconds(at)
        points = [
            Metric(name, float(value), moment, step)
            for name, series in curves.items()
            for step, value in enumerate(series)
            if math.isfinite(value)
        ]
        self._log(run_id, points, {}, {})

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """What a run was told. The same again is a no-op."""
        self._log(run_id, [], params, {})

    def log_artifacts(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Small files for people: reports and pictures, never models."""
        for path, content in files.items():
            self._put_artifact(run_id, path, content)

    def note(self, run_id: str, text: str, page: str = "") -> None:
        """What the run's page opens with; a text that is too long ends with a whole line and a link to `page`, an artifact."""
        self._write(run_id, tags={NOTE: shortened(text, self._page(run_id, page) if page else "")})

    def close(self, run_id: str, status: str) -> None:
        """FINISHED or FAILED. A rerun closes it again."""
        self._end(run_id, status)

    def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        """Name the data that a run read. Once for each name and digest, however often it is said."""
        self._log_input(run_id, dataset)

    def run_of(self, release: str) -> str | None:
        """The run of the refresh that packaged a release."""
        found = self._find(release, tag="package.release")
        return found.run_id if found else None

    def register(
        self,
        release: str,
        source: str,
        tags: Mapping[str, str],
        run_id: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> str:
        """The version that names this release, made at first use; its tags are brought up to date.

        Args:
            source: where the release is.
            files: what MLflow shows as the model (MLmodel, an example). They are the run's; the version points to them.
        """
        version = self.find_version(release)
        if version is None and run_id and files:
            folder = f"releases/{release[:12]}"
            self.log_artifacts(run_id, {f"{folder}/{name}": content for name, content in files.items()})
            tags, source = {"source": source, **tags}, self._artifact_uri(run_id, folder)
        number = version.version if version else self._create_version(source, {RELEASE: release}, run_id)
        for key, value in tags.items():
            if version is None or version.tags.get(key) != value:
                self._tag_version(number, _name(key), value[:LONGEST_TAG])
        return number

    def mirror_aliases(self, status: Mapping[str, Any], register: Callable[[str], str]) -> dict[str, str]:
        """Make champion, challenger and previous say what the controller's status says; alias -> what was changed.

        Args:
            register: makes a version of a release that has none: it was made while MLflow was down, or deleted there.
        """
        present, changed = self.aliases(), dict[str, str]()
        for alias in ALIASES:
            serving = status.get(alias)
            digest = (serving.get("digest") or serving.get("release")) if serving else None
            known = self.find_version(digest) if digest else None
            version = known.version if known else register(digest) if digest else None
            if present.get(alias) == version:
                continue
            changed[alias] = f"{present.get(alias, 'none')} -> {version or 'none'}"
            if version:
                self._set_alias(alias, version)
            else:
                self._drop_alias(alias)
        return changed

    def _log(self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """MLflow never changes a param: where a rerun has another value, it is kept as a tag beside the first one."""
        known = self.read_run(run_id).params
        fresh = {_name(key): value for key, value in params.items()}
        changed = {f"{key}.rerun": value for key, value in fresh.items() if known.get(key, value) != value}
        self._write(
            run_id,
            metrics=[Metric(_name(m.key), m.value, m.at_ms, m.step) for m in metrics],
            params={key: value for key, value in fresh.items() if key not in known},
            tags={_name(key): value[:LONGEST_TAG] for key, value in {**tags, **changed}.items()},
        )

    @abstractmethod
    def read_run(self, run_id: str) -> Recorded: ...

    @abstractmethod
    def _page(self, run_id: str, path: str) -> str:
        """Where people see an artifact of a run."""
        ...

    @abstractmethod
    def find_version(self, release: str) -> Version | None: ...

    @abstractmethod
    def aliases(self) -> dict[str, str]:
        """Alias -> version number."""
        ...

    @abstractmethod
    def _find(self, value: str, tag: str = RUN_KEY) -> Recorded | None:
        """The oldest run whose tag says this."""
        ...

    @abstractmethod
    def _create(self, name: str, run_key: str, tags: Mapping[str, str]) -> str: ...

    @abstractmethod
    def _write(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None: ...

    @abstractmethod
    def _log_input(self, run_id: str, dataset: Dataset) -> None: ...

    @abstractmethod
    def _artifact_uri(self, run_id: str, path: str) -> str: ...

    @abstractmethod
    def _put_artifact(self, run_id: str, path: str, content: bytes) -> None: ...

    @abstractmethod
    def _end(self, run_id: str, status: str) -> None: ...

    @abstractmethod
    def _create_version(self, source: str, tags: Mapping[str, str], run_id: str | None) -> str: ...

    @abstractmethod
    def _tag_version(self, version: str, key: str, value: str) -> None: ...

    @abstractmethod
    def _set_alias(self, alias: str, version: str) -> None: ...

    @abstractmethod
    def _drop_alias(self, alias: str) -> None: ...


class MemoryRegistry(Registry):
    """The in-memory twin, for unit tests. Passes the same contract suite as MlflowRegistry."""

    def __init__(self) -> None:
        self.runs: dict[str, Recorded] = {}
        self.artifacts: dict[tuple[str, str], bytes] = {}
        self.versions: dict[str, Version] = {}
        self._aliases: dict[str, str] = {}

    def read_run(self, run_id: str) -> Recorded:
        return self.runs[run_id]

    def _page(self, run_id: str, path: str) -> str:
        return f"memory:/{run_id}/{path}"

    def find_version(self, release: str) -> Version | None:
        return next((v for v in self.versions.values() if v.tags.get(RELEASE) == release), None)

    def aliases(self) -> dict[str, str]:
        return dict(self._aliases)

    def _find(self, value: str, tag: str = RUN_KEY) -> Recorded | None:
        return next((run for run in self.runs.values() if run.tags.get(tag) == value), None)

    def _create(self, name: str, run_key: str, tags: Mapping[str, str]) -> str:
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = Recorded(run_id, name, tags={RUN_KEY: run_key, **tags})
        return run_id

    def _write(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        run = self.runs[run_id]
        run.metrics |= {metric.key: metric.value for metric in metrics}
        run.params |= params or {}
        run.tags |= tags or {}

    def _log_input(self, run_id: str, dataset: Dataset) -> None:
        if dataset not in self.runs[run_id].datasets:
            self.runs[run_id].datasets.append(dataset)

    def _artifact_uri(self, run_id: str, path: str) -> str:
        return f"memory:/{run_id}/{path}"

    def _put_artifact(self, run_id: str, path: str, content: bytes) -> None:
        self.artifacts[run_id, path] = content

    def _end(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    def _create_version(self, source: str, tags: Mapping[str, str], run_id: str | None) -> str:
        version = str(len(self.versions) + 1)
        self.versions[version] = Version(version, source, dict(tags))
        return version

    def _tag_version(self, version: str, key: str, value: str) -> None:
        self.versions[version].tags[key] = value

    def _set_alias(self, alias: str, version: str) -> None:
        self._aliases[alias] = version

    def _drop_alias(self, alias: str) -> None:
        self._aliases.pop(alias, None)


def finding_metric(name: str, slice_name: str, number: str) -> str:
    """finding.ndcg_at_10.all.bound: the metric that holds one number of one finding."""
    return _name(f"finding.{name}.{slice_name}.{number}")


def shortened(text: str, whole: str = "") -> str:
    """Of a text too long for a tag: as many whole lines or sentences as fit, and where the whole of it is."""
    if len(text) <= LONGEST_TAG:
        return text
    end = f"\n\nCut here; [the whole record]({whole})" if whole else "\n\nCut here; findings.json has the rest"
    head = text[: LONGEST_TAG - len(end)]
    stop = max(head.rfind("\n"), head.rfind("; "), head.rfind(". ") + 1)
    return (head[:stop] if stop > 0 else head) + end


def _name(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text)[:250]


def _numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number of a summary, nested ones with dotted names."""
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
