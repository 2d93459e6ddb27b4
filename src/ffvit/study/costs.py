"""What each arm costs to use, measured on this machine with all arms taking turns."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console

from ffvit.config.hardware import Hardware
from ffvit.hardware.devices import device_type
from ffvit.models.create import create_model
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import latency, throughput
from ffvit.study.arms import Arm
from ffvit.terminal import track

ROUNDS = 5
"""Turns of each arm: what disturbs the machine for a moment disturbs one round of all, and the median forgets it."""

BATCH = 64


def measure(arms: Sequence[Arm], classes: int, hardware: Hardware, console: Console) -> dict[str, Any]:
    """Latency of one image and images a second, of each arm by its name; and what it was measured on."""
    device = torch.device(device_type(hardware))
    networks = {arm.name: create_model(arm.network, classes).eval().to(device) for arm in arms}
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in networks}
    for _ in track(range(ROUNDS), "measuring the arms' costs", console):
        for name, network in networks.items():
            one = latency(network, calls=20)
            rounds[name].append((one.median, one.percentile_95, throughput(network, BATCH, seconds=0.2)))
    figures = {}
    for name, measured in rounds.items():
        latencies, percentiles, throughputs = (list(column) for column in zip(*measured, strict=True))
        figures[name] = {
            "latency": median(latencies),
            "latency_95": median(percentiles),
            "throughput": median(throughputs),
            "batch": BATCH,
            "latencies": latencies,
        }
    return {"machine": f"{machine_name(device)}, torch {torch.__version__}, fp32", "arms": figures}
