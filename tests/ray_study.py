"""A study over a cluster of two machines, which are processes of this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

import commands

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


def run_study(tmp_path: Path, *words: str, **fields) -> str:
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
