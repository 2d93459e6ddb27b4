"""In processes of their own: what checks shapes in this one cannot be compiled."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from commands import environment
from ffvit.models.compiling import compile_unavailable_reason

SCRIPT = """
import json, sys, torch, ffvit
from torch._dynamo.utils import counters
from ffvit.models.compiling import compile_blocks
from ffvit.training.stochastic_depth import DropPathSampler

name, again, dtype = json.loads(sys.argv[1])
dtype = getattr(torch, dtype)
torch.manual_seed(0)
network = compile_blocks(ffvit.create_model(name, 10, img_size=32, drop_path=0.5).to(dtype).train())
network.set_grad_checkpointing(again == "blocks")
for each in network.modules():
    if hasattr(each, "recomputes"):
        each.recomputes = again == "GELUs"
draws, images = DropPathSampler(network, 6), torch.randn(6, 3, 32, 32).to(dtype)
found = {}
for stance in ("force_eager", "default"):
    network.zero_grad()
    with torch.compiler.set_stance(stance):
        for _ in range(2):
            draws.make(3, range(6), torch.device("cpu"))
            answer = network(images)
            answer.square().sum().backward()
    found[stance] = [answer, *(each.grad for each in network.parameters())]
worst = max(((a - b).abs().max() / a.abs().max().clamp_min(1)).item() for a, b in zip(*found.values()))
print(json.dumps({"worst": worst, "graphs": counters["stats"]["unique_graphs"]}))
"""


@pytest.mark.skipif(compile_unavailable_reason(torch.device("cpu")) is not None, reason="no C++ compiler here")
@pytest.mark.parametrize(
    ("name", "again", "dtype", "tolerance"),
    [
        ("ff_tiny_patch16_224", "blocks", "float64", 1e-10),
        ("ff_tiny_patch16_224", "GELUs", "float64", 1e-10),
        ("deit_tiny_patch16_224", "nothing", "float32", 1e-4),  # PyTorch 2.11 compiles no attention in float64
    ],
)
def test_all_blocks_share_what_is_compiled_and_answer_as_before(name, again, dtype, tolerance):
    """But for the first: its branches are never left out."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([name, again, dtype])],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["worst"] < tolerance
    assert found["graphs"] <= 4  # PyTorch 2.11 compiles branches; later ones whole blocks


TURNED = """
import torch, ffvit
from torch._inductor.utils import run_and_get_code
branch = ffvit.create_model("ff_tiny_patch16_224", img_size=32).blocks[0][0].train()
tokens = torch.randn(4, 48, 192, requires_grad=True)
assert branch.along_features

def step():
    with torch.autocast("cpu", torch.bfloat16):
        torch.compile(branch)(tokens).sum().backward()

code = "".join(run_and_get_code(step)[1])
assert "erf" in code
print("turned" if "transpose_mxn" in code else "as they lie")
"""


@pytest.mark.skipif(compile_unavailable_reason(torch.device("cpu")) is not None, reason="no C++ compiler here")
def test_compiled_no_branch_along_features_turns_its_numbers_over():
    done = subprocess.run(
        [sys.executable, "-c", TURNED], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "as they lie\n"


def test_devices_that_cannot_be_compiled_for_are_told(monkeypatch):
    assert "mps" in compile_unavailable_reason(torch.device("mps"))
    monkeypatch.setenv("PATH", "")
    assert "apt install g++" in compile_unavailable_reason(torch.device("cpu"))
    assert "apt install gcc" in compile_unavailable_reason(torch.device("cuda"))
    monkeypatch.setenv("CC", "/opt/bin/cc")
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
    assert "apt install python3-dev" in compile_unavailable_reason(torch.device("cuda"))
