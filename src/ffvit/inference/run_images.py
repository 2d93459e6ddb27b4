"""The images of the run that weights are from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import Images, Subset
from ffvit.data.loader import NormalizeOnDevice, evaluation_loader, worker_count
from ffvit.data.split_record import check_own
from ffvit.data.splits import Splits, open_splits
from ffvit.data.transforms import evaluation_transform
from ffvit.models.weights_file import WEIGHTS_OF_A_RUN
from ffvit.run_folder import Run

CALIBRATION_IMAGES = 128
"""Images from which an engine learns the range of each activation, for 8-bit integers."""


def run_of(weights: Path) -> Run | None:
    """The run that wrote these weights, where they lie in its folder."""
    folder = weights.parent if weights.name in WEIGHTS_OF_A_RUN else weights
    return Run(folder) if (folder / "config.yaml").is_file() else None


def splits_of(run: Run) -> Splits:
    """The run's images.

    Raises:
        UserError: They are no longer where they were, or not those it was trained on.
    """
    splits = open_splits(run.config.data)
    check_own(run.split_file, splits, run.config.data.source)
    return splits


def evenly_spaced(images: Images, count: int) -> Subset:
    """At most so many of the images, from all over them."""
    return Subset(images, np.linspace(0, len(images) - 1, min(count, len(images))).astype(np.int64))


def calibration_images(run: Run, preprocess: Preprocess) -> Float[Tensor, "images channels height width"]:
    """Training images of the run, normalised, to find the ranges of 8-bit integers on.

    Raises:
        UserError: As `splits_of`.
    """
    images = evenly_spaced(splits_of(run).train, CALIBRATION_IMAGES)
    transform, workers = evaluation_transform(preprocess), worker_count(images, 1)
    batch = next(iter(evaluation_loader(images, transform, preprocess.shape, CALIBRATION_IMAGES, workers)))
    return NormalizeOnDevice(preprocess)(batch)[batch.weights > 0]
