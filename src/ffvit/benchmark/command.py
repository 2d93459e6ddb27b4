"""The benchmark as it is asked for: what is left open filled in, measured, shown and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from ffvit.benchmark import measure, plot, roofline, table
from ffvit.benchmark.targets import Target
from ffvit.errors import DeviceError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.output_file import check_output, is_benchmark, is_plot
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
    image: int | None,
    rounds: int,
    seconds: float,
    train: bool,
    accelerator: str,
    json_file: Path | None,
    drawing: Path | None,
    console: Console,
) -> None:
    """What `ffvit benchmark` does; see there.

    Raises:
        UserError: A network, engine, precision, batch or place cannot be used.
    """
    if json_file is not None:
        check_output(json_file, "--json", "file with numbers of a benchmark", is_benchmark)
    if drawing is not None:
        check_output(drawing, "--out", "picture of a roofline", is_plot)
    device = default_device() if accelerator == "auto" else torch.device(accelerator)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--accelerator cuda: PyTorch sees no CUDA device on this machine; use cpu")
    batch = batch or BATCH[device.type]
    names = networks or (NETWORKS if drawing is None else ROOFLINE)
    subjects = [Target(each, image) for each in dict.fromkeys(names)]
    if drawing is not None:
        found = _roofline(subjects, precisions or ["fp32"], device, batch, drawing, console)
    else:
        if train and batch < 2:
            raise UserError(
                "--batch-size 1: a step of training takes two images at least; measure prediction with --no-train"
            )
        measured = measure.measure(
            subjects,
            engines,
            precisions,
            device=device,
            batch=batch,
            rounds=rounds,
            seconds=seconds,
            train=train,
            console=console,
        )
        table.show(measured, console)
        found = table.to_json(measured)
    if json_file is not None:
        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
        console.print(f"figures in {json_file}", highlight=False, markup=False)


def _roofline(
    subjects: Sequence[Target],
    precisions: Sequence[str],
    device: torch.device,
    batch: int,
    path: Path,
    console: Console,
) -> dict[str, Any]:
    if len(subjects) > 1:
        raise UserError("--roofline draws one network: name one, and others with another --out")
    for each in precisions:
        if each not in TYPES:
            raise UserError(f"--precisions {each}: --roofline measures {' and '.join(TYPES)}, as PyTorch computes them")
    with console.status("") as status:
        found = roofline.measure(
            subjects[0], precisions, device=device, batch=batch, tell=lambda what: status.update(Text(what))
        )
    roofline.show(found, console)
    plot.write(found, path)
    console.print(f"picture in {path}", highlight=False, markup=False)
    return roofline.to_json(found)
