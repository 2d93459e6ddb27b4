"""Whole commands beside timm's scripts, on one folder of JPEGs: `python benchmarks/end_to_end.py SCRIPTS`.

SCRIPTS is a checkout of timm's repository (github.com/huggingface/pytorch-image-models): its `train.py`, `validate.py` and
`inference.py` are in no wheel. They are run as they are, on the same network, FF-tiny at 224 px, which ffvit registers
with timm; with as many loading processes, in the same precision, with the same augmentation.

- Training: one epoch of DeiT's recipe without repeated augmentation (timm's script has it for several processes alone),
  in bf16 where this machine is fast at it, with a moving average of the weights; both sets of weights evaluated at the end.
- Evaluation, in fp32, of the weights that `ffvit train` made: the same top-1 within 0.5 points, or nothing is timed.
- Prediction of all training images in the precision of training, to a CSV file.

Time is that of the whole command, its start included. Each round runs all of them in turn; ratios are taken within it.
The JPEGs are made of scikit-learn's photographs (500 x 375 pixels, 90 to 130 KB).
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from make_photographs import CLASSES, write_photographs
from pydantic import PositiveInt
from rich.console import Console
from script import run, spread

from ffvit import UserError
from ffvit.profiling.hardware_peak import machine_name, slow_precision_reason
from ffvit.profiling.timing import default_device
from ffvit.terminal import build_table, track

NETWORK = "ff_tiny_patch16_224"
TIMM = """
import runpy, sys, ffvit
from ffvit.data import augmentation
from timm.data import auto_augment
ffvit.register_with_timm()
auto_augment.NAME_TO_OP["PosterizeIncreasing"] = augmentation.posterize  # timm's stops at an image it cannot posterize
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main(scripts: Path, *, images: PositiveInt = 768, batch: PositiveInt = 64, rounds: PositiveInt = 3) -> None:
    """Time commands of ffvit and timm's scripts.

    Parameters
    ----------
    scripts
        A checkout of timm's repository.
    images
        Photographs to train on and to predict; a quarter as many to evaluate.
    batch
        Images a step.
    rounds
        How often everything is measured.
    """
    for name in ("train.py", "validate.py", "inference.py"):
        if not (scripts / name).is_file():
            raise UserError(f"{scripts}: there is no {name}: give a checkout of timm's repository")
    device = default_device()
    precision = "fp32" if slow_precision_reason("bf16", device) else "bf16"
    console = Console(width=120, highlight=False)
    console.print(
        f"{machine_name(device)}; torch {torch.__version__}, timm {timm.__version__}; {NETWORK}, {precision}; {rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "photographs"
        write_photographs(data / "train", images)
        write_photographs(data / "val", images // 4, seed=1)
        write_photographs(data / "test", CLASSES, seed=2)  # else ffvit would hold some of train out to validate on
        works = _commands(scripts.resolve(), data, folder, batch, precision, device.type)
        times: dict[str, list[tuple[float, float]]] = {work: [] for work in works}
        for work in track(list(works) * rounds, "commands"):
            ours, theirs = works[work]
            printed, seconds = _run(ours)
            beside, other = _run(theirs)
            times[work].append((seconds, other))
            if work == "evaluate":
                _check_same(printed, beside)
            if work == "predict":
                _check_predicted(folder, images)
    counts = {"train": images, "evaluate": images // 4, "predict": images}
    rows = []
    for work, pairs in times.items():
        speeds = [[counts[work] / seconds for seconds in side] for side in zip(*pairs, strict=True)]
        ratios = [theirs / ours for ours, theirs in pairs]
        rows.append((work, *(spread(side, 1) for side in speeds), spread(ratios, 2)))
    console.print(
        build_table(("command", "ffvit, images/s", "timm's script, images/s", "times timm's"), rows, markdown=True)
    )


def _commands(
    scripts: Path, data: Path, folder: Path, batch: int, precision: str, device: str
) -> dict[str, tuple[list[str], list[str]]]:
    """For each kind of work our command and timm's."""
    ffvit, workers, train, val = [sys.executable, "-m", "ffvit"], ["--workers", "2"], data / "train", data / "val"
    amp = ["--amp", "--amp-dtype", "bfloat16"] if precision == "bf16" else []
    named = [
        "--model",
        NETWORK,
        "--num-classes",
        str(CLASSES),
        "--device",
        device,
        "--batch-size",
        str(batch),
        *workers,
    ]
    weights = ["--checkpoint", str(folder / "run" / "best.safetensors")]
    recipe = ["--recipe", "deit", "--epochs", "1", "--batch-size", str(batch), "--recipe.aug-repeats", "1",
              "--recipe.warmup-epochs", "0", "--lr", "1e-3"]  # fmt: skip
    theirs = ["--opt", "adamw", "--lr", "1e-3", "--weight-decay", "0.05", "--aa", "rand-m9-mstd0.5-inc1", "--mixup", "0.8",
              "--cutmix", "1.0", "--reprob", "0.25", "--smoothing", "0.1", "--drop-path", "0.1", "--model-ema",
              "--model-ema-decay", "0.99996", "--train-interpolation", "bicubic", "--epochs", "1", "--warmup-epochs", "0"]  # fmt: skip
    run = str(folder / "run")
    return {
        "train": (
            [*ffvit, "train", NETWORK, "--data", str(data), *recipe, "--precision", precision, *workers, "--device", device,
             "--out", run, "--overwrite"],
            _timm(scripts, "train.py", "--data-dir", str(data), *named, *theirs, *amp, "--output", str(folder / "timm")),
        ),
        "evaluate": (
            [*ffvit, "evaluate", run, "--data", str(val), *workers, "--device", device],
            _timm(scripts, "validate.py", "--data-dir", str(val), *named, *weights),
        ),
        "predict": (
            [*ffvit, "predict", run, str(train), "--top", "1", "--format", "csv", "--precision", precision, *workers,
             "--device", device],
            _timm(scripts, "inference.py", "--data-dir", str(train), *named, *weights, *amp, "--topk", "1",
                  "--results-dir", str(folder)),
        ),
    }  # fmt: skip


def _timm(scripts: Path, script: str, *options: str) -> list[str]:
    return [sys.executable, "-c", TIMM, str(scripts / script), *options]


def _run(command: list[str]) -> tuple[str, float]:
    """What a command printed, and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise UserError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout, seconds


def _check_same(ours: str, theirs: str) -> None:
    """A comparison of speeds is one only where both score the same."""
    top1 = [
        float(re.search(pattern, text)[1])
        for pattern, text in ((r"top-1\D*([\d.]+) %", ours), (r'"top1": ([\d.]+)', theirs))
    ]
    if abs(top1[0] - top1[1]) > 0.5:
        raise UserError(f"ffvit evaluates {top1[0]} %, timm {top1[1]} %: what they compute differs")


def _check_predicted(folder: Path, images: int) -> None:
    counts = [sum(1 for _ in csv.reader(path.open())) - 1 for path in folder.glob("*.csv")]
    if images not in counts:
        raise UserError(f"timm's inference.py wrote {counts} rows, not {images}")


if __name__ == "__main__":
    run(main)
