from __future__ import annotations

import pytest
import torch

import ffvit
from ffvit.profiling.timing import Latency, latency, throughput, time_calls

CPU = torch.device("cpu")


def test_percentiles():
    its = Latency.of([float(each) for each in range(101)])
    assert (its.median, its.percentile_95, its.percentile_99) == (50.0, 95.0, 99.0)


@pytest.mark.parametrize(
    ("seconds", "calls", "at_least", "times"), [(float("inf"), 7, 1, 7), (0.0, 9, 3, 3), (0.0, 9, 1, 1)]
)
def test_as_many_calls_as_asked_for(seconds, calls, at_least, times):
    done = []
    assert len(time_calls(lambda: done.append(0), CPU, seconds, calls, at_least)) == times
    assert len(done) > times  # some warmed up


def test_a_network_is_measured():
    net = ffvit.create_model("ff_micro_patch2_8").eval()
    its = latency(net, calls=5)
    assert 0 < its.median <= its.percentile_95 <= its.percentile_99
    assert throughput(net, 4, seconds=0.01) > 0
