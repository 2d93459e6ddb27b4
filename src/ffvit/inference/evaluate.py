"""How good weights are on a set of images."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ffvit.config.hardware import Hardware
from ffvit.config.preprocess import PixelBackend
from ffvit.data.images import BadImageError, Images
from ffvit.data.sources import check_source
from ffvit.data.split_record import check_own
from ffvit.data.splits import Splits, open_images, open_splits
from ffvit.errors import DataError, UserError
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.launch import start_fabric
from ffvit.inference.evaluator import BATCH, Evaluator, evaluation_mode, readable_names
from ffvit.inference.exported import Exported, is_exported
from ffvit.inference.metrics import Evaluation, compute_metrics
from ffvit.inference.predictions import Predictions
from ffvit.inference.run_images import run_of, splits_of
from ffvit.models.description import class_names_of, preprocess_of
from ffvit.models.image_size import set_image_size
from ffvit.models.token_resize import Method
from ffvit.models.weights import load
from ffvit.run_folder import Run


@dataclass(frozen=True)
class Score:
    """A network's figures on a set of images.

    Attributes:
        evaluation: The figures.
        predictions: For each image that could be read.
        images: What was scored.
        bad: The images that could not be read.
        data: What was scored, in words.
        used_in_training: How many of the images are known to be among those the network was trained or selected on;
            None if that cannot be known.
    """

    evaluation: Evaluation
    predictions: Predictions
    images: Images
    bad: list[BadImageError]
    data: str
    used_in_training: int | None

    @property
    def names(self) -> list[str]:
        """The images that could be read, in the order of the predictions."""
        return readable_names(self.images, self.bad)

    @property
    def warnings(self) -> list[str]:
        """What must be known to read the figures rightly, a sentence each."""
        said = []
        if self.used_in_training:
            said.append(
                f"{self.used_in_training:,} of {len(self.images):,} images were used to train or select this network: "
                "the figures are too good for new images"
            )
        if self.bad:
            said.append(f"{len(self.bad):,} of {len(self.images):,} images could not be read")
        return said


def evaluate(
    weights: str | Path | nn.Module,
    data: str | Path | None = None,
    *,
    model: str | None = None,
    hardware: Hardware | None = None,
    batch_size: int = BATCH,
    image_size: tuple[int, int] | None = None,
    resize_method: Method = "pinv",
    crop: float | None = None,
    interpolation: str | None = None,
    pixel_backend: PixelBackend | None = None,
    root: Path | None = None,
) -> Score:
    """Score weights on images in float32; classes are matched to the network's by name.

    Args:
        weights: A run folder, a file of weights, a file that `ffvit export` wrote, or a network, whose mode and device stay
            as they are.
        data: A folder, a list, `digits` (its test split) or a data set that timm opens. The data of the run that the
            weights are from, which is the default, are scored on its own test split.
        model: The network's name, for weights that do not say.
        hardware: Where to compute.
        batch_size: Images at once on each device.
        image_size: Height and width of the images in pixels, if not the network's (`set_image_size`).
        resize_method: How weights over patches are then resized.
        crop: Share of the resized image that the central crop keeps. Default: as the weights say.
        interpolation: How images are resized. Default: likewise.
        pixel_backend: What decodes and resizes images. Default: likewise.
        root: Where a data set that timm opens lies.

    Raises:
        UserError: The weights or the images cannot be used.
    """
    if crop is not None and not 0 < crop <= 1:
        raise UserError(f"--crop: must be more than 0 and at most 1; got {crop:g}")
    hardware = hardware or Hardware()
    if hardware.precision not in ("auto", "fp32"):
        raise UserError(
            "evaluation is always in float32, so that figures compare across machines: leave out --precision"
        )
    exported = Exported(Path(str(weights))) if is_exported(weights) else None
    network = exported or (weights if isinstance(weights, nn.Module) else load(weights, model))
    run = None if isinstance(weights, nn.Module) else run_of(Path(weights))
    if image_size is not None and exported is None:
        network = deepcopy(network) if network is weights else network
        set_image_size(network, image_size, method=resize_method)
    images, words, used = _images(network, run, None if data is None else str(data), root)
    given: dict[str, Any] = {"crop_pct": crop, "interpolation": interpolation, "pixel_backend": pixel_backend}
    given = {name: value for name, value in given.items() if value is not None}
    if exported is not None and image_size is not None:
        given["image_size"] = image_size
    if exported is not None and (given or hardware.accelerator == "cuda"):
        raise UserError(
            f"{weights}: an exported file prepares images by itself, on the processor: leave out "
            f"{', '.join(given) or '--device'}"
        )
    preprocess = exported.info.preprocess if exported else preprocess_of(network).replace(**given)
    fabric = start_fabric(hardware.replace(precision="fp32", accelerator="cpu" if exported else hardware.accelerator))
    if fabric.device.type == "cpu":
        keep_freed_memory()
    evaluator = Evaluator(fabric, images, preprocess, class_names_of(network), batch_size, hardware.workers, exported)
    with evaluation_mode(network, fabric.device):
        predictions, bad = evaluator(network)
    temperature: float | None = getattr(network, "temperature", None)
    return Score(compute_metrics(predictions, temperature), predictions, images, bad, words, used)


def _images(network: nn.Module, run: Run | None, data: str | None, root: Path | None) -> tuple[Images, str, int | None]:
    """What to score, what it is in words, and how many of the images the run was trained or selected on."""
    names: Any = getattr(network, "class_names", None)
    if run is None:
        if data is None:
            raise UserError("these weights do not lie in a run folder, which would say what to test on: give --data")
        return open_images(data, root, names), data, None
    config = run.config.data
    if data is None or _same(data, config.source):
        own = open_splits(config if root is None else config.replace(root=root))
        if own.classes != names:
            raise DataError(
                f"{config.source}: has other classes now than {run.path} was trained on; name other images (--data)"
            )
        check_own(run.split_file, own, config.source)
        return own.test, f"{config.source}, the run's own test split", 0
    images = open_images(data, root, names)
    try:
        own = splits_of(run)
    except UserError:  # no longer where they were, or others
        return images, data, None
    return images, data, _count_used(images, own)


def _same(data: str, source: str) -> bool:
    check_source(data)
    paths = [Path(os.path.expanduser(name)) for name in (data, source)]  # noqa: PTH111 (never raises)
    return data == source or (all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def _count_used(images: Images, own: Splits) -> int:
    """How many of the images are files that the run was trained or selected on, under whatever path."""
    names = [images.name(index) for index in range(len(images))]
    candidates = {os.path.basename(name) for name in names}  # noqa: PTH119 (a million names)
    used = {
        _file(name)
        for split in (own.train, own.validation)
        if split is not None
        for name in map(split.name, range(len(split)))
        if os.path.basename(name) in candidates  # noqa: PTH119
    } - {None}
    return sum(_file(name) in used for name in names) if used else 0


def _file(name: str) -> tuple[int, int] | None:
    """Device and inode of a file; None, if there is none."""
    try:
        status = os.stat(name)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
