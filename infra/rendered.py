"""The chart as manifests: rendered offline with the value files of infra/helm/freshrank/ci. Needs helm-python-sdk.

Runs in .venv-infra (`make check-infra`); nothing of the product imports it. `python -m infra.rendered CASE` prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent / "helm" / "freshrank"
BASE = "controller"
CASES = (BASE, "pinned", "argo", "airflow", "training")
PATTERNS = ("objects.yaml", "training.yaml")  # files of ConfigMaps that hold manifests, from which others make objects
Manifest = dict[str, Any]


def laid_over(below: Manifest, above: Manifest) -> Manifest:
    """As Helm merges value files: objects key by key, everything else replaced."""
    both = dict(below)
    for key, value in above.items():
        known = both.get(key)
        both[key] = laid_over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def values_of(case: str) -> Manifest:
    """Values of a case: the least that one must set, and what the case adds."""
    read = [yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text()) for name in dict.fromkeys((BASE, case))]
    return laid_over(read[0], read[-1])


def render(values: Manifest) -> list[Manifest]:
    """Every manifest, those inside the patterns of controller and training included.

    Raises:
        helm_python.HelmValuesError: with the sentences of values.schema.json.
    """
    from helm_python import Chart

    with Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="freshrank", namespace="ranking")
    found = [one for text in texts.values() for one in yaml.safe_load_all(text) if one]
    patterns = [text for one in found for name, text in (one.get("data") or {}).items() if name in PATTERNS]
    held = [one for text in patterns for one in yaml.safe_load_all(text) if one]
    return found + [
        one for one in held if one["kind"] != "Pod"
    ]  # what is laid over a pod of Airflow's is none by itself


def pod_template(manifest: Manifest) -> Manifest | None:
    """The pods that a manifest makes, if it makes any."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: Manifest | None = spec.get("template")
    return template if manifest["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob", "Rollout") else None


if __name__ == "__main__":
    json.dump(render(values_of(sys.argv[1])), sys.stdout)
