"""The commands that look at images or pack them, before any network sees them; see `ffvit.config.commands`."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import SkipValidation as Unchecked
from pydantic.dataclasses import dataclass

from ffvit.config.choices import DataChoice
from ffvit.config.command_fields import Overwrite, Root, Seconds, Source, option
from ffvit.config.commands import CHECKED, Command
from ffvit.config.data import BAD_IMAGES
from ffvit.config.recipe import Recipe


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
        option(
            "Largest difference of two near-duplicates, in bits of their 128-bit hashes. 9 finds photographs "
            "that were re-encoded, resized or cropped by 1 %; 15, cropped by 3 %; 0 finds exact duplicates only.",
            ge=0,
            le=32,
        ),
    ] = 9
    out: Annotated[
        Path | None,
        option("The list of findings, one line per image and problem. Default: check.csv; in Python: none."),
    ] = None
    root: Root = None


@dataclass(frozen=True, config=CHECKED)
class Prepare(Command):
    """Pack images into shards: a few large files that are fast to read. Each image is checked.

    After an interruption, give the same command again to resume.
    """

    examples = """ffvit prepare photos/ shards/         the bytes as they are
ffvit prepare /data/imagenet shards/ --max-side 512"""

    source: Source
    out: Annotated[Path, option("The folder for the shards.")]
    _: KW_ONLY
    max_side: Annotated[
        PositiveInt | None,
        option("Resize images whose longer side is longer than this, to JPEG. Default: resize none."),
    ] = None
    quality: Annotated[
        PositiveInt | None,
        option("JPEG quality; if given, every JPEG is encoded again. Default: 90 for resized images."),
    ] = None
    shard_size: Annotated[PositiveFloat, option("MiB per shard, about.")] = 256.0
    workers: Annotated[PositiveInt | None, option("Worker processes. Default: one per core.")] = None
    bad_images: Annotated[
        NonNegativeFloat,
        option(
            "Unreadable images to leave out and list before it stops: below 1 a share of all images, but at "
            "least 3; from 1 a number."
        ),
    ] = BAD_IMAGES
    root: Root = None
    overwrite: Overwrite = False


@dataclass(frozen=True, config=CHECKED)
class BenchmarkData(Command):
    """Measure images per second at each stage of loading, and name the slowest stage."""

    examples = """ffvit benchmark data /data/imagenet --recipe deit
ffvit benchmark data photos/ --network ff_tiny_patch16_224     does loading slow its training?"""

    data: Annotated[DataChoice, Unchecked, option("Images, as for `ffvit train --data`.")]
    _: KW_ONLY
    recipe: Annotated[str | Path | Recipe, Unchecked, option("The recipe that augments them.")] = "small"
    network: Annotated[
        str | None,
        option("Also train this network for a few steps, with the loader and with a batch that is in memory."),
    ] = None
    image_size: Annotated[PositiveInt, option("Side of the network's square image in pixels.")] = 224
    workers: Annotated[NonNegativeInt | None, option("Loading processes. Default: one per core.")] = None
    seconds: Seconds = 1.0
