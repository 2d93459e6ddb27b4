"""The likeliest classes of image files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from timm.data import ImageNetInfo
from torch import nn

from ffvit.config.hardware import Hardware
from ffvit.data.folders import image_files
from ffvit.data.images import BadImageError, FileImages
from ffvit.data.loader import NormalizeOnDevice, evaluation_loader, worker_count
from ffvit.data.transforms import evaluation_transform
from ffvit.errors import DataError, ModelError, UserError
from ffvit.files.csv_formulas import escape_formula
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.launch import start_fabric
from ffvit.hardware.precision import float32
from ffvit.inference.engines import build
from ffvit.inference.evaluator import evaluation_mode
from ffvit.inference.report import percent
from ffvit.models.create import class_names_of, preprocess_of
from ffvit.models.weights import load
from ffvit.terminal import Terminal, printable

BATCH = 32
"""Images at once: few, so that the first predictions come soon."""


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, likeliest first, with their probabilities (0 to 1)."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    weights: str | Path | nn.Module,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    model: str | None = None,
    hardware: Hardware | None = None,
    engine: str = "torch",
) -> Iterator[Prediction | BadImageError]:
    """Predict the classes of images.

    Probabilities are calibrated with the temperature that the weights bring from their run, if they do.

    Args:
        weights: A run folder, a file of weights, or a network, whose mode and device are its own again afterwards.
        images: Image files, and folders of them at any depth.
        top: How many classes an image gets.
        model: The network's name, for weights that do not say.
        hardware: Where to compute.
        engine: What computes: one of `ffvit.inference.engines.ENGINES`. The default computes as `evaluate` does,
            with PyTorch in fp32; other engines and a `hardware.precision` are faster and differ by rounding.

    Yields:
        For each image in turn its prediction, or the error that says why it could not be read.

    Raises:
        UserError: The weights cannot be used, a path does not exist, there is no image, the engine cannot run here, or
            the network's logits are not finite.
    """
    hardware = hardware or Hardware()
    if hardware.devices * hardware.nodes > 1:
        raise UserError("predicting uses one device: leave out --devices and --nodes")
    paths = [path for given in images for path in _paths(Path(given))]
    if not paths:
        raise DataError(f"there is no image in {', '.join(map(str, images)) or 'nothing'}")
    network = weights if isinstance(weights, nn.Module) else load(weights, model)
    fabric = start_fabric(hardware.replace(precision="fp32"))
    if fabric.device.type == "cpu":
        keep_freed_memory()
    with evaluation_mode(network, fabric.device):
        runner, precision = (
            network,
            "fp32" if hardware.precision == "auto" else hardware.precision,
        )  # as evaluation does
        if (engine, precision) != ("torch", "fp32"):
            runner = build(network, engine, precision, fabric.device)
        yield from _predictions(network, runner, paths, top, fabric.device, hardware.workers)


def _predictions(
    network: nn.Module, runner: nn.Module, paths: list[str], top: int, device: torch.device, workers: int | None
) -> Iterator[Prediction | BadImageError]:
    """What a network, run by an engine on the device, predicts for image files."""
    preprocess, names = preprocess_of(network), _readable(class_names_of(network))
    temperature = getattr(network, "temperature", None) or 1.0
    files = FileImages(Path(), paths, np.zeros(len(paths), dtype=np.int64))
    transform, normalize = evaluation_transform(preprocess), NormalizeOnDevice(preprocess)
    if workers is None:
        workers = worker_count(files, 1) if len(paths) > 2 * BATCH else 0
    for batch in evaluation_loader(files, transform, preprocess.shape, BATCH, workers, device=device):
        with torch.inference_mode(), float32(device):
            logits = runner(normalize(batch.to(device))).float().cpu()
        if not logits.isfinite().all():
            raise ModelError(
                "the network's logits are NaN or infinite: its training diverged, or its weights are damaged"
            )
        likeliest = (logits / temperature).softmax(dim=1).topk(min(top, logits.shape[1]), dim=1)
        bad = iter(batch.bad)
        for row, (index, weight) in enumerate(zip(batch.indices, batch.weights.tolist(), strict=True)):
            if not weight:
                yield BadImageError(paths[index], next(bad).reason)
                continue
            yield Prediction(
                paths[index],
                tuple(names[number] for number in likeliest.indices[row].tolist()),
                tuple(likeliest.values[row].tolist()),
            )


def _paths(path: Path) -> list[str]:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: there is no such file or folder") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from None
    if path.is_dir():
        return [str(path / name) for name in image_files(path)]
    return [str(path)]


def _readable(names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's WordNet ids in words; other names as they are."""
    info = ImageNetInfo()
    if names != tuple(info.label_names()):
        return names
    return tuple(info.index_to_description(number) for number in range(len(names)))


def write_predictions(
    predictions: Iterator[Prediction | BadImageError], form: Literal["table", "csv", "json"], console: Console
) -> int:
    """Write predictions as they come, unreadable images and their number to stderr; hands back how many were read.

    Tables and JSON are text. CSV names images by the bytes of their names, also where these are no text, except on a
    terminal.
    """
    writer, stderr = csv.writer(_CsvOutput(), lineterminator="\n"), Terminal(stderr=True)
    bar = "█" if console.encoding.startswith("utf") else "#"
    if form == "csv":
        writer.writerow(("image", "rank", "class", "probability"))
    read = bad = 0
    for prediction in predictions:
        if isinstance(prediction, BadImageError):
            stderr.say(f"not read: {prediction}")
            bad += 1
            continue
        read += 1
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if form == "csv":
            image = escape_formula(prediction.image)
            for rank, (name, probability) in enumerate(pairs, start=1):
                writer.writerow((image, rank, escape_formula(name), f"{probability:.6f}"))
        elif form == "json":
            classes = [{"class": name, "probability": probability} for name, probability in pairs]
            print(json.dumps({"image": prediction.image, "classes": classes}))
        else:
            console.print(prediction.image, style="bold", highlight=False, markup=False)
            for name, probability in pairs:
                line = f"  {percent(probability):>7}  {bar * round(20 * probability):<20} {name}"
                console.print(line, highlight=False, markup=False)
    if bad:
        stderr.say(f"{bad:,} of {read + bad:,} images could not be read")
    return read


class _CsvOutput:
    """Stdout for names that need not be text."""

    def write(self, line: str) -> None:
        if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
            sys.stdout.write("\n".join(printable(part) for part in line.split("\n")))
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
