"""What each arm costs to use, measured on this machine with all arms taking turns."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from ffvit.config.hardware import Hardware
from ffvit.hardware.devices import device_type
from ffvit.models.create import create_model
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import latency, throughput
from ffvit.study.arms import Arm

ROUNDS = 5
"""Turns of each arm: what disturbs the machine for a moment disturbs one round of all, and the median forgets it."""

BATCH = 64


def measure(arms: Sequence[Arm], classes: int, hardware: Hardware, console: Console) -> dict[str, Any]:
    """Latency of one image and images a second, of each arm by its name; and what it was measured on."""
    device = torch.device(device_type(hardware))
    networks = {arm.name: create_model(arm.network, classes).eval().to(device) for arm in arms}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in networks}
    quiet = not console.is_terminal
    for _ in track(
        range(ROUNDS), "measuring what the arms cost to use", console=console, transient=True, disable=quiet
    ):
        for name, network in networks.items():
            one = latency(network, calls=20)
            found[name].append((one.median, one.percentile_95, throughput(network, BATCH, seconds=0.2)))
    figures = {
        name: {
            "latency": median(each[0] for each in rounds),
            "latency_95": median(each[1] for each in rounds),
            "throughput": median(each[2] for each in rounds),
            "batch": BATCH,
            "latencies": [each[0] for each in rounds],
        }
        for name, rounds in found.items()
    }
    return {"machine": f"{machine_name(device)}, torch {torch.__version__}, fp32", "arms": figures}
