"""The precision a run computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from ffvit.config.hardware import Hardware
from ffvit.hardware.devices import device_type, has_bf16_matmul

if TYPE_CHECKING:
    import torch

    from ffvit.hardware.fabric import Fabric


Precision = Literal["fp32", "bf16", "fp16"]

FABRIC: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
"""Fabric's words for them."""


def precision_of(fabric: Fabric) -> Precision:
    """The precision that processes were started with."""
    return next(name for name, word in FABRIC.items() if word == fabric.strategy.precision.precision)


def resolve_precision(hardware: Hardware) -> Precision:
    """The precision a run computes in."""
    import torch

    if hardware.precision != "auto":
        return hardware.precision
    device = device_type(hardware)
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and has_bf16_matmul() else "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which networks compute as a run of this precision does; on a processor never in fp16."""
    import torch

    half = torch.float16 if precision == "fp16" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "fp32")


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """A context in which networks compute in full float32 on any machine, whatever precision they were trained in."""
    import torch

    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
