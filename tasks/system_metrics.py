"""CPU, memory and GPU of a training while it runs, under the names by which MLflow shows system metrics."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Self

import psutil

FILE = "system.json"  # [{name: value, ...}, ...], one point an interval
MOST_POINTS = 400


class SystemMetrics:
    """`with SystemMetrics(out / FILE): ...` samples in a thread and writes the series at the end.

    A long run is told in as many points as a short one: when there are too many, every second one goes.
    """

    def __init__(self, path: Path, every_s: float = 2.0) -> None:
        self._path, self._every_s = path, every_s
        self._points: list[dict[str, float]] = []
        self._done = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._sample, name="system-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._process.cpu_percent()  # the first call only starts the clock
        psutil.cpu_percent()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()
        self._points.append(self._point())
        if error[0] is None:
            self._path.write_text(json.dumps(self._points))

    def _sample(self) -> None:
        while not self._done.wait(self._every_s):
            self._points.append(self._point())
            if len(self._points) >= MOST_POINTS:
                self._points, self._every_s = self._points[1::2], 2 * self._every_s

    def _point(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
            "system/system_memory_usage_megabytes": memory.used / 1e6,
        } | _gpu()


def _gpu() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "system/gpu_0_memory_usage_megabytes": (total - free) / 1e6,
        "system/gpu_0_memory_usage_percentage": 100 * (total - free) / total,
    }
