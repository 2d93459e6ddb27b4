"""How fast a network is, measured on this machine: latency of one image, images a second in batches."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.hardware.devices import keep_freed_memory
from ffvit.models.create import preprocess_of

WARM = 3
"""Calls that do not count, at most: they load code, and what another network pushed out of the caches."""


@dataclass(frozen=True)
class Latency:
    """Seconds that one image takes, from handing it over to having the answer."""

    median: float
    percentile_95: float
    percentile_99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """The percentiles of single times, in seconds."""
        return cls(*(float(each) for each in np.percentile(times, (50, 95, 99))))


def default_device() -> torch.device:
    """Where costs are measured: the first GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_images(network: nn.Module, batch: int) -> Float[Tensor, "batch channels height width"]:
    """Images such as the network takes, of random numbers, on its device."""
    takes = preprocess_of(network)
    return torch.rand(batch, takes.in_chans, *takes.img_size, device=next(network.parameters()).device)


def forward_call(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Callable[[], object]:
    """The network's answer to images, as something to call."""
    return partial(_answer, network, images)


def _answer(network: nn.Module, images: Tensor) -> object:
    with torch.inference_mode():
        return network(images)


def time_calls(
    work: Callable[[], object],
    device: torch.device,
    seconds: float = float("inf"),
    calls: int = 100,
    at_least: int = 1,
) -> list[float]:
    """Seconds that each call takes until its device is done, after a few that warm up and are not counted.

    On a processor this process keeps what memory it frees from here on, as in a run.

    Args:
        work: What is timed.
        device: What it computes on.
        seconds: For how long new calls are begun, about. What takes longer than that is warmed up by a single call.
        calls: How many at most.
        at_least: How many in any case.
    """
    if device.type == "cpu":
        keep_freed_memory()
    warm, times = 0, list[float]()
    collects = gc.isenabled()
    gc.disable()  # as `timeit` does: a collection takes longer the more a program holds, and falls on whom it may
    try:
        while len(times) < calls and (len(times) < at_least or sum(times) < seconds):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took = time.perf_counter() - began
            if warm < WARM:
                warm = WARM if took > seconds / WARM else warm + 1
            else:
                times.append(took)
    finally:
        if collects:
            gc.enable()
    return times


def latency(network: nn.Module, calls: int = 50) -> Latency:
    """Measure the latency of one image, in fp32, after calls that warm up.

    Args:
        network: In evaluation mode, on the device to measure.
        calls: How many are timed.
    """
    image = random_images(network, 1)
    return Latency.of(time_calls(forward_call(network, image), image.device, calls=calls))


def throughput(network: nn.Module, batch: int, seconds: float = 0.5) -> float:
    """Images a second in batches, in fp32: the median of batches that take about so many seconds in all."""
    images = random_images(network, batch)
    return batch / float(np.median(time_calls(forward_call(network, images), images.device, seconds, at_least=3)))
