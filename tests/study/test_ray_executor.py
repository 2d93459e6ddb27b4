from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import commands
from ffvit.study.ray_executor import connect

pytest.importorskip("ray")

# In a process of its own: Ray changes the one it is used in, and two machines of one computer need its own utility.
STUDY = """
import sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from ffvit.study.arms import make_arms
from ffvit.study.ray_executor import Cluster as Engine, connect
from ffvit.study.compare import compare
from ffvit.study.jobs import make_runs
from ffvit.study.plan import read_plan

if __name__ == "__main__":
    out = Path(sys.argv[2])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    dies = cluster.add_node(num_cpus=1)

    def kill():
        while len(list(out.glob("runs/*/*/checkpoint/state.pt"))) < 2:
            time.sleep(0.2)
        cluster.remove_node(dies, allow_graceful=False)
        print("one machine died", flush=True)

    if "die" in sys.argv:
        threading.Thread(target=kill, daemon=True).start()
    plan = read_plan(Path(sys.argv[1]))
    if "one" in sys.argv:
        engine = Engine(connect(cluster.address), plan.hardware, 1, out / "logs")
        outcome = engine.submit(make_runs(plan, make_arms(plan), out, plan.seeds)[0]).result()
        assert outcome.status == "done", outcome
        engine.close()
    else:
        compare(plan, out, cluster=cluster.address)
"""

NOTICES_SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}


def study(tmp_path: Path, *words: str, **fields) -> str:
    block = [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}]
    network = {"width": 16, "depth": 1, "img_size": 8, "patch": 4, "in_chans": 1, "readout": "mean", "block": block}
    plan = {
        "network": network,
        "factors": {"network.width": [16, 24]},
        "seeds": 1,
        "search": "none",
        "controls": False,
        **fields,
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "study.py").write_text(STUDY)
    told = subprocess.run(
        [sys.executable, tmp_path / "study.py", tmp_path / "plan.yaml", tmp_path / "out", *words],
        env=commands.environment() | NOTICES_SOON, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    return told.stdout


@pytest.mark.slow
def test_a_machine_that_dies_takes_no_run_with_it(tmp_path: Path):
    told = study(tmp_path, "die", recipe={"base": "digits", "epochs": 16})
    assert "one machine died" in told
    assert "2/2" in told
    assert set(pd.read_csv(tmp_path / "out" / "results.csv")["arm"]) == {"width 16", "width 24"}
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_a_run_over_two_machines_is_placed_on_both(tmp_path: Path):
    hardware = {"accelerator": "cpu", "nodes": 2}
    recipe = {"base": "digits", "epochs": 1, "warmup_epochs": 0}
    study(tmp_path, "one", recipe=recipe, hardware=hardware)
    log = (tmp_path / "out" / "logs" / "runs-width-16-seed-0.log").read_text()
    assert "2 x cpu" in log
    assert "top-1" in log


def test_ray_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ffvit\[cluster\]'"):
        connect("auto")
