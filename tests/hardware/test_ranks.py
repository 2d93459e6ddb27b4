from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
import torch.distributed

from ffvit.errors import WorkerError
from ffvit.hardware import ranks


@pytest.fixture
def other() -> Iterator[psutil.Process]:
    """The second process of a run, which waits."""
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(started.pid)
    started.kill()
    started.communicate()


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("killed", r"process 1 of 2 \(pid PID\) was lost: killed, by the system if memory ran out"),
        ("stopped", r"process 1 of 2 \(pid PID\) is stopped, by SIGSTOP"),
        ("hangs", r"process 1 of 2 \(pid PID\) hangs: it did not come to where the others waited for it"),
        ("far", r"process 1 of 2 \(pid PID\) on another machine: gone, or it hangs: it did not come to where"),
        ("waited", "a process of 2 no longer answers"),
    ],
)
def test_a_process_that_no_longer_answers_is_named(fate, reason, other, monkeypatch):
    """In the first process of two; tests/reliability loses real ones."""
    host, store = platform.node(), torch.distributed.HashStore()
    places = [(host, os.getpid()), ("elsewhere" if fate == "far" else host, other.pid)]
    monkeypatch.setattr(ranks, "all_gather", lambda *_: places)
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    fabric = SimpleNamespace(world_size=2, global_rank=0)
    if fate == "killed":
        other.kill()
        other.wait()
    elif fate == "stopped":
        other.send_signal(signal.SIGSTOP)
        while other.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
    elif fate == "waited":
        store.set("ffvit waited/1", "")
    monkeypatch.setattr(ranks.time, "sleep", lambda _: None)
    with (
        pytest.raises(WorkerError, match=reason.replace("PID", str(other.pid))) as raised,
        ranks.name_lost_ranks(fabric),
    ):
        raise RuntimeError("[gloo/transport] Connection closed by peer")
    assert str(raised.value).endswith(". Resume with --resume")
    assert raised.value.speaks


def test_what_no_other_process_is_to_blame_for_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(ranks, "all_gather", lambda *_: [])
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", torch.distributed.HashStore)
    fabric = SimpleNamespace(world_size=2, global_rank=0)
    with pytest.raises(RuntimeError, match="shapes differ"), ranks.name_lost_ranks(fabric):
        raise RuntimeError("shapes differ")
