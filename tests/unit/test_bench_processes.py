"""What a benchmark started ends with it, also when somebody kills the benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK = """
import sys, time
from pathlib import Path
from benchmarks._processes import free_port, leave_on_sigterm, running
leave_on_sigterm()
port = free_port()
command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
with running(command, {}, f"http://127.0.0.1:{port}/", Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("signalled", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_killed_benchmark_leaves_no_process(tmp_path, signalled, code):
    line = [sys.executable, "-c", BENCHMARK, str(tmp_path)]
    benchmark = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert benchmark.stdout is not None
    child = psutil.Process(int(benchmark.stdout.readline()))
    assert child.is_running() and "http.server" in child.cmdline()
    benchmark.send_signal(signalled)
    assert benchmark.wait(30) == code
    benchmark.stdout.close()
    gone, alive = psutil.wait_procs([child], timeout=30)
    assert gone and not alive
