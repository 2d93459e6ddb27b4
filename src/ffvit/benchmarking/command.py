"""`ffvit benchmark`: fills in what was left open, measures, prints and writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ffvit.benchmarking import measure, plot, report, roofline
from ffvit.benchmarking.targets import Target
from ffvit.errors import DeviceError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.output_file import check_output, is_benchmark, is_plot
from ffvit.hardware.devices import keep_freed_memory
from ffvit.profiling.hardware_peak import TYPES
from ffvit.profiling.timing import default_device

NETWORKS = ["ff_tiny_patch16_224", "deit_tiny_patch16_224"]
ROOFLINE = ["ff_base_patch16_224"]
BATCH = {"cpu": 8, "cuda": 128}


def benchmark(
    networks: Sequence[str],
    *,
    engines: Sequence[str],
    precisions: Sequence[str] | None,
    batch: int | None,
    image_size: int | None,
    rounds: int,
    seconds: float,
    train: bool,
    accelerator: str,
    formats: Sequence[str] | None,
    json_file: Path | None,
    drawing: Path | None,
    console: Console,
) -> dict[str, Any]:
    """What `ffvit benchmark` does; see there. Returns the measurements as `json_file` holds them.

    Raises:
        UserError: A network, engine, precision, batch or path cannot be used.
    """
    if json_file is not None:
        check_output(json_file, "--json", "file with numbers of a benchmark", is_benchmark)
    if drawing is not None:
        check_output(drawing, "--out", "picture of a roofline", is_plot)
    device = default_device() if accelerator == "auto" else torch.device(accelerator)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: PyTorch sees no CUDA device on this machine; use cpu")
    if device.type == "cpu":
        keep_freed_memory()  # as in `ffvit train` and `ffvit predict`
    asked, batch = batch, batch or BATCH[device.type]
    names = networks or (NETWORKS if drawing is None else ROOFLINE)
    targets = [Target(name, image_size) for name in dict.fromkeys(names)]
    if formats is not None:
        if drawing is not None or len(targets) != 1 or not networks:
            raise UserError("--formats measures the formats of one run folder: name it, without --roofline")
        if accelerator == "cuda":
            raise DeviceError("--formats: exported files run on processors here: leave out --device cuda")
        figures = _formats(targets[0], formats, asked, rounds, seconds, console)
    elif drawing is not None:
        figures = _roofline(targets, precisions or ["fp32"], device, batch, drawing, console)
    else:
        if train and batch < 2:
            raise UserError(
                "--batch-size 1: a training step takes two images at least; measure prediction with --no-train"
            )
        measured = measure.measure(
            targets, engines, precisions, device=device, batch=batch, rounds=rounds, seconds=seconds, train=train,
            console=console,
        )  # fmt: skip
        report.print_benchmark(measured, console)
        figures = report.to_json(measured)
    if json_file is not None:
        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")
        console.print(f"figures in {json_file}", highlight=False, markup=False)
    return figures


def _formats(
    target: Target, formats: Sequence[str], batch: int | None, rounds: int, seconds: float, console: Console
) -> dict[str, Any]:
    from ffvit.benchmarking.formats import formats_to_json, measure_formats, print_formats

    measured = measure_formats(target, formats, batch=batch, rounds=rounds, seconds=seconds, console=console)
    print_formats(measured, console)
    return formats_to_json(measured)


def _roofline(
    targets: Sequence[Target],
    precisions: Sequence[str],
    device: torch.device,
    batch: int,
    path: Path,
    console: Console,
) -> dict[str, Any]:
    if len(targets) > 1:
        raise UserError("--roofline draws one network: name one, and others with another --out")
    for precision in precisions:
        if precision not in TYPES:
            raise UserError(f"--precisions {precision}: --roofline measures {' and '.join(TYPES)}")
    measured = roofline.measure(targets[0], precisions, device=device, batch=batch, console=console)
    roofline.print_roofline(measured, console)
    plot.write(measured, path)
    console.print(f"picture in {path}", highlight=False, markup=False)
    return roofline.to_json(measured)
