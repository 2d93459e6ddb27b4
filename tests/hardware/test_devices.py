from __future__ import annotations

import os
import platform
import re
import resource
import signal
import subprocess
import sys

import psutil
import pytest
import torch

from ffvit.hardware.devices import available_cores, keep_freed_memory, visible_gpus
from ffvit.hardware.launch import terminate_processes

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
needs_glibc = pytest.mark.skipif(not GLIBC, reason="another allocator than glibc's")


def pages_taken() -> int:
    """Pages of memory that the system hands over while blocks come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_processes_that_outlive_the_first_are_ended():
    waiting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    done = subprocess.Popen([sys.executable, "-c", ""])
    terminate_processes([done, waiting], seconds=5.0)
    assert done.wait() == 0
    assert waiting.wait() == -signal.SIGKILL


OBSERVED = """
import subprocess, sys, time
from ffvit.hardware.launch import replace_observer
code, seconds = sys.argv[1:]
first = subprocess.Popen([sys.executable, "-c", code])
second = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(second.pid, flush=True)
replace_observer([first, second], float(seconds))
time.sleep(4)
second.kill()
print("ended by itself", flush=True)
"""


def observed(code: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OBSERVED, code, str(seconds)], capture_output=True, text=True, timeout=120
    )


def test_a_process_that_waits_for_a_lost_one_is_ended_and_names_it():
    done = observed("import os; os.kill(os.getpid(), 9)", 0.5)
    assert done.returncode == 1
    assert re.fullmatch(r"ffvit: process 1 \(pid \d+\) of 3 was lost. Resume with --resume \[E-WORKER\]\n", done.stderr)
    second = int(done.stdout)
    assert not psutil.pid_exists(second) or psutil.Process(second).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("code", "seconds"), [("exit(75)", 0.5), ("exit(0)", 0.5), ("exit(1)", 600)])
def test_a_process_is_left_alone_while_it_ends_by_itself(code, seconds):
    done = observed(code, seconds)
    assert done.returncode == 0, done.stderr
    assert "ended by itself" in done.stdout
    assert not done.stderr


def test_gpus_are_those_that_a_process_was_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f2c")
    assert visible_gpus() == ["5", "GPU-8f2c"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]


@needs_glibc
def test_memory_that_is_freed_is_kept_for_the_next_step():
    keep_freed_memory()
    pages_taken()
    assert pages_taken() < 1_000  # of 163,840


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr("ffvit.hardware.devices.ctypes.CDLL", lambda name: object())
    keep_freed_memory()
    monkeypatch.setattr("ffvit.hardware.devices.sys.platform", "darwin")
    monkeypatch.setattr("ffvit.hardware.devices.ctypes.CDLL", lambda name: pytest.fail("not asked for"))
    keep_freed_memory()


def test_a_system_that_keeps_no_account_of_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert available_cores() == os.cpu_count()
