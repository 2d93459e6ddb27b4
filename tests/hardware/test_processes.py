from __future__ import annotations

import subprocess
import sys

from commands import environment

SCRIPT = """
print("the script runs", flush=True)
from functools import partial
import torch
from ffvit.profiling.memory import peak_bytes
print(peak_bytes(partial(partial, int), torch.device("cpu")) >= 0)
"""


def test_a_script_without_a_guard_is_not_run_again_by_the_processes_it_starts(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], env=environment(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("the script runs\nTrue\n", "")
