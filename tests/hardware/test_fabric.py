from __future__ import annotations

import subprocess
import sys

import pytest

from commands import environment

pytest.importorskip("torchmetrics")

LOOKS = """
import sys
{before}
import ffvit.training.train
print("torchmetrics" in sys.modules)
import torchmetrics, lightning_fabric
print(torchmetrics.Metric.__name__)
"""


@pytest.mark.parametrize(("before", "there"), [("", False), ("import torchmetrics", True)])
def test_training_does_not_import_torchmetrics_and_leaves_it_to_others(before, there):
    code = LOOKS.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(there), "Metric"]
