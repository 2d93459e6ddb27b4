"""How good weights are on a set of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from ffvit.config.hardware import Hardware
from ffvit.config.mixers import TokenResizeMethod
from ffvit.config.preprocess import PixelBackend
from ffvit.data.images import BadImageError, Images
from ffvit.data.sources import check_source
from ffvit.data.split_record import check_own
from ffvit.data.splits import open_images, open_splits
from ffvit.errors import DataError, ModelError, UserError
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.launch import start_fabric
from ffvit.inference.corruptions import SEVERITIES, check_corruptions, choose_corruptions
from ffvit.inference.evaluator import BATCH, Evaluator, evaluation_mode, readable_names
from ffvit.inference.exported import Exported, is_exported
from ffvit.inference.intervals import PairedDifference
from ffvit.inference.metrics import Evaluation, compute_metrics
from ffvit.inference.predictions import Predictions
from ffvit.inference.robustness import Robustness, score_corrupted
from ffvit.inference.run_images import run_of, splits_of
from ffvit.inference.shift import REAL, Shift, score_real, score_shift
from ffvit.models.description import class_names_of, preprocess_of
from ffvit.models.image_size import set_image_size
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
        robustness: Correct predictions for the corrupted images; None: not asked for.
        shifts: Correct predictions for each shifted data set.
        reference: The network to compare with, on the same images; None: there is none.
    """

    evaluation: Evaluation
    predictions: Predictions
    images: Images
    bad: list[BadImageError]
    data: str
    used_in_training: int | None
    robustness: Robustness | None = None
    shifts: tuple[Shift, ...] = ()
    reference: Score | None = None

    @property
    def less_reference(self) -> PairedDifference | None:
        """Top-1 accuracy less that of the reference, image by image."""
        if self.reference is None:
            return None
        return PairedDifference.of(self.predictions.correct, self.reference.predictions.correct)

    def to_dict(self, weights: object, reference: object) -> dict[str, Any]:
        """As JSON holds it.

        Args:
            weights: What the network is called.
            reference: What the network to compare with is called.
        """
        other, less = self.reference, self.less_reference
        figures = {
            "weights": str(weights),
            "data": self.data,
            "bad_images": len(self.bad),
            "used_in_training": self.used_in_training,
            **self.evaluation.to_dict(),
        }
        if other is not None and less is not None:
            figures["reference"] = {**other.to_dict(reference, None), "top1_less_reference": asdict(less)}
        if self.robustness is not None:
            figures["corruptions"] = self.robustness.to_dict(other.robustness if other else None)
        if self.shifts:
            others = other.shifts if other else [None] * len(self.shifts)
            figures["shift"] = [own.to_dict(shift) for own, shift in zip(self.shifts, others, strict=True)]
        return figures

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


@dataclass(frozen=True)
class Extra:
    """What to score besides the images themselves.

    Attributes:
        corruptions: Corruptions and families of them, see `corruptions.FAMILIES`.
        severities: How severe, each from 1 to 5.
        shift: Shifted data sets, see `score_shift`, or `real`, see `score_real`.
        seed: Of what corruptions draw.
        console: Where progress is shown.
    """

    corruptions: Sequence[str] = ()
    severities: Sequence[int] = SEVERITIES
    shift: Sequence[str | Path] = ()
    seed: int = 0
    console: Console = field(default_factory=lambda: Console(quiet=True))


def evaluate(
    weights: str | Path | nn.Module,
    data: str | Path | None = None,
    *,
    model: str | None = None,
    hardware: Hardware | None = None,
    batch_size: int = BATCH,
    image_size: tuple[int, int] | None = None,
    resize_method: TokenResizeMethod = "pinv",
    crop: float | None = None,
    interpolation: str | None = None,
    pixel_backend: PixelBackend | None = None,
    root: Path | None = None,
    extra: Extra = Extra(),
    reference: str | Path | nn.Module | None = None,
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
        extra: What to score besides: corrupted images, shifted data sets.
        reference: Another network, to be scored on the same.

    Raises:
        UserError: The weights or the images cannot be used.
    """
    hardware = hardware or Hardware()
    if hardware.precision not in ("auto", "fp32"):
        raise UserError(
            "evaluation is always in float32, so that figures compare across machines: leave out --precision"
        )
    networks = [
        _open(each, name, image_size, resize_method)
        for each, name in ((weights, model), (reference, None))
        if each is not None
    ]
    if len({tuple(class_names_of(network)) for network in networks}) > 1:
        raise ModelError("reference: has other classes than the network, or has them in another order")
    run = _run_of(weights)
    images, words, used = _images(networks[0], run, None if data is None else str(data), root)
    given: dict[str, Any] = {"crop_pct": crop, "interpolation": interpolation, "pixel_backend": pixel_backend}
    given = {name: value for name, value in given.items() if value is not None}
    exported = [network for network in networks if isinstance(network, Exported)]
    if exported and image_size is not None:
        given["image_size"] = image_size
    if exported and (given or hardware.accelerator == "cuda"):
        raise UserError(
            f"{weights if exported[0] is networks[0] else reference}: an exported file prepares images by itself, on the "
            f"processor: leave out {', '.join(given) or '--device'}"
        )
    accelerator = "cpu" if exported else hardware.accelerator
    fabric = start_fabric(hardware.replace(precision="fp32", accelerator=accelerator))
    if fabric.device.type == "cpu":
        keep_freed_memory()
    scorer = _Scorer(fabric, hardware.workers, batch_size, given, images, words, root, extra)
    score = scorer(networks[0], used)
    if reference is None:
        return score
    run = _run_of(reference)
    return replace(score, reference=scorer(networks[1], None if run is None else _count_used(images, run)))


@dataclass(frozen=True)
class _Scorer:
    """Scores networks on the same images, and on what is asked for besides."""

    fabric: Any
    workers: int | None
    batch_size: int
    given: dict[str, Any]
    images: Images
    words: str
    root: Path | None
    extra: Extra

    def __call__(self, network: nn.Module, used: int | None) -> Score:
        exported, extra = network if isinstance(network, Exported) else None, self.extra
        preprocess = exported.info.preprocess if exported else preprocess_of(network).replace(**self.given)
        classes = class_names_of(network)
        evaluator = Evaluator(self.fabric, self.images, preprocess, classes, self.batch_size, self.workers, exported)
        corruptions = choose_corruptions(extra.corruptions)
        check_corruptions(corruptions, evaluator.preprocess)
        with evaluation_mode(network, self.fabric.device):
            # What may be wrong with other folders is said first.
            sources = [str(source) for source in extra.shift if source != REAL]
            shifts = [score_shift(source, self.root, network, evaluator) for source in sources]
            predictions, bad = evaluator(network)
            robustness = None
            if corruptions:
                given = corruptions, extra.severities, extra.seed, extra.console
                (robustness,) = score_corrupted([network], evaluator, *given)
        temperature: float | None = getattr(network, "temperature", None)
        evaluation = compute_metrics(predictions, temperature)
        if REAL in extra.shift:
            shifts.append(score_real(predictions, readable_names(self.images, bad)))
        return Score(evaluation, predictions, self.images, bad, self.words, used, robustness, tuple(shifts))


def _open(
    weights: str | Path | nn.Module, model: str | None, image_size: tuple[int, int] | None, method: TokenResizeMethod
) -> nn.Module:
    """The network, for images of the size asked for; that of an exported file stays."""
    if is_exported(weights):
        return Exported(Path(str(weights)))
    network = weights if isinstance(weights, nn.Module) else load(weights, model)
    if image_size is not None:
        network = deepcopy(network) if network is weights else network
        set_image_size(network, image_size, method=method)
    return network


def _run_of(weights: str | Path | nn.Module) -> Run | None:
    return None if isinstance(weights, nn.Module) else run_of(Path(weights))


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
    return images, data, _count_used(images, run)


def _same(data: str, source: str) -> bool:
    check_source(data)
    paths = [Path(os.path.expanduser(name)) for name in (data, source)]  # noqa: PTH111 (never raises)
    return data == source or (all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def _count_used(images: Images, run: Run) -> int | None:
    """How many of the images are files that the run was trained or selected on, under whatever path; None: unknown."""
    try:
        own = splits_of(run)
    except UserError:  # no longer where they were, or others
        return None
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
