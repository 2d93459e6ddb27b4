from __future__ import annotations

import os
from functools import partial

import pytest
import torch

import ffvit
from ffvit.errors import OutOfMemoryError
from ffvit.profiling.memory import activation_bytes, peak_bytes

CPU = torch.device("cpu")


def kept(net, batch: int) -> int:
    return activation_bytes(lambda: net(torch.rand(batch, 1, 8, 8)), net)


@pytest.mark.parametrize("name", ["ff_micro_patch2_8", "vit_micro_patch2_8"])
def test_what_is_kept_grows_linearly_with_the_batch(name):
    net = ffvit.create_model(name)
    one, two, seven = (kept(net, batch) for batch in (1, 2, 7))
    assert two - one > 0
    assert seven - one == 6 * (two - one)
    assert one == pytest.approx(two - one, rel=0.01)  # and weights are not in it


def test_what_is_kept_by_hand():
    """Each convolution keeps its input, and GELU too."""
    net = torch.nn.Sequential(torch.nn.Conv2d(5, 7, 1), torch.nn.GELU(), torch.nn.Conv2d(7, 3, 1), torch.nn.Flatten())
    found = activation_bytes(lambda: net(torch.rand(4, 5, 1, 1)), net)
    assert found == 4 * (4 * 5 + 4 * 7 + 4 * 7)


def test_the_peak_of_a_process_of_its_own():
    """Work that makes 100 MiB of numbers."""
    make = partial(partial, torch.ones, 100 * 2**18)
    assert peak_bytes(make, CPU) / 2**20 == pytest.approx(100, abs=8)


def test_a_process_that_the_system_ends():
    with pytest.raises(OutOfMemoryError, match=r"memory runs out: use a smaller --batch"):
        peak_bytes(partial(os._exit, 9), CPU)
