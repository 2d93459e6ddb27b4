"""The engine that answers so many images soonest on this machine: measured once for a network, and kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from ffvit.errors import RunStoppedError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.inference.engines import ENGINES, build, unavailable_reason
from ffvit.models.create import network_of
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import forward_call, random_images, time_calls

LONG = 60.0
"""Seconds that answering takes, from which on it is worth measuring engines first."""

SECONDS = 2.0
"""Each engine is measured for so long."""

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Logits of an engine that differ by more from the network's in fp32, as a share of the largest, are not the network's."""


@dataclass(frozen=True)
class MeasuredEngine:
    """An engine on this machine: images a second in batches, and seconds until it can answer the first."""

    engine: str
    images_per_second: float
    start: float

    def seconds(self, images: int) -> float:
        """For so many images."""
        return self.start + images / self.images_per_second


def cache_file() -> Path:
    """Where measurements are kept."""
    return Path.home() / ".cache" / "ffvit" / "engines.json"


def fastest_engine(
    network: nn.Module, images: int, batch: int, device: torch.device, precision: str, say: Callable[[str], None]
) -> str:
    """The engine that is through with so many images first; measured if that pays and was not done before.

    Args:
        network: In evaluation mode, on the device.
        images: How many there are to answer.
        batch: How many at once.
        device: What it computes on.
        precision: What it computes in.
        say: Told what was chosen and why, where it is not PyTorch.
    """
    plain = forward_call(build(network, "torch", precision, device), random_images(network, 1))
    if images * median(time_calls(plain, device, 0.1)) < LONG:
        return "torch"
    try:
        key = _key(network, batch, device, precision)
    except UserError:  # a network that has no name to keep it by
        return "torch"
    found = _kept().get(key)
    if found is None:
        say("measuring which engine is the fastest here, once for this network ...")
        found = measure_engines(network, batch, device, precision)
        _keep(key, found)
    best = min(found, key=lambda its: its.seconds(images))
    if best.engine != "torch":
        times = best.images_per_second / next(its.images_per_second for its in found if its.engine == "torch")
        say(
            f"answering on {best.engine}: {best.images_per_second:.3g} images/s here, {times:.2f} times PyTorch "
            f"(measured; kept in {cache_file()}); --engine torch does without"
        )
    return best.engine


def measure_engines(network: nn.Module, batch: int, device: torch.device, precision: str) -> list[MeasuredEngine]:
    """Every engine that runs here in this precision and gives the network's own answers, measured; PyTorch first."""
    images = random_images(network, batch)
    with torch.inference_mode():
        answers = network(images)
    found = []
    for engine in ENGINES:
        if unavailable_reason(engine, precision, device) is not None:
            continue
        began = time.perf_counter()
        try:
            model = build(network, engine, precision, device)
            theirs = forward_call(model, images)()
            forward_call(model, images[:-1])()  # the last batch is a smaller one, for which an engine may start anew
        except Exception:  # a network too large for it, or one that it does not know, in whatever words
            if engine == "torch":
                raise
            continue
        start = time.perf_counter() - began if engine != "torch" else 0.0
        error = (theirs - answers).abs().max() if isinstance(theirs, torch.Tensor) else torch.inf
        if engine == "torch" or error <= TOLERANCE[precision] * answers.abs().max():
            speed = batch / median(time_calls(forward_call(model, images), device, SECONDS))
            found.append(MeasuredEngine(engine, speed, start))
    return found


def _key(network: nn.Module, batch: int, device: torch.device, precision: str) -> str:
    """All that a measurement depends on."""
    versions = []
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    parts = str(network_of(network)), machine_name(device), batch, precision, *versions
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]


def _kept() -> dict[str, list[MeasuredEngine]]:
    """What was measured before; a file that cannot be read counts as none."""
    try:
        everything = json.loads(cache_file().read_text())
        return {key: [MeasuredEngine(**each) for each in its] for key, its in everything.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(key: str, found: list[MeasuredEngine]) -> None:
    everything = {**_kept(), key: found}
    try:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache_file()) as temporary:
            temporary.write_text(json.dumps({key: [asdict(each) for each in its] for key, its in everything.items()}))
    except (OSError, RunStoppedError):  # a home that is full or cannot be written to: it is measured again next time
        pass
