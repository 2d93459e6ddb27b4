"""Everything needed to go on, in one file that is replaced whole.

There is no generator state in it: every draw is a function of (seed, epoch, step), so going on from a checkpoint is
the same as never having stopped. Weights and optimizer state are gathered whole, so a run may go on with another
number of processes or another strategy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from ffvit.atomic import writing
from ffvit.errors import DivergedError, RunFolderError
from ffvit.machine import on_first
from ffvit.training.average import WeightAverage

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0  # the one that is running, or would be next
    step: int = 0  # steps behind in that epoch
    images: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # of this epoch's steps
    best: dict[str, Any] = field(default_factory=dict)
    bad_images: dict[str, str] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    fabric: Fabric,
    network: nn.Module,
    average: WeightAverage | None,
    optimizer: Optimizer,
    progress: Progress,
) -> None:
    """Write the checkpoint, on all processes together.

    Raises:
        RunStoppedError: The disk is full, or the weights are no longer finite; the checkpoint before is kept.
    """
    if not _finite(network, fabric):
        raise DivergedError(
            f"the weights became infinite or NaN in epoch {progress.epoch}; the checkpoint before is kept"
        )
    weights, optimizer_state = get_state_dict(network, optimizer, options=WHOLE)
    content = {
        "network": weights,
        "average": get_model_state_dict(average.network, options=WHOLE) if average else None,
        "optimizer": optimizer_state,
        "scaler": _scaler(fabric).state_dict() if _scaler(fabric) else None,
        "progress": asdict(progress),
    }

    def write() -> None:
        with writing(path) as temporary:
            torch.save(content, temporary)

    on_first(fabric, write)


def load_checkpoint(
    path: Path, fabric: Fabric, network: nn.Module, average: WeightAverage | None, optimizer: Optimizer
) -> Progress:
    """Put a checkpoint back into a network, its average and its optimizer; hand back how far it was.

    Raises:
        UserError: It is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated and damaged files fail in many ways
        raise RunFolderError(f"{path}: the checkpoint is damaged ({type(error).__name__})") from None
    set_state_dict(
        network,
        optimizer,
        model_state_dict=content["network"],
        optim_state_dict=content["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
    if average is not None:
        set_model_state_dict(average.network, content["average"], options=StateDictOptions(full_state_dict=True))
    scaler = _scaler(fabric)
    if scaler and content["scaler"]:
        scaler.load_state_dict(content["scaler"])
    return Progress(**content["progress"])


def _scaler(fabric: Fabric) -> Any:
    """fp16's loss scaler, where there is one."""
    return getattr(fabric.strategy.precision, "scaler", None)


def _finite(network: nn.Module, fabric: Fabric) -> bool:
    local = [getattr(each, "to_local", lambda each=each: each)() for each in network.parameters()]
    mine = torch.stack([torch.isfinite(each).all() for each in local]).all().float()
    return bool(fabric.all_reduce(mine, reduce_op="mean") == 1)
