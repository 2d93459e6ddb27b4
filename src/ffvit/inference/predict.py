"""The likeliest classes of image files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import nn

from ffvit.config.hardware import Hardware
from ffvit.data.folders import image_files
from ffvit.data.images import BadImageError
from ffvit.errors import DataError
from ffvit.files.csv_formulas import escape_formula
from ffvit.inference.predictor import Prediction, Predictor
from ffvit.terminal import Terminal, percent, printable

INT8 = "onnx-int8"
"""The engine that computes in 8-bit integers, by one name."""

_WORDS = {True: "yes", False: "no", None: ""}


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
        weights: A run folder, a file of weights, a file that `ffvit export` wrote, or a network, which is copied.
        images: Image files, and folders of them at any depth.
        top: How many classes an image gets.
        model: The network's name, for weights that do not say.
        hardware: Where to compute.
        engine: What computes: one of `ffvit.inference.engines.ENGINES`, or onnx-int8. The default computes as `evaluate` does,
            with PyTorch in fp32; other engines and a `hardware.precision` are faster and differ by rounding.

    Yields:
        For each image in turn its prediction, or the error that says why it could not be read.

    Raises:
        UserError: The weights cannot be used, a path does not exist, there is no image, the engine cannot run here, or
            the network's logits are not finite.
    """
    paths = [path for given in images for path in _paths(Path(given))]
    if not paths:
        raise DataError(f"there is no image in {', '.join(map(str, images)) or 'nothing'}")
    precision = "int8" if engine == INT8 else None
    engine = "onnx" if engine == INT8 else engine
    predictor = Predictor(weights, model=model, engine=engine, precision=precision, hardware=hardware)
    yield from predictor.stream(paths, top)


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
        writer.writerow(("image", "rank", "class", "probability", "none_of_these"))
    read = bad = 0
    for prediction in predictions:
        if isinstance(prediction, BadImageError):
            stderr.say(f"not read: {prediction}")
            bad += 1
            continue
        read += 1
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if form == "csv":
            image, none = escape_formula(prediction.image), _WORDS[prediction.none_of_these]
            for rank, (name, probability) in enumerate(pairs, start=1):
                writer.writerow((image, rank, escape_formula(name), f"{probability:.6f}", none))
        elif form == "json":
            classes = [{"class": name, "probability": probability} for name, probability in pairs]
            fields = {"image": prediction.image, "classes": classes, "none_of_these": prediction.none_of_these}
            print(json.dumps(fields))
        else:
            console.print(prediction.image, style="bold", highlight=False, markup=False)
            if prediction.none_of_these:
                console.print("  probably none of these classes; the nearest:", highlight=False, markup=False)
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
