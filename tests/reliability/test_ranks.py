"""Several processes of one run: lost, stopped, or asked for in vain."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from commands import command, environment, here
from ffvit.errors import DeviceError
from ffvit.run_folder import Run
from ffvit.study import ray_executor

TRAIN = (
    "train", "--precision", "fp32", "--recipe.warmup-epochs", 0.5, "--recipe.ema-decay", 0.9,
    "--recipe.aug-repeats", 3, "--recipe.mixup-group-size", 16, "--recipe.epochs",
)  # fmt: skip


def launched(
    processes: int, *arguments: object, program: tuple[object, ...] = ("-m", "ffvit"), **variables: str
) -> subprocess.Popen[str]:
    """By torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*torchrun, *map(str, program), *map(str, arguments)], env=environment() | variables, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(there, process, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)


def ranks(process) -> dict[int, psutil.Process]:
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        rank = child.environ().get("RANK", child.environ().get("LOCAL_RANK"))
        words = child.cmdline()
        if rank is not None and "torch.distributed.run" not in words and any("ffvit" in word for word in words):
            found[int(rank)] = child
    return found


def kill_all(process) -> None:
    """With SIGKILL; torchrun gives each of its processes a group of its own."""
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.communicate(timeout=60)


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.metrics()]


def test_a_thousand_processes_on_one_processor_are_refused_at_once(tmp_path):
    began = time.monotonic()
    done = here("train", "--accelerator", "cpu", "--devices", 1000, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "--devices 1000: this machine has" in done.stderr
    assert time.monotonic() - began < 60  # most of it the import of PyTorch
    assert not (tmp_path / "run").exists()


@contextmanager
def listening(kind: str):
    if kind == "silent":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]
        return
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("kind", ["silent", "http"])
def test_a_port_that_is_not_ray_is_found_out_in_seconds(monkeypatch, capfd, kind):
    monkeypatch.setattr(ray_executor, "CONNECT", 1.0)
    began = time.monotonic()
    with listening(kind) as port, pytest.raises(DeviceError, match="no Ray cluster answers there"):
        ray_executor.connect(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("by", ["torchrun", pytest.param("ffvit", marks=pytest.mark.reliability)])
def test_a_killed_process_ends_the_others_and_is_named(tmp_path, by):
    out = tmp_path / "run"
    if by == "torchrun":
        process = launched(2, *TRAIN, 500, "--out", out)
    else:
        process = subprocess.Popen(
            command(*TRAIN, 500, "--out", out, "--devices", 2), env=environment(), start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    found = ranks(process)
    found[1].kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    words = f"ffvit: process 1 of 2 (pid {found[1].pid}) was lost: killed, by the system if memory ran out."
    assert words in said, said
    assert "gloo" not in said
    assert not [each for each in found.values() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.reliability
def test_a_stopped_process_is_named_after_the_timeout(tmp_path):
    out = tmp_path / "run"
    process = launched(2, *TRAIN, 500, "--out", out, FFVIT_TIMEOUT="15")
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    found = ranks(process)
    found[1].suspend()
    try:
        wait_for(lambda: not found[0].is_running() or found[0].status() == psutil.STATUS_ZOMBIE, process, 60)
    finally:
        found[1].resume()
    os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert f"process 1 of 2 (pid {found[1].pid}) is stopped, by SIGSTOP" in said


HANGS = """
import os, time
from ffvit.cli import main
from ffvit.training.step import TrainStep
step = TrainStep.__call__
def hang(self, epoch, number, batches):
    while epoch == 1 and os.environ["RANK"] == os.environ["HANGS"]:
        time.sleep(1)
    return step(self, epoch, number, batches)
TrainStep.__call__ = hang
main()
"""


@pytest.mark.reliability
@pytest.mark.parametrize("rank", [0, 2])
def test_a_process_that_hangs_is_named_after_the_timeout(tmp_path, rank):
    """Neither stopped nor gone: in an endless loop, say, while all others wait for it."""
    (tmp_path / "hangs.py").write_text(HANGS)
    process = launched(
        3, *TRAIN, 500, "--out", tmp_path / "run",
        program=(tmp_path / "hangs.py",), FFVIT_TIMEOUT="15", HANGS=str(rank),
    )  # fmt: skip
    said, _ = process.communicate(timeout=300)  # torchrun gives the one that hangs 30 s
    assert process.returncode != 0
    assert f"process {rank} of 3 (pid " in said, said
    assert said.count("hangs: it did not come to where the others waited for it. Resume with --resume") == 1, said
    assert "gloo" not in said


@pytest.mark.reliability
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_and_resumed_with_another_number_of_processes_losses_are_the_same(tmp_path, processes, strategy):
    whole, out = tmp_path / "whole", tmp_path / "run"
    done = subprocess.run(command(*TRAIN, 12, "--out", whole), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process = launched(processes, *TRAIN, 12, "--out", out, "--strategy", strategy)
    wait_for(lambda: (out / "checkpoint" / "state.pt").exists(), process)
    kill_all(process)
    assert Run(out).summary() is None
    for _ in range(50):
        again = subprocess.run(
            command("train", "--out", out, "--resume"), env=environment(), capture_output=True, text=True
        )
        if "is writing" not in again.stderr and "another" not in again.stderr:
            break
        time.sleep(0.5)  # the killed processes' lock goes with the last of them
    assert again.returncode == 0, again.stderr
    assert losses(Run(out)) == pytest.approx(losses(Run(whole)), rel=1e-4)


def test_sigterm_to_torchrun_saves_and_asks_to_be_run_again(tmp_path):
    out = Path(tmp_path / "run")
    process = launched(2, *TRAIN, 500, "--out", out)
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert f"stopped; resume with: ffvit train --out {out} --resume" in said
    assert "Connection closed" not in said
    assert (out / "checkpoint" / "state.pt").exists()
