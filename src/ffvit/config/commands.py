"""What a person can ask ffvit to do: a frozen value per command, whose fields are its options and its Python keywords.

A field says everything about its option once: name, type, default, help and check. The command line (`ffvit.cli`), the
functions of `ffvit.api` and docs/reference.md are made of it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import SkipValidation as Unchecked
from pydantic.dataclasses import dataclass

from ffvit.config.architecture import Architecture, Network
from ffvit.config.base import Value
from ffvit.config.command_fields import (
    Corruptions,
    ImageSize,
    Loggers,
    Names,
    Overwrite,
    Seconds,
    Seed,
    TrainingData,
    TrainingHardware,
    TrainingRecipe,
    comma_separated,
    option,
    several,
)
from ffvit.config.options import COMMAS, PYTHON_ONLY, RARE

if TYPE_CHECKING:
    from rich.console import Console

else:
    Console = Any

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


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
        option(
            "Print progress and, of check, report and benchmark, the result: True, or a rich console. "
            "Default: print nothing."
        ),
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
        option(
            "Name of a network, ours or timm's (`ffvit models` lists them). "
            "Default: ff_micro_patch2_8 for the digits, else ff_tiny_patch16_224."
        ),
    ] = None
    data: TrainingData = None
    recipe: TrainingRecipe = None
    _: KW_ONLY
    image_size: ImageSize = None
    seed: Seed = None
    start_from: Annotated[
        str | Path | None,
        option("Weights to start from: a file, a run folder, or `pretrained` for the published ones."),
    ] = None
    config: Annotated[Path | None, RARE, option("Repeat the run of this config.yaml; other options change it.")] = None
    out: Annotated[Path | None, option("The run folder. Default: a new one in runs/.")] = None
    resume: Annotated[bool, option("Resume the run in --out from its last checkpoint.")] = False
    overwrite: Overwrite = False
    loggers: Annotated[Loggers, RARE] = None
    hardware: TrainingHardware = None


@dataclass(frozen=True, config=CHECKED)
class Resume(Command):
    """Resume a run from its last checkpoint, or from its start if it has none. The result is the same as if it had never stopped."""

    out: Annotated[Path, option("The run folder.")]
    _: KW_ONLY
    hardware: TrainingHardware = None


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
        BeforeValidator(several),
        option(
            "Networks to compare as they are, ours or timm's; run folders and files of weights are trained on. Default: feed-forward and attention in one "
            "backbone that fits images and time, with controls."
        ),
    ] = ()
    data: TrainingData = None
    recipe: TrainingRecipe = None
    _: KW_ONLY
    study: Annotated[
        str | Path | Value | None,
        Unchecked,
        option("A plan (.yaml) or the folder of a study; other options change it."),
    ] = None
    out: Annotated[Path | None, option("The study folder. Default: a new one in studies/.")] = None
    resume: Annotated[bool, option("Resume the study in --study or --out; finished runs are kept.")] = False
    overwrite: Overwrite = False
    image_size: Annotated[ImageSize, RARE] = None
    seeds: Annotated[
        PositiveInt | None,
        option(
            "Repetitions; each has its own split, learning-rate search and run of every arm. Default: 5, or "
            "what --minutes allows."
        ),
    ] = None
    side_seeds: Annotated[
        NonNegativeInt | None, RARE, option("Repetitions of arms outside the main comparison. Default: all.")
    ] = None
    folds: Annotated[PositiveInt | None, RARE, option("Cross-validate with this many folds, for small data sets.")] = (
        None
    )
    minutes: Annotated[
        PositiveFloat | None,
        option("Time limit of the whole study. Default: 30 where ffvit chooses the plan, else none."),
    ] = None
    match: Annotated[
        Literal["epochs", "flops", "parameters", "time", "latency"] | None,
        option("What is equal for all arms. Default: epochs."),
    ] = None
    margin: Annotated[
        NonNegativeFloat | None, RARE, option("Arms within this many points of top-1 are equivalent. Default: 1.")
    ] = None
    controls: Annotated[
        bool | None,
        option(
            "Also train the body without mixing and with random mixing, and simple baselines on pixels. Default: yes."
        ),
    ] = None
    search: Annotated[bool | None, option("Tune the learning rate of each arm, by validation loss. Default: yes.")] = (
        None
    )
    corruptions: Corruptions = ()
    sequential: Annotated[
        bool | None, RARE, option("Add seeds until each comparison is conclusive; error rates hold. Default: no.")
    ] = None
    max_seeds: Annotated[PositiveInt | None, RARE, option("Limit for --sequential. Default: 20.")] = None
    jobs: Annotated[
        PositiveInt | None, option("Runs at the same time. Default: one per GPU, or as many as fit in CPU and RAM.")
    ] = None
    cluster: Annotated[str | None, RARE, option("Address of a Ray cluster to run on; `auto`: this machine's.")] = None
    hardware: TrainingHardware = None


@dataclass(frozen=True, config=CHECKED)
class Report(Command):
    """Write the report of a study again, from its finished runs."""

    examples = "ffvit report studies/flowers"

    study: Annotated[Path, option("The study folder.")]


@dataclass(frozen=True, config=CHECKED)
class ListModels(Command):
    """List networks: parameters, FLOPs, and published accuracy with its source."""

    examples = """ffvit models 'deit*'
ffvit models '*small_patch16_224'"""

    pattern: Annotated[str, option("Names to list, with * and ? as in a shell.")] = "*ff_*"


@dataclass(frozen=True, config=CHECKED)
class Benchmark(Command):
    """Measure networks side by side: images per second, latency, memory, and the share of the hardware's peak."""

    examples = """ffvit benchmark ff_base_patch16_224 deit_base_patch16_224 mixer_b16_224
ffvit benchmark runs/flowers --engines torch,onnx --precisions fp32,int8
ffvit benchmark runs/flowers --formats all      each file of `ffvit export`, proven and timed
ffvit benchmark --roofline            a picture of where the time goes
ffvit benchmark data photos/          how fast images are loaded"""

    networks: Annotated[
        Names,
        BeforeValidator(several),
        option(
            "Names of networks, run folders, or files of weights. A run is also evaluated where an engine or "
            "precision may change its predictions. Default: ff_tiny_patch16_224 and deit_tiny_patch16_224; with "
            "--roofline ff_base_patch16_224."
        ),
    ] = ()
    _: KW_ONLY
    engines: Annotated[
        Names, COMMAS, BeforeValidator(comma_separated), option("torch, compiled, onnx, openvino; several with commas.")
    ] = ("torch",)
    precisions: Annotated[
        Names | None,
        COMMAS,
        BeforeValidator(comma_separated),
        option("fp32, bf16, int8; several with commas. Default: fp32, and bf16 where the hardware is fast at it."),
    ] = None
    formats: Annotated[
        Names | None,
        COMMAS,
        BeforeValidator(comma_separated),
        option("Instead, prove and time the formats of `ffvit export` for one run: all, or several with commas."),
    ] = None
    batch_size: Annotated[
        PositiveInt | None, option("Images per batch. Default: 8; on a GPU 128; with --formats the fastest of 1 to 64.")
    ] = None
    image_size: Annotated[PositiveInt | None, option("Side of the square image in pixels. Default: the network's.")] = (
        None
    )
    rounds: Annotated[
        PositiveInt, RARE, option("Each round measures everything once; medians over rounds are printed.")
    ] = 5
    seconds: Seconds = 1.0
    train: Annotated[bool, option("Also measure training steps.")] = True
    accelerator: Annotated[
        Literal["auto", "cpu", "cuda"], option("Kind of device. auto: the first GPU, if there is one.")
    ] = "auto"
    json: Annotated[Path | None, option("Write the figures to this file.")] = None
    roofline: Annotated[
        bool, option("Instead, time each operation of one network, and draw it below the hardware's roofline.")
    ] = False
    out: Annotated[Path, option("The picture of --roofline, a .png file.")] = Path("roofline.png")


@dataclass(frozen=True, config=CHECKED)
class Doctor(Command):
    """Check this machine (device, libraries, memory, disk, processes), and say what is wrong and what to do.

    Exits with 1 if something is broken.
    """

    out: Annotated[Path, option("The folder that runs will be written to.")] = Path()
