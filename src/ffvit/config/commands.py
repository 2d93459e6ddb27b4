"""What a person can ask ffvit to do: a frozen value a command, whose fields are its options and its keywords in Python.

A field says everything about its option once: name, type, default, help and check. The command line (`ffvit.cli`), the
functions of `ffvit.api` and docs/reference.md are made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import SkipValidation as Unchecked
from pydantic.dataclasses import dataclass

from ffvit.config.architecture import Architecture, Network
from ffvit.config.choices import DataChoice, HardwareChoice, RecipeChoice
from ffvit.config.data import BAD_IMAGES, Data
from ffvit.config.hardware import Hardware
from ffvit.config.options import COMMAS, PYTHON_ONLY, RARE, Nested
from ffvit.config.preprocess import PixelBackend
from ffvit.config.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console
    from torch.nn import Module

    from ffvit.study.plan import Plan

    Names = str | Sequence[str]
    Paths = str | Path | Sequence[str | Path]
    Size = int | tuple[int, int]
else:  # what they are once they are checked; the heavy ones are not imported to read a command line
    Console = Module = Plan = Any
    Names = tuple[str, ...]
    Paths = tuple[str | Path, ...]
    Size = tuple[PositiveInt, PositiveInt]

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


def _size(given: object) -> object:
    """Height and width; one number is a square."""
    sides = (given,) if isinstance(given, int | str) else tuple(given) if isinstance(given, Sequence) else given
    if not isinstance(sides, tuple):
        return given
    if len(sides) not in (1, 2):
        raise ValueError(f"give one number for a square, or height and width; got {len(sides)} numbers")
    return sides[0], sides[-1]


def _several(given: object) -> object:
    """Several things; one needs no list."""
    return (given,) if isinstance(given, str | Path) else given


def _comma_separated(given: object) -> object:
    return tuple(word.strip() for word in given.split(",") if word.strip()) if isinstance(given, str) else given


# Options that several commands have.
Weights = Annotated[str | Path | Module, Unchecked, Field(description="A run folder or a file of weights.")]
ModelName = Annotated[str | None, Field(description="Name of the network, for weights that do not say.")]
ImageSize = Annotated[
    Size | None,
    BeforeValidator(_size),
    Field(description="Image size in pixels: one number for a square, or height and width. Default: the network's."),
]
Seed = Annotated[int | None, Field(ge=0, lt=2**64, description="The same seed gives the same numbers. Default: 0.")]
Root = Annotated[
    Path | None,
    RARE,
    Field(description="Where a data set that timm opens lies, and where remote shards are cached."),
]
Source = Annotated[str | Path, Field(description="Images, as for `ffvit train --data`.")]
Overwrite = Annotated[bool, Field(description="Replace what is in --out, if ffvit wrote it.")]

Cluster = Annotated[str | None, RARE, Field(description="Address of a Ray cluster to run on; `auto`: this machine's.")]
Seconds = Annotated[PositiveFloat, Field(description="Time of each measurement, about.")]
JsonFile = Annotated[Path | None, Field(description="Write the figures to this file.")]

TrainingData = Annotated[
    DataChoice,
    Unchecked,
    Field(
        description="Images: digits; a folder with train/ and val/ (and test/), of class folders or of shards; a .csv or "
        ".parquet list; the address of remote shards; or what timm opens: torch/cifar10, hfds/..., wds/... Default: digits."
    ),
    Nested(Data, "Images", "data.", key="source"),
]
TrainingRecipe = Annotated[
    RecipeChoice,
    Unchecked,
    Field(
        description="deit (the paper's), small, digits, or a .yaml file; the options below change single fields. "
        "Default: digits for the digits, else small."
    ),
    Nested(
        Recipe,
        "Recipe",
        "recipe.",
        key="base",
        common=("epochs", "batch_size", "lr"),
        short=("epochs", "batch_size", "lr"),
    ),
]
TrainingHardware = Annotated[
    HardwareChoice,
    Unchecked,
    Field(description="Where to compute."),
    Nested(Hardware, "Hardware", common=("accelerator", "precision", "workers")),
]
InferenceHardware = Annotated[
    HardwareChoice,
    Unchecked,
    Field(description="Where to compute."),
    Nested(
        Hardware,
        "Hardware",
        fields=("accelerator", "devices", "nodes", "precision", "workers"),
        common=("accelerator", "precision", "workers"),
    ),
]
OneDevice = Annotated[
    HardwareChoice,
    Unchecked,
    Field(description="Where to compute."),
    Nested(Hardware, "Hardware", fields=("accelerator", "precision", "workers"),
           common=("accelerator", "precision", "workers")),
]  # fmt: skip


@dataclass(frozen=True, config=CHECKED)
class Command:
    """What all commands have.

    Attributes:
        verbose: Where to print: True for the terminal, or a rich console of your own. Default: nothing is printed.
    """

    examples: ClassVar[str] = ""

    _: KW_ONLY
    verbose: Annotated[
        bool | Console,
        Unchecked,
        PYTHON_ONLY,
        Field(description="Print progress: True, or a rich console to print it on. Default: print nothing."),
    ] = False


@dataclass(frozen=True, config=CHECKED)
class Train(Command):
    """Train a network and evaluate it on a held-out test split."""

    examples = """ffvit train                           the FF-only network on handwritten digits
ffvit train ff_small_patch16_224 --data photos/ --out runs/photos
ffvit train vit_small_patch16_224 --data photos/ --epochs 50 --lr 5e-4
ffvit train --out runs/photos --resume"""

    model: Annotated[
        str | Architecture | Network | None,
        Unchecked,
        Field(
            description="Name of a network, ours or timm's (`ffvit models` lists them). "
            "Default: ff_micro_patch2_8 for the digits, else ff_tiny_patch16_224."
        ),
    ] = None
    data: TrainingData = None
    recipe: TrainingRecipe = None
    _: KW_ONLY
    image: ImageSize = None
    seed: Seed = None
    start_from: Annotated[
        str | Path | None,
        Field(description="Weights to start from: a file, a run folder, or `pretrained` for the published ones."),
    ] = None
    config: Annotated[
        Path | None, RARE, Field(description="Repeat the run of this config.yaml; other options change it.")
    ] = None
    out: Annotated[Path | None, Field(description="The run folder. Default: a new one in runs/.")] = None
    resume: Annotated[bool, Field(description="Resume the run in --out from its last checkpoint.")] = False
    overwrite: Overwrite = False
    hardware: TrainingHardware = None


@dataclass(frozen=True, config=CHECKED)
class Resume(Command):
    """Resume a run from its last checkpoint, or from its start if it has none. The result is the same as if it had never stopped."""

    out: Annotated[Path, Field(description="The run folder.")]
    _: KW_ONLY
    hardware: TrainingHardware = None


@dataclass(frozen=True, config=CHECKED)
class Evaluate(Command):
    """Evaluate weights on images: accuracy with its uncertainty, calibration, classes, mistakes."""

    examples = """ffvit evaluate runs/photos            on the test split of its own data
ffvit evaluate runs/photos --data new-photos/ --predictions new.csv
ffvit evaluate linear-base-checkpoint.pth --data /data/imagenet/val"""

    weights: Annotated[
        Weights,
        Field(description="A run folder, or a file: ours, the paper's released checkpoints, DeiT's and timm's ViT."),
    ]
    data: Annotated[
        str | Path | None,
        Field(
            description="Images, as for `ffvit train --data`; classes are matched by name. Default: the test split of the "
            "run that the weights are from."
        ),
    ] = None
    _: KW_ONLY
    model: ModelName = None
    batch_size: Annotated[PositiveInt, Field(description="Images per batch on each device.")] = 256
    crop: Annotated[
        float | None,
        RARE,
        Field(
            gt=0,
            le=1,
            description="Share of the resized image that the central crop keeps. Default: as in the weights.",
        ),
    ] = None
    interpolation: Annotated[
        Literal["bicubic", "bilinear"] | None,
        RARE,
        Field(description="How images are resized. Default: as in the weights."),
    ] = None
    pixel_backend: Annotated[
        PixelBackend | None,
        RARE,
        Field(
            description="What decodes and resizes images: Pillow (identical to timm) or faster libraries. "
            "Default: as in the weights."
        ),
    ] = None
    root: Root = None
    json: Annotated[
        Path | None, Field(description="Write the figures to this file. Default: evaluation.json in the run folder.")
    ] = None
    predictions: Annotated[Path | None, Field(description="Write the prediction for each image to this .csv file.")] = (
        None
    )
    hardware: InferenceHardware = None


@dataclass(frozen=True, config=CHECKED)
class Predict(Command):
    """Predict the classes of images, with calibrated probabilities."""

    examples = """ffvit predict runs/flowers photo.jpg folder/ --top 3
ffvit predict runs/flowers folder/ --format csv > predictions.csv"""

    weights: Weights
    images: Annotated[
        Paths,
        BeforeValidator(_several),
        Field(description="Image files, and folders that are searched for them."),
    ]
    _: KW_ONLY
    top: Annotated[PositiveInt, Field(description="Classes per image, likeliest first.")] = 5
    format: Annotated[
        Literal["table", "csv", "json"],
        Field(
            description="How they are printed: a table, csv (image, rank, class, probability), or json (a line per image)."
        ),
    ] = "table"
    model: ModelName = None
    engine: Annotated[
        Literal["auto", "torch", "compiled", "onnx", "openvino"],
        Field(
            description="What computes. auto: PyTorch, or for more than a minute of work the engine measured to be fastest."
        ),
    ] = "auto"
    hardware: OneDevice = None


@dataclass(frozen=True, config=CHECKED)
class Compare(Command):
    """Compare networks in a controlled study: a table, a verdict with its uncertainty, and a report."""

    examples = """ffvit compare                         attention or not, on handwritten digits
ffvit compare --data photos/ --minutes 30 on your images, within a time
ffvit compare ff_small_patch16_224 deit_small_patch16_224 --data photos/
ffvit compare --study plan.yaml           --dry-run prints a plan
ffvit compare --study studies/photos --resume"""

    networks: Annotated[
        Names,
        BeforeValidator(_several),
        Field(
            description="Networks to compare as they are, ours or timm's. Default: feed-forward and attention in one "
            "backbone that fits images and time, with controls."
        ),
    ] = ()
    data: TrainingData = None
    recipe: TrainingRecipe = None
    _: KW_ONLY
    study: Annotated[
        str | Path | Plan | None,
        Unchecked,
        Field(description="A plan (.yaml) or the folder of a study; other options change it."),
    ] = None
    out: Annotated[Path | None, Field(description="The study folder. Default: a new one in studies/.")] = None
    resume: Annotated[bool, Field(description="Resume the study in --study or --out; finished runs are kept.")] = False
    overwrite: Overwrite = False
    image: Annotated[ImageSize, RARE] = None
    seeds: Annotated[
        PositiveInt | None,
        Field(
            description="Repetitions; each has its own split, learning-rate search and run of every arm. Default: 5, or "
            "what --minutes allows."
        ),
    ] = None
    side_seeds: Annotated[
        NonNegativeInt | None, RARE, Field(description="Repetitions of arms outside the main comparison. Default: all.")
    ] = None
    folds: Annotated[
        PositiveInt | None, RARE, Field(description="Cross-validate with this many folds, for small data sets.")
    ] = None
    minutes: Annotated[
        PositiveFloat | None,
        Field(description="Time limit of the whole study. Default: 30 where ffvit chooses the plan, else none."),
    ] = None
    match: Annotated[
        Literal["epochs", "flops", "parameters", "time", "latency"] | None,
        Field(description="What is equal for all arms. Default: epochs."),
    ] = None
    margin: Annotated[
        NonNegativeFloat | None,
        RARE,
        Field(description="Arms within this many points of top-1 are equivalent. Default: 1."),
    ] = None
    controls: Annotated[
        bool | None,
        Field(
            description="Also train the body without mixing and with random mixing, and simple baselines on pixels. "
            "Default: yes."
        ),
    ] = None
    search: Annotated[
        bool | None, Field(description="Tune the learning rate of each arm, by validation loss. Default: yes.")
    ] = None
    sequential: Annotated[
        bool | None,
        RARE,
        Field(description="Add seeds until each comparison is conclusive; error rates hold. Default: no."),
    ] = None
    max_seeds: Annotated[PositiveInt | None, RARE, Field(description="Limit for --sequential. Default: 20.")] = None
    jobs: Annotated[
        PositiveInt | None,
        Field(description="Runs at the same time. Default: one per GPU, or as many as fit in CPU and RAM."),
    ] = None
    cluster: Cluster = None
    hardware: TrainingHardware = None


@dataclass(frozen=True, config=CHECKED)
class Report(Command):
    """Write the report of a study again, from its finished runs."""

    examples = "ffvit report studies/flowers"

    study: Annotated[Path, Field(description="The study folder.")]


@dataclass(frozen=True, config=CHECKED)
class Check(Command):
    """Open every image before training, and list broken ones, duplicates and leaks between splits.

    Exits with 1 if it finds something serious: broken images, images in two splits or under two labels, or classes that
    one split lacks.
    """

    examples = """ffvit check /data/flowers             every image of every split
ffvit check flowers.csv --out flowers-check.csv
ffvit check torch/cifar10 --near 0    exact duplicates only"""

    data: Source
    _: KW_ONLY
    near: Annotated[
        int,
        Field(
            ge=0,
            le=32,
            description="Largest difference of two near-duplicates, in bits of their 128-bit hashes. 9 finds photographs "
            "that were re-encoded, resized or cropped by 1 %; 15, cropped by 3 %; 0 finds exact duplicates only.",
        ),
    ] = 9
    out: Annotated[
        Path | None,
        Field(description="The list of findings, one line per image and problem. Default: check.csv; in Python: none."),
    ] = None
    root: Root = None


@dataclass(frozen=True, config=CHECKED)
class Prepare(Command):
    """Pack images into shards: a few large files that are fast to read. Each image is checked.

    Give the same command again to go on after an interruption.
    """

    examples = """ffvit prepare photos/ shards/         the bytes as they are
ffvit prepare /data/imagenet shards/ --max-side 512"""

    source: Source
    out: Annotated[Path, Field(description="The folder for the shards.")]
    _: KW_ONLY
    max_side: Annotated[
        PositiveInt | None,
        Field(description="Resize images whose longer side is longer than this, to JPEG. Default: resize none."),
    ] = None
    quality: Annotated[
        PositiveInt | None,
        Field(description="JPEG quality; if given, every JPEG is encoded again. Default: 90 for resized images."),
    ] = None
    shard_size: Annotated[PositiveFloat, Field(description="MiB per shard, about.")] = 256.0
    workers: Annotated[PositiveInt | None, Field(description="Worker processes. Default: one per core.")] = None
    bad_images: Annotated[
        NonNegativeFloat,
        Field(
            description="Unreadable images to leave out and list before it stops: below 1 a share of all images, but at "
            "least 3; from 1 a number."
        ),
    ] = BAD_IMAGES
    root: Root = None
    overwrite: Overwrite = False


@dataclass(frozen=True, config=CHECKED)
class ListModels(Command):
    """List networks: parameters, FLOPs, and published accuracy with its source."""

    examples = """ffvit models 'deit*'
ffvit models '*small_patch16_224'"""

    pattern: Annotated[str, Field(description="Names to list, with * and ? as in a shell.")] = "*ff_*"


@dataclass(frozen=True, config=CHECKED)
class Benchmark(Command):
    """Measure networks side by side: images per second, latency, memory, and the share of the hardware's peak."""

    examples = """ffvit benchmark ff_base_patch16_224 deit_base_patch16_224 mixer_b16_224
ffvit benchmark runs/flowers --engines torch,onnx --precisions fp32,int8
ffvit benchmark --roofline            a picture of where the time goes
ffvit benchmark data photos/          how fast images are loaded"""

    networks: Annotated[
        Names,
        BeforeValidator(_several),
        Field(
            description="Names of networks, run folders, or files of weights. A run is also evaluated where an engine or "
            "precision may change its predictions. Default: ff_tiny_patch16_224 and deit_tiny_patch16_224; with "
            "--roofline ff_base_patch16_224."
        ),
    ] = ()
    _: KW_ONLY
    engines: Annotated[
        Names,
        COMMAS,
        BeforeValidator(_comma_separated),
        Field(description="torch, compiled, onnx, openvino; several with commas."),
    ] = ("torch",)
    precisions: Annotated[
        Names | None,
        COMMAS,
        BeforeValidator(_comma_separated),
        Field(
            description="fp32, bf16, int8; several with commas. Default: fp32, and bf16 where the hardware is fast at it."
        ),
    ] = None
    batch_size: Annotated[PositiveInt | None, Field(description="Images per batch. Default: 8; on a GPU 128.")] = None
    image: Annotated[
        PositiveInt | None, Field(description="Side of the square image in pixels. Default: the network's.")
    ] = None
    rounds: Annotated[
        PositiveInt, RARE, Field(description="Each round measures everything once; medians over rounds are printed.")
    ] = 5
    seconds: Seconds = 1.0
    train: Annotated[bool, Field(description="Also measure training steps.")] = True
    accelerator: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="Kind of device. auto: the first GPU, if there is one.")
    ] = "auto"
    json: JsonFile = None
    roofline: Annotated[
        bool,
        Field(description="Instead, time each operation of one network, and draw it below the hardware's roofline."),
    ] = False
    out: Annotated[Path, Field(description="The picture of --roofline, a .png file.")] = Path("roofline.png")


@dataclass(frozen=True, config=CHECKED)
class BenchmarkData(Command):
    """Measure images per second at each stage of loading, and name the slowest stage."""

    examples = "ffvit benchmark data /data/imagenet --recipe deit"

    data: Annotated[DataChoice, Unchecked, Field(description="Images, as for `ffvit train --data`.")]
    _: KW_ONLY
    recipe: Annotated[str | Path | Recipe, Unchecked, Field(description="The recipe that augments them.")] = "small"
    image: Annotated[PositiveInt, Field(description="Side of the network's square image in pixels.")] = 224
    workers: Annotated[NonNegativeInt | None, Field(description="Loading processes. Default: one per core.")] = None
    seconds: Seconds = 1.0


@dataclass(frozen=True, config=CHECKED)
class Doctor(Command):
    """Check this machine (device, libraries, memory, disk, processes), and say what is wrong and what to do.

    Exits with 1 if something is broken.
    """

    out: Annotated[Path, Field(description="The folder that runs will be written to.")] = Path()
