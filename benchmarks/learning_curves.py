"""Whether what makes training fast changes the result: `python benchmarks/learning_curves.py`.

Runs of the same seeds are trained twice: fast, as `ffvit train --compile always` does it, in bf16 where the machine has
units for it, and plainly, in fp32, with tokens transposed for the product over patches, no compilation, and the
optimizer a tensor at a time. Initial weights, order,
augmentation and every other draw are the same, so the two differ by rounding alone; training makes that grow until the
curves are as far apart as two draws of chance. Each loss is held against the other way's 95 % interval over the seeds
(Student's t), epoch by epoch, and the final top-1 likewise.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from unittest import mock

import cyclopts
import numpy as np
import torch
from cyclopts import Parameter
from plots import picture
from pydantic import PositiveInt
from rich.console import Console
from scipy import stats
from torch import Tensor, nn

import ffvit
from ffvit import UserError
from ffvit.models import mixers
from ffvit.plot_style import ARMS
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device
from ffvit.terminal import track
from ffvit.training import step


def main(
    data: str = "digits",
    *,
    model: str | None = None,
    seeds: PositiveInt = 3,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Train with what makes it fast and without, and compare the curves.

    Parameters
    ----------
    data
        Images, as for `ffvit train`.
    model
        The network. Default: as of `ffvit train`.
    seeds
        Runs each way.
    out
        Draw the curves there (PNG).
    """
    losses: dict[str, list[list[float]]] = {"fast": [], "plain": []}
    top1: dict[str, list[float]] = {"fast": [], "plain": []}
    pairs = [(seed, way) for seed in range(seeds) for way in losses]
    with tempfile.TemporaryDirectory() as folder:
        for seed, way in track(pairs, "training"):
            plain = ffvit.Hardware(compile="never", precision="fp32")
            hardware = plain if way == "plain" else ffvit.Hardware(compile="always")
            with plainly() if way == "plain" else fast():
                run = ffvit.train(
                    model, data, hardware=hardware, seed=seed, out=Path(folder) / f"{way}-{seed}",
                )  # fmt: skip
            losses[way].append([row["loss"] for row in run.metrics()])
            top1[way].append(run.summary()["test"]["top1"]["value"])

    console = Console(width=110, highlight=False)
    console.print(f"{machine_name(default_device())}; torch {torch.__version__}; {data}; {seeds} seeds\n")
    fast_losses, plain_losses = np.array(losses["fast"]), np.array(losses["plain"])
    inside = _inside(fast_losses, plain_losses) & _inside(plain_losses, fast_losses)
    first = np.abs(fast_losses[:, 0] - plain_losses[:, 0]).max() / plain_losses[:, 0].mean()
    console.print(f"after the first epoch the losses of a seed differ by {first:.1e} of themselves at most")
    console.print(f"the mean losses lie in each other's 95 % interval in {inside.sum()} of {len(inside)} epochs")
    for way, shares in top1.items():
        low, high = _interval(np.array(shares))
        seeds_shown = ", ".join(f"{100 * share:.1f}" for share in shares)
        console.print(
            f"top-1 {way}: {100 * np.mean(shares):.1f} % (95 % interval over seeds {100 * low:.1f} to {100 * high:.1f}; "
            f"{seeds_shown})"
        )
    if out is not None:
        _draw(losses, out)
        console.print(f"picture in {out}")


@contextmanager
def fast() -> Iterator[None]:
    """As it is."""
    yield


@contextmanager
def plainly() -> Iterator[None]:
    """The product over patches on transposed tokens, and AdamW a tensor at a time."""

    def transposed(self: mixers.PatchLinear, x: Tensor) -> Tensor:
        return nn.functional.linear(x.mT, self.weight, self.bias).mT

    build = step.build_optimizer

    def one_by_one(network: nn.Module, recipe: ffvit.Recipe) -> torch.optim.Optimizer:
        optimizer = build(network, recipe)
        for group in optimizer.param_groups:
            group.update(foreach=False, fused=False)
        return optimizer

    with (
        mock.patch.object(mixers.PatchLinear, "forward", transposed),
        mock.patch.object(step, "build_optimizer", one_by_one),
    ):
        yield


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's 95 % interval of the mean over the first axis."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return values.mean(axis=0) - half, values.mean(axis=0) + half


def _inside(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    low, high = _interval(theirs)
    return (low <= ours.mean(axis=0)) & (ours.mean(axis=0) <= high)


def _draw(losses: dict[str, list[list[float]]], out: Path) -> None:
    with picture(out) as figure:
        axes = figure.subplots()
        for (way, runs), colour, style in zip(losses.items(), ARMS, ("-", (0, (2, 2))), strict=False):
            for number, run in enumerate(runs):
                label = f"{way}, a line a seed" if number == 0 else None
                axes.plot(range(1, len(run) + 1), run, color=colour, lw=1.4, ls=style, label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss in training")
        axes.set_title("What makes training fast, and training done plainly, learn the same")
        axes.legend()


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
