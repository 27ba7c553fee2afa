"""Loading a model must not touch how the main thread takes signals: one too small signal stack killed whole processes."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import ctypes, sys
from pathlib import Path
import numpy as np
import openvino
from openvino import opset13 as ops
from tasks.ranker.runtime import compiled

class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def signal_stack():
    now = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now))
    return now.at, now.flags, now.size

x = ops.parameter([-1, 4], np.float32)
openvino.save_model(openvino.Model([ops.relu(x)], [x]), Path(sys.argv[1]) / "model.xml")
before = signal_stack()
model = compiled(Path(sys.argv[1]) / "model.xml", 1)
assert signal_stack() == before, (before, signal_stack())
assert model.create_infer_request().infer([np.full((1, 4), -1, np.float32)])[0].sum() == 0
"""


def test_the_main_threads_signal_stack_stays_as_it_was(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
