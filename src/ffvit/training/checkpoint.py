"""Everything needed to resume, in one file that is replaced whole; the one before it is kept.

A checkpoint ends with its SHA-256. One that is torn or damaged is noticed by it, and the one before is used.

There is no generator state in it: every draw is a function of (seed, epoch, step), so resuming is the same as never
having stopped. Weights and optimizer state are gathered whole, so a run may resume with another number of processes or
another strategy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from ffvit.errors import DiskFullError, DivergedError, RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.hardware.fabric import Fabric
from ffvit.hardware.ranks import on_rank_zero
from ffvit.models.weights import save_weights
from ffvit.run_folder import Run
from ffvit.training.ema import EMA

GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
SPREAD = StateDictOptions(full_state_dict=True)

MARK = b"\nsha256:"
"""Stands before the checksum, at the end of the file; `torch.load` passes over both."""

SPARE = 2**20
"""Bytes of a checkpoint beside its tensors, at most, where free space is looked for."""

_FIELDS = {"network", "average", "optimizer", "scaler", "progress"}


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
    skipped: int = 0  # steps that were not finite
    skipped_in_a_row: int = 0


class DamagedError(Exception):
    """A checkpoint that is torn or changed; says what is wrong with it."""


def save_checkpoint(
    run: Run, fabric: Fabric, network: nn.Module, average: EMA | None, optimizer: Optimizer, progress: Progress
) -> None:
    """Write the checkpoint, on all processes together; the one that was there becomes the previous one.

    Raises:
        RunStoppedError: The disk is full, or the weights are no longer finite; the checkpoint before is kept.
    """
    check_finite(network, fabric, progress.epoch)
    weights, optimizer_state = get_state_dict(network, optimizer, options=GATHER)
    scaler = _scaler(fabric)
    content = {
        "network": weights,
        "average": get_model_state_dict(average.network, options=GATHER) if average else None,
        "optimizer": optimizer_state,
        "scaler": scaler.state_dict() if scaler else None,
        "progress": asdict(progress),
    }
    on_rank_zero(fabric, lambda: _write(run, content))


def _write(run: Run, content: dict[str, Any]) -> None:
    path = run.checkpoint_file
    needed, free = _tensor_bytes(content) + SPARE, shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskFullError(
            f"{path}: the disk is full: the checkpoint needs {needed / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are left; "
            "what was there before is untouched. Free some space, then resume with --resume"
        )
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
        with temporary.open("r+b") as file:
            digest = _digest(file, temporary.stat().st_size)
            file.seek(0, os.SEEK_END)
            file.write(MARK + digest)
            file.flush()
            os.fsync(file.fileno())  # only a checkpoint that is there whole takes the place of another
        if path.is_file():
            path.replace(run.previous_checkpoint_file)


def gather_weights(
    fabric: Fabric, path: Path, network: nn.Module, classes: Sequence[str], **fitted: float | None
) -> None:
    """Write a file of weights, gathered from all processes by the first; `fitted` as in `save_weights`."""
    state = cast("dict[str, torch.Tensor]", get_model_state_dict(network, options=GATHER))
    on_rank_zero(fabric, lambda: save_weights(path, network, classes, state, **fitted))


def load_checkpoint(
    run: Run,
    fabric: Fabric,
    network: nn.Module,
    average: EMA | None,
    optimizer: Optimizer,
    say: Callable[[str], None] = lambda _: None,
) -> Progress:
    """Put the last whole checkpoint back into a network, its average and its optimizer; hand back how far it was.

    Raises:
        UserError: No checkpoint is whole, or it is of another run.
    """
    content = _read_any(run, fabric, say)
    try:
        set_state_dict(
            network,
            optimizer,
            model_state_dict=content["network"],
            optim_state_dict=content["optimizer"],
            options=SPREAD,
        )
        if average is not None:
            set_model_state_dict(average.network, content["average"], options=SPREAD)
        scaler = _scaler(fabric)
        if scaler and content["scaler"]:
            scaler.load_state_dict(content["scaler"])
        progress = Progress(**content["progress"])
        if not all(isinstance(number, int) for number in (progress.epoch, progress.step, progress.images)):
            raise TypeError("epoch, step or images is no number")
    except Exception as error:  # whole, but not of this run
        reason = " ".join(str(error).split())[:200]
        raise RunFolderError(
            f"{run.checkpoint_file}: the checkpoint does not fit the run ({type(error).__name__}: {reason}): train again "
            "with --overwrite"
        ) from None
    return progress


def _read_any(run: Run, fabric: Fabric, say: Callable[[str], None]) -> dict[str, Any]:
    """The content of the last checkpoint, or else of the previous one, which then takes its place."""
    damage: list[str] = []
    for file in (run.checkpoint_file, run.previous_checkpoint_file):
        if not file.is_file():
            continue
        try:
            content = read_checkpoint(file)
        except DamagedError as error:
            damage.append(f"{file}: the checkpoint is damaged ({error})")
            continue
        if damage:
            say(f"{damage[0]}: resuming from the one before it")
            fabric.barrier()  # the others may still be reading
            on_rank_zero(fabric, partial(run.previous_checkpoint_file.replace, run.checkpoint_file))
        return content
    raise RunFolderError(
        f"{'; '.join(damage)}; no other is kept: train again with --overwrite, or delete "
        f"{run.checkpoint_file.parent} to begin this run anew with --resume"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        DamagedError: It is not as it was written.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - len(MARK) - 64
            file.seek(max(0, size))
            mark, digest = file.read(len(MARK)), file.read()
            if size < 0 or mark != MARK:
                raise DamagedError("it is cut off")
            if _digest(file, size) != digest:
                raise DamagedError("its checksum is wrong")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DamagedError(error.strerror) from None
    except DamagedError:
        raise
    except Exception as error:  # written by another version, or not by ffvit
        raise DamagedError(type(error).__name__) from None
    if not isinstance(content, dict) or content.keys() != _FIELDS:
        raise DamagedError("it does not hold what a checkpoint holds")
    return content


def _digest(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first bytes of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (piece := file.read(min(size, 2**20))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest().encode()


def _tensor_bytes(content: object) -> int:
    if isinstance(content, torch.Tensor):
        return content.nbytes
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(_tensor_bytes, inside))


def _scaler(fabric: Fabric) -> Any:
    """fp16's loss scaler, where there is one."""
    return getattr(fabric.strategy.precision, "scaler", None)


def check_finite(network: nn.Module, fabric: Fabric, epoch: int) -> None:
    """Check the weights, on all processes together.

    Raises:
        DivergedError: One of them is infinite or NaN.
    """
    local = [getattr(weight, "to_local", lambda weight=weight: weight)() for weight in network.parameters()]
    finite = torch.stack([torch.isfinite(weight).all() for weight in local]).all().float()
    if fabric.all_reduce(finite, reduce_op="mean") != 1:
        raise DivergedError(f"the weights became infinite or NaN in epoch {epoch + 1}; the checkpoint before is kept")
