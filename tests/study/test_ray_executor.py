from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ffvit.study.ray_executor import connect
from ray_study import run_study

pytest.importorskip("ray")


@pytest.mark.slow
def test_a_run_over_two_machines_is_placed_on_both(tmp_path: Path):
    hardware = {"accelerator": "cpu", "nodes": 2}
    recipe = {"base": "digits", "epochs": 1, "warmup_epochs": 0}
    run_study(tmp_path, "one", recipe=recipe, hardware=hardware)
    log = (tmp_path / "out" / "logs" / "runs-width-16-seed-0.log").read_text()
    assert "2 x cpu" in log
    assert "top-1" in log


def test_ray_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ffvit\[cluster\]'"):
        connect("auto")
