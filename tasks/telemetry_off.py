"""Every switch that keeps a package of this stack from calling home, in one table. Values are what each package parses.

The supervisor puts the table into the environment of every service; `apply` does it for the command line and the steps.
Command-line-only switches (SeaweedFS) are in infra/local/services.py and named here, so that this page stays complete.
"""

from __future__ import annotations

import os

TELEMETRY_OFF: dict[str, str] = {
    "DO_NOT_TRACK": "true",  # the common convention; mlflow reads only the word, huggingface_hub any truthy value
    # MLflow: usage events, and the telemetry configuration that its web page would fetch
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # BentoML: build and serve events, every 12 hours
    "BENTOML_DO_NOT_TRACK": "True",
    # Great Expectations: the release in the lock carries no sender any more; older and newer ones read this
    "GX_ANALYTICS_ENABLED": "False",
    # Hugging Face: events, user agent details, and every look-up on the hub
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # OpenVINO: its sender knows no switch of its own, it only stays silent in CI, which this variable claims
    "TF_BUILD": "1",
    # NNCF: any value replaces its sender by a stub
    "NNCF_CI": "1",
    # Airflow: 3.3 sends nothing; releases up to 3.1 had this switch
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "SCARF_NO_ANALYTICS": "true",
    "SCARF_ANALYTICS": "false",
    # k6: usage report
    "K6_NO_USAGE_REPORT": "true",
    # pip and uv, which BentoML calls
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    # boto3 would ask the cloud's metadata address for a role; on AWS, where that is the role, see `environment`
    "AWS_EC2_METADATA_DISABLED": "true",
    # SeaweedFS: no variable; `-master.telemetry=false`
    # Envoy, Valkey: send nothing
}


def environment(*, on_aws: bool = False) -> dict[str, str]:
    """The table for one child process. On AWS the metadata address stays reachable: roles come from there."""
    return {k: v for k, v in TELEMETRY_OFF.items() if not (on_aws and k == "AWS_EC2_METADATA_DISABLED")}


def apply(*, on_aws: bool = False) -> None:
    """Switch everything off in this process. Call it before the first heavy import: packages read it once."""
    os.environ.update(environment(on_aws=on_aws))
