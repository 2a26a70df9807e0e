"""What a worker's process is like once PyTorch is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

from support.processes import ROOT

REPORT = """
import gc, json, os
from e2v_cli.inference.load import prepare_process
before = gc.get_freeze_count()
prepare_process("cpu")
import torch
threads = torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
print(json.dumps([gc.isenabled(), before, gc.get_freeze_count(), *threads]))
"""


def test_process_has_one_thread_and_pytorch_is_no_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", REPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    is_enabled, before, frozen, threads, variable = json.loads(done.stdout)
    assert (is_enabled, threads, variable) == (True, 1, "1")
    assert frozen - before > 100_000
