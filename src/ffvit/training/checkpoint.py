"""Everything needed to go on, in one file that is replaced whole; the one before it is kept.

A checkpoint ends with its SHA-256. One that is torn or damaged is noticed by it, and the one before is used.

There is no generator state in it: every draw is a function of (seed, epoch, step), so going on from a checkpoint is
the same as never having stopped. Weights and optimizer state are gathered whole, so a run may go on with another
number of processes or another strategy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

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

from ffvit.errors import DiskFullError, DivergedError, RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.hardware.ranks import on_rank_zero
from ffvit.models.weights import save_weights
from ffvit.run_folder import Run
from ffvit.training.ema import EMA

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)

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
    run: Run,
    fabric: Fabric,
    network: nn.Module,
    average: EMA | None,
    optimizer: Optimizer,
    progress: Progress,
) -> None:
    """Write the checkpoint, on all processes together; the one that was there becomes the previous one.

    Raises:
        RunStoppedError: The disk is full, or the weights are no longer finite; the checkpoint before is kept.
    """
    check_finite(network, fabric, progress.epoch)
    weights, optimizer_state = get_state_dict(network, optimizer, options=WHOLE)
    content = {
        "network": weights,
        "average": get_model_state_dict(average.network, options=WHOLE) if average else None,
        "optimizer": optimizer_state,
        "scaler": _scaler(fabric).state_dict() if _scaler(fabric) else None,
        "progress": asdict(progress),
    }
    assert content.keys() == _FIELDS

    def write() -> None:
        path = run.checkpoint_file
        _check_space(path, content)
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
            digest = _digest(temporary)
            with temporary.open("ab") as file:
                file.write(MARK + digest.encode())
                file.flush()
                os.fsync(file.fileno())  # only a checkpoint that is there whole takes the place of another
            if path.is_file():
                path.replace(run.previous_checkpoint_file)

    on_rank_zero(fabric, write)


def gather_weights(
    fabric: Fabric, path: Path, network: nn.Module, classes: Sequence[str], temperature: float | None = None
) -> None:
    """Write a file of weights, gathered from all processes by the first."""
    state = cast("dict[str, torch.Tensor]", get_model_state_dict(network, options=WHOLE))
    on_rank_zero(fabric, lambda: save_weights(path, network, classes, state, temperature=temperature))


def load_checkpoint(
    run: Run,
    fabric: Fabric,
    network: nn.Module,
    average: EMA | None,
    optimizer: Optimizer,
    say: Callable[[str], None] = lambda _: None,
) -> Progress:
    """Put a checkpoint back into a network, its average and its optimizer; hand back how far it was.

    Args:
        run: Where it lies. Where the last one is damaged, the previous one is used.
        fabric: The processes.
        network: As it is trained.
        average: Its moving average, if it has one.
        optimizer: Of the network.
        say: Told what is damaged.

    Raises:
        UserError: No checkpoint is whole.
    """
    content = _read_any(run, fabric, say)
    try:
        return _put_back(content, fabric, network, average, optimizer)
    except Exception as error:  # whole, but not of this run
        reason = " ".join(str(error).split())[:200]
        raise RunFolderError(
            f"{run.checkpoint_file}: the checkpoint does not fit the run ({type(error).__name__}: {reason}): train again "
            "with --overwrite"
        ) from None


def _put_back(
    content: dict[str, Any], fabric: Fabric, network: nn.Module, average: EMA | None, optimizer: Optimizer
) -> Progress:
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
    progress = Progress(**content["progress"])
    if not all(isinstance(number, int) for number in (progress.epoch, progress.step, progress.images)):
        raise TypeError("how far it is, is no number")
    return progress


def _read_any(run: Run, fabric: Fabric, say: Callable[[str], None]) -> dict[str, Any]:
    """What the last checkpoint holds, or else the previous one, which then takes its place."""
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
            say(f"{damage[0]}: going on from the one before it")
            fabric.barrier()  # the others may still be reading
            on_rank_zero(fabric, partial(run.previous_checkpoint_file.replace, run.checkpoint_file))
        return content
    raise RunFolderError(
        f"{'; '.join(damage)}; no other is kept: train again with --overwrite, or delete "
        f"{run.checkpoint_file.parent} to begin this run anew with --resume"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        DamagedError: It is not as it was written.
    """
    length = len(MARK) + 2 * hashlib.sha256().digest_size
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - length))
            end = file.read()
    except OSError as error:
        raise DamagedError(error.strerror) from None
    if size < length or not end.startswith(MARK):
        raise DamagedError("it is cut off")
    if _digest(path, size - length) != end[len(MARK) :].decode(errors="replace"):
        raise DamagedError("its checksum is wrong")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # written by another version, or not by ffvit
        raise DamagedError(f"{type(error).__name__}") from None
    if not isinstance(content, dict) or content.keys() != _FIELDS:
        raise DamagedError("it does not hold what a checkpoint holds")
    return content


def _digest(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, 2**20))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _check_space(path: Path, content: object) -> None:
    """Refuse to begin writing what cannot fit.

    Raises:
        RunStoppedError: Too little space is left.
    """
    needed, free = _bytes(content) + SPARE, shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskFullError(
            f"{path}: the disk is full: the checkpoint needs {needed / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are left; "
            "what was there before is untouched. Free some space, then resume with --resume"
        )


def _bytes(content: object) -> int:
    """Bytes of all tensors in a checkpoint."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    if isinstance(content, dict):
        return sum(_bytes(each) for each in content.values())
    return sum(_bytes(each) for each in content) if isinstance(content, list | tuple) else 0


def _scaler(fabric: Fabric) -> Any:
    """fp16's loss scaler, where there is one."""
    return getattr(fabric.strategy.precision, "scaler", None)


def check_finite(network: nn.Module, fabric: Fabric, epoch: int) -> None:
    """Check the weights, on all processes together.

    Raises:
        DivergedError: One of them is infinite or NaN.
    """
    local = [getattr(each, "to_local", lambda each=each: each)() for each in network.parameters()]
    mine = torch.stack([torch.isfinite(each).all() for each in local]).all().float()
    if fabric.all_reduce(mine, reduce_op="mean") != 1:
        raise DivergedError(f"the weights became infinite or NaN in epoch {epoch + 1}; the checkpoint before is kept")
