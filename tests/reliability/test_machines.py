from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ray_study import run_study

pytest.importorskip("ray")


@pytest.mark.reliability
def test_a_machine_that_dies_takes_no_run_with_it(tmp_path: Path):
    told = run_study(tmp_path, "die", recipe={"base": "digits", "epochs": 16})
    assert "one machine died" in told
    assert "2/2" in told
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["arm"]) == {"width 16", "width 24"}
    assert (tmp_path / "out" / "report.html").is_file()
