"""Pods of an indexed Job, played by processes of this machine: what the Job controller and the kubelet would make of it.

They share one loopback address, so that the rendezvous is named by it; all else of the command is the manifest's.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

from tests.kubernetes_cluster import PYTHON, ROOT, Cluster

TWO_PODS = {"--nnodes=3": "--nnodes=2", "--nproc-per-node=2": "--nproc-per-node=1"}


def training_pattern() -> str:
    """training.yaml as the chart renders it, for two pods of one process."""
    line = [str(PYTHON), "-m", "infra.rendered", "training"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    maps = [one["data"] for one in json.loads(done.stdout) if one["kind"] == "ConfigMap"]
    (text,) = [str(one["training.yaml"]) for one in maps if "training.yaml" in one]
    for rendered, smaller in TWO_PODS.items():
        assert rendered in text
        text = text.replace(rendered, smaller)
    return text.replace("completions: 3", "completions: 2").replace("parallelism: 3", "parallelism: 2")


class PlayedPods:
    """Runs the pods of every Job there is, each failed one again, until the end of the block."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._over, self.started = cluster, threading.Event(), 0
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._pods: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> PlayedPods:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)
        for pod in self._pods.values():
            pod.kill()
            pod.wait()

    def _play(self) -> None:
        port = free_port()
        while not self._over.wait(0.1):
            for job in self._cluster.objects("Job"):
                if not job.get("status", {}).get("conditions"):
                    self._look(job, port)

    def _look(self, job: dict[str, Any], port: int) -> None:
        succeeded = 0
        for index in range(job["spec"]["completions"]):
            pod = self._pods.get(index)
            if pod is None or pod.poll() not in (None, 0):
                self._pods[index] = self._start(job, port)
                self.started += 1
            elif pod.poll() == 0:
                succeeded += 1
        status: dict[str, Any] = {"active": job["spec"]["completions"] - succeeded, "succeeded": succeeded}
        if not status["active"]:
            status["conditions"] = [{"type": "Complete", "status": "True"}]
        self._cluster.patch("Job", job["metadata"]["name"], {"status": status})

    def _start(self, job: dict[str, Any], port: int) -> subprocess.Popen[bytes]:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        known = {"JOB_UID": job["metadata"]["uid"], "POD_IP": "127.0.0.1"}
        given = {one["name"]: one["value"] for one in container["env"] if "value" in one and one["name"] != "HOME"}
        args = list(container["args"])
        for name, value in known.items():
            args = [one.replace(f"$({name})", value) for one in args]
        endpoint = f"{job['metadata']['name']}-0.freshrank-trainer:29500"
        args = [one.replace(endpoint, f"127.0.0.1:{port}") for one in args]
        assert f"--rdzv-endpoint=127.0.0.1:{port}" in args and container["command"][0] == "python"
        line = [sys.executable, *container["command"][1:], *args]
        return subprocess.Popen(line, cwd=ROOT, env=os.environ | given | known)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
