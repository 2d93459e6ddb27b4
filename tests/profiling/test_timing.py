from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import ffvit
from ffvit.profiling.timing import Latency, latency, throughput, time_calls

CPU = torch.device("cpu")


def test_percentiles():
    percentiles = Latency.of([float(time) for time in range(101)])
    assert (percentiles.median, percentiles.percentile_95, percentiles.percentile_99) == (50.0, 95.0, 99.0)


@pytest.mark.parametrize(
    ("seconds", "calls", "at_least", "times"), [(float("inf"), 7, 1, 7), (0.0, 9, 3, 3), (0.0, 9, 1, 1)]
)
def test_as_many_calls_as_asked_for(seconds, calls, at_least, times):
    done = []
    assert len(time_calls(lambda: done.append(0), CPU, seconds, calls, at_least)) == times
    assert len(done) > times  # some warmed up


def test_timing_leaves_the_allocator_of_the_process_alone(monkeypatch):
    """Someone who measures a network in a notebook goes on with the memory behaviour that they had."""
    calls = []
    monkeypatch.setattr(
        "ffvit.hardware.devices.ctypes.CDLL", lambda name: SimpleNamespace(mallopt=lambda *call: calls.append(call))
    )
    time_calls(lambda: None, CPU, calls=1)
    latency(ffvit.create_model("ff_micro_patch2_8").eval(), calls=1)
    assert not calls


def test_a_network_is_measured():
    net = ffvit.create_model("ff_micro_patch2_8").eval()
    percentiles = latency(net, calls=5)
    assert 0 < percentiles.median <= percentiles.percentile_95 <= percentiles.percentile_99
    assert throughput(net, 4, seconds=0.01) > 0
