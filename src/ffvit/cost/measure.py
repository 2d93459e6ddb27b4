"""What a network costs to use, measured on this machine: latency of one image, images a second in batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ffvit.network.create import input_of


@dataclass(frozen=True)
class Latency:
    """Seconds that one image takes, from handing it over to having the answer."""

    median: float
    percentile_95: float


def device_here() -> torch.device:
    """Where costs are measured: the first GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def latency(network: nn.Module, calls: int = 50) -> Latency:
    """Measure the latency of one image, in fp32, after calls that warm up.

    Args:
        network: In evaluation mode, on the device to measure.
        calls: How many are timed.
    """
    predict = _prediction(network, 1)
    for _ in range(3):
        predict()
    times = np.array([_timed(predict) for _ in range(calls)])
    return Latency(float(np.median(times)), float(np.percentile(times, 95)))


def throughput(network: nn.Module, batch: int, seconds: float = 0.5) -> float:
    """Images a second in batches, in fp32: the median of batches that take about so many seconds in all."""
    predict = _prediction(network, batch)
    once = _timed(predict)
    times = [_timed(predict) for _ in range(max(3, min(100, int(seconds / max(once, 1e-6)))))]
    return batch / float(np.median(times))


def _prediction(network: nn.Module, batch: int) -> Callable[[], None]:
    """One prediction of random images that are already on the network's device, waited for."""
    takes = input_of(network)
    device = next(network.parameters()).device
    images = torch.rand(batch, takes.channels, *takes.image, device=device)

    def predict() -> None:
        with torch.inference_mode():
            network(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return predict


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
