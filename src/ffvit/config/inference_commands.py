"""The commands that ask a trained network: evaluate and predict."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, PositiveInt
from pydantic.dataclasses import dataclass

from ffvit.config.command_fields import (
    Backend,
    Corruptions,
    Figure,
    ImageSize,
    InferenceHardware,
    Interpolation,
    ModelName,
    OneDevice,
    Paths,
    Reference,
    ResizeMethod,
    Root,
    Seed,
    Severities,
    Shift,
    Weights,
    option,
    several,
)
from ffvit.config.commands import CHECKED, Command
from ffvit.config.options import RARE


@dataclass(frozen=True, config=CHECKED)
class Evaluate(Command):
    """Evaluate weights on images: accuracy with its uncertainty, calibration, classes, mistakes, robustness."""

    examples = """ffvit evaluate runs/photos            on the run's test split
ffvit evaluate runs/photos --data new-photos/ --predictions new.csv
ffvit evaluate linear-base-checkpoint.pth --data /data/imagenet/val
ffvit evaluate runs/photos --corruptions           noise, blur, weather, ...
ffvit evaluate runs/photos --corruptions fog,patches --severities 1,3,5
ffvit evaluate runs/ff --reference runs/attention --corruptions
ffvit evaluate runs/in1k --shift imagenet-r/ imagenet-a/ real"""

    weights: Annotated[
        Weights,
        option(
            "A run folder, or a file: ours, one that `ffvit export` wrote, the paper's released checkpoints, DeiT's and "
            "timm's ViT."
        ),
    ]
    data: Annotated[
        str | Path | None,
        option(
            "Images, as for `ffvit train --data`; classes are matched by name. Default: the test split of the "
            "run that the weights are from."
        ),
    ] = None
    _: KW_ONLY
    model: ModelName = None
    batch_size: Annotated[PositiveInt, option("Images per batch on each device.")] = 256
    image_size: Annotated[ImageSize, RARE] = None
    resize_method: ResizeMethod = "pinv"
    crop: Annotated[
        float | None,
        RARE,
        option("Share of the resized image that the central crop keeps. Default: as in the weights.", gt=0, le=1),
    ] = None
    interpolation: Interpolation = None
    pixel_backend: Backend = None
    root: Root = None
    reference: Reference = None
    corruptions: Corruptions = ()
    severities: Severities = (1, 2, 3, 4, 5)
    shift: Shift = ()
    seed: Seed = None
    json: Annotated[
        Path | None, option("Write the figures to this file. Default: evaluation.json in the run folder.")
    ] = None
    figure: Figure = None
    predictions: Annotated[Path | None, option("Write the prediction for each image to this .csv file.")] = None
    hardware: InferenceHardware = None


@dataclass(frozen=True, config=CHECKED)
class Predict(Command):
    """Predict the classes of images, with calibrated probabilities."""

    examples = """ffvit predict runs/flowers photo.jpg folder/ --top 3
ffvit predict runs/flowers folder/ --format csv > predictions.csv"""

    weights: Weights
    images: Annotated[Paths, BeforeValidator(several), option("Image files, and folders that are searched for them.")]
    _: KW_ONLY
    top: Annotated[PositiveInt, option("Classes per image, likeliest first.")] = 5
    format: Annotated[
        Literal["table", "csv", "json"],
        option("How they are printed: a table, csv (image, rank, class, probability), or json (a line per image)."),
    ] = "table"
    model: ModelName = None
    engine: Annotated[
        Literal["torch", "compiled", "onnx", "onnx-int8", "openvino"],
        option(
            "What computes: torch in fp32, as in evaluate. Others are faster for many images; `ffvit benchmark` compares "
            "them. onnx-int8 computes in 8-bit integers, calibrated on the run's training images."
        ),
    ] = "torch"
    hardware: OneDevice = None
