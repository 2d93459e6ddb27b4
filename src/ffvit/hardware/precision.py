"""The precision a run computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ffvit.config.hardware import Hardware
from ffvit.hardware.devices import device_type, has_bf16_matmul

if TYPE_CHECKING:
    import torch


def resolve_precision(hardware: Hardware) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """The precision a run computes in."""
    import torch

    if hardware.precision != "auto":
        return hardware.precision
    device = device_type(hardware)
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device == "cpu" and has_bf16_matmul() else "32-true"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute as a run of this precision does; on a processor never in fp16."""
    import torch

    half = torch.float16 if precision == "16-mixed" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "32-true")
