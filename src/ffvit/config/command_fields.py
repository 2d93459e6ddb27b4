"""What several commands have in common: types of their fields, and fields that are declared once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt
from pydantic import SkipValidation as Unchecked

from ffvit.config.choices import DataChoice, HardwareChoice, RecipeChoice
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.mixers import TokenResizeMethod
from ffvit.config.options import COMMAS, RARE, Bare, Nested
from ffvit.config.preprocess import PixelBackend
from ffvit.config.recipe import Recipe

LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow"]

if TYPE_CHECKING:
    from torch.nn import Module

    Names = str | Sequence[str]
    Paths = str | Path | Sequence[str | Path]
    Size = int | tuple[int, int]
    LoggerNames = str | Sequence[str]
    Levels = str | Sequence[int]
else:  # what they are once they are checked; PyTorch is not imported to read a command line
    Module = Any
    Names = tuple[str, ...]
    Paths = tuple[str | Path, ...]
    Size = tuple[PositiveInt, PositiveInt]
    LoggerNames = tuple[LoggerName, ...]
    Levels = tuple[Annotated[int, Field(ge=1, le=5)], ...]


def option(description: str, **checks: Any) -> Any:
    """What is said of an option, and what its value must fulfil (pydantic's `gt`, `ge`, `lt`, `le`)."""
    return Field(description=description, **checks)


def size(given: object) -> object:
    """Height and width; one number is a square."""
    sides = (given,) if isinstance(given, int | str) else tuple(given) if isinstance(given, Sequence) else given
    if not isinstance(sides, tuple):
        return given
    if len(sides) not in (1, 2):
        raise ValueError(f"give one number for a square, or height and width; got {len(sides)} numbers")
    return sides[0], sides[-1]


def several(given: object) -> object:
    """Several things; one needs no list."""
    return (given,) if isinstance(given, str | Path) else given


def comma_separated(given: object) -> object:
    """Several words; text has commas between them."""
    return tuple(word.strip() for word in given.split(",") if word.strip()) if isinstance(given, str) else given


def _none_or_several(given: object) -> object:
    return () if given == "none" else comma_separated(given)


# Options that several commands have.
Weights = Annotated[str | Path | Module, Unchecked, option("A run folder or a file of weights.")]
ModelName = Annotated[str | None, option("Name of the network, for weights that do not say.")]
ImageSize = Annotated[
    Size | None,
    BeforeValidator(size),
    option("Image size in pixels: one number for a square, or height and width. Default: the network's."),
]
Seed = Annotated[int | None, option("The same seed gives the same numbers. Default: 0.", ge=0, lt=2**64)]
Root = Annotated[
    Path | None, RARE, option("Where a data set that timm opens lies, and where remote shards are cached.")
]
Source = Annotated[str | Path, option("Images, as for `ffvit train --data`.")]
Loggers = Annotated[
    LoggerNames | None,
    COMMAS,
    BeforeValidator(_none_or_several),
    option("Where metrics go beside metrics.jsonl: several with commas, or none. Default: tensorboard."),
]
ResizeMethod = Annotated[
    TokenResizeMethod,
    RARE,
    option(
        "How weights over patches are resized: input fields by the pseudo-inverse and output fields by areas (pinv) or "
        "bilinearly (bilinear); both fields bilinearly (interpolate); or the old network on each part of a larger image "
        "(block)."
    ),
]
Overwrite = Annotated[bool, option("Replace what is in --out, if ffvit wrote it.")]

# Options of `ffvit evaluate`.
Interpolation = Annotated[
    Literal["bicubic", "bilinear"] | None, RARE, option("How images are resized. Default: as in the weights.")
]
Backend = Annotated[
    PixelBackend | None,
    RARE,
    option(
        "What decodes and resizes images: Pillow (identical to timm) or faster libraries. Default: as in the weights."
    ),
]
Figure = Annotated[
    Path | None,
    option("Draw accuracy under corruptions to this .png file. Default: corruptions.png in the run folder."),
]
Reference = Annotated[
    Weights | None,
    option("Another network for the same classes, to compare with on the same images, image by image."),
]
Corruptions = Annotated[
    Names,
    COMMAS,
    Bare("all"),
    BeforeValidator(comma_separated),
    option(
        "Also evaluate on corrupted images: all (also without a value), or several with commas of noise, blur, weather, "
        "digital (ImageNet-C's 15), patches (shuffled, dropped, occluded), or single ones, such as fog."
    ),
]
Severities = Annotated[
    Levels,
    COMMAS,
    BeforeValidator(comma_separated),
    option("How severe corruptions are, 1 to 5, several with commas."),
]
Shift = Annotated[
    Paths,
    BeforeValidator(several),
    option(
        "Also evaluate on shifted data sets with all or some of the classes: folders, as ImageNet-V2, -A, -R and "
        "-Sketch are; real: ReaL's labels for ImageNet's validation images."
    ),
]

Seconds = Annotated[PositiveFloat, option("Time of each measurement, about.")]

_NEEDED = ("epochs", "batch_size", "lr")
_RECIPE = Nested(Recipe, "Recipe", "recipe.", key="base", common=_NEEDED, short=_NEEDED)

TrainingData = Annotated[
    DataChoice,
    Unchecked,
    option(
        "Images: digits; a folder with train/ and val/ (and test/), of class folders, shards or Parquet files; one such "
        "file; a .csv or .parquet list; the address of remote shards; or what timm opens: torch/cifar10, hfds/..., wds/... Default: digits."
    ),
    Nested(Data, "Images", "data.", key="source"),
]
TrainingRecipe = Annotated[
    RecipeChoice,
    Unchecked,
    option(
        "deit (the paper's), small, digits, or a .yaml file; the options below change single fields. "
        "Default: digits for the digits, else small."
    ),
    _RECIPE,
]
ConversionData = Annotated[
    DataChoice,
    Unchecked,
    option("Images of the classes that the network knows, as for `ffvit train`. Default: those of its run."),
    Nested(Data, "Images", "data.", key="source"),
]
ConversionRecipe = Annotated[
    RecipeChoice,
    Unchecked,
    option(
        "How the network is trained after each replacement. Default: as its run was, but for 1 epoch, at a quarter of its "
        "learning rate."
    ),
    replace(_RECIPE, defaults="as --recipe says"),
]
TrainingHardware = Annotated[
    HardwareChoice,
    Unchecked,
    option("Where to compute."),
    Nested(Hardware, "Hardware", common=("accelerator", "precision", "workers")),
]
InferenceHardware = Annotated[
    HardwareChoice,
    Unchecked,
    option("Where to compute."),
    Nested(
        Hardware,
        "Hardware",
        fields=("accelerator", "devices", "nodes", "workers"),
        common=("accelerator", "workers"),
    ),
]
OneDevice = Annotated[
    HardwareChoice,
    Unchecked,
    option("Where to compute."),
    Nested(Hardware, "Hardware", fields=("accelerator", "precision", "workers"),
           common=("accelerator", "precision", "workers")),
]  # fmt: skip
