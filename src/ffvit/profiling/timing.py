"""Latency and throughput of a network, measured on this machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.models.description import preprocess_of

WARMUP_CALLS = 3
"""Calls that are not counted, at most: they load code and fill caches."""


@dataclass(frozen=True)
class Latency:
    """Seconds from handing over one image to having its prediction."""

    median: float
    percentile_95: float
    percentile_99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """The percentiles of single times, in seconds."""
        return cls(*np.percentile(times, (50, 95, 99)).tolist())


def default_device() -> torch.device:
    """The first GPU, if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_images(network: nn.Module, batch: int) -> Float[Tensor, "batch channels height width"]:
    """Random images of the network's input size, on its device."""
    preprocess = preprocess_of(network)
    device = next(network.parameters()).device
    return torch.rand(batch, preprocess.in_chans, *preprocess.img_size, device=device)


def forward_call(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Callable[[], object]:
    """The network's prediction for the images, as something to call."""

    @torch.inference_mode()
    def predict() -> object:
        return network(images)

    return predict


def time_calls(
    work: Callable[[], object],
    device: torch.device,
    seconds: float = float("inf"),
    calls: int = 100,
    at_least: int = 1,
) -> list[float]:
    """Seconds of each call, until its device has finished, after warm-up calls that are not counted.

    Args:
        work: What is timed.
        device: What it computes on.
        seconds: Start new calls for about this long. A call that takes longer than that is warmed up only once.
        calls: The most calls.
        at_least: The fewest calls.
    """
    warm, times = 0, list[float]()
    collects = gc.isenabled()
    gc.disable()  # as `timeit` does: a collection would be counted with whichever call it interrupts
    try:
        while len(times) < calls and (len(times) < at_least or sum(times) < seconds):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            duration = time.perf_counter() - start
            if warm < WARMUP_CALLS:
                warm = WARMUP_CALLS if duration > seconds / WARMUP_CALLS else warm + 1
            else:
                times.append(duration)
    finally:
        if collects:
            gc.enable()
    return times


def latency(network: nn.Module, calls: int = 50) -> Latency:
    """Measure the latency of one image in fp32; the network is in evaluation mode, on the device to measure."""
    image = random_images(network, 1)
    return Latency.of(time_calls(forward_call(network, image), image.device, calls=calls))


def throughput(network: nn.Module, batch: int, seconds: float = 0.5) -> float:
    """Images per second in batches, in fp32: the median of batches that take about so many seconds in all."""
    images = random_images(network, batch)
    return batch / float(np.median(time_calls(forward_call(network, images), images.device, seconds, at_least=3)))
