"""What is benchmarked: a network by its name, or weights and the run they are from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.data.images import Subset
from ffvit.data.loader import NormalizeOnDevice, evaluation_loader, worker_count
from ffvit.data.split_record import check_own
from ffvit.data.splits import Splits, open_splits
from ffvit.data.transforms import evaluation_transform
from ffvit.errors import UserError
from ffvit.models.create import check_name, create_model, preprocess_of
from ffvit.models.weights import load
from ffvit.run_folder import Run

CALIBRATION = 128
"""Images that show an engine the range of each activation, to make 8-bit integers of."""


@dataclass(frozen=True)
class Target:
    """A network to measure; it travels to other processes as these two words.

    Attributes:
        given: A name, a run folder or a file of weights.
        side: Of the image in pixels, if not the network's own.
    """

    given: str
    side: int | None = None

    def __post_init__(self) -> None:
        if not self.is_weights:
            check_name(self.given)
        elif self.side is not None:
            raise UserError(f"--image: the weights in {self.given} have an image size of their own; leave it out")

    @property
    def is_weights(self) -> bool:
        """Whether it is a file or folder, and not a name."""
        return Path(self.given).exists() or len(Path(self.given).parts) > 1

    @property
    def has_run(self) -> bool:
        """Whether there is a run, which says what images it was trained and tested on."""
        return (Path(self.given) / "config.yaml").is_file()

    def network(self) -> nn.Module:
        """The network in evaluation mode, made anew.

        Raises:
            UserError: As `ffvit.load` or `ffvit.create_model`.
        """
        if self.is_weights:
            return load(self.given)
        return create_model(self.given, img_size=self.side).eval()

    @property
    def splits(self) -> Splits:
        """The run's images.

        Raises:
            UserError: They are no longer where they were, or not those it was trained on.
        """
        run = Run(self.given)
        splits = open_splits(run.config.data)
        check_own(run.split_file, splits, run.config.data.source)
        return splits

    def calibration(self) -> Float[Tensor, "images channels height width"]:
        """Images to calibrate with: the run's training images, or without a run random ones, which tell speed alone."""
        preprocess = preprocess_of(self.network())
        shape = preprocess.shape
        if not self.has_run:
            return torch.randn(CALIBRATION, *shape, generator=torch.Generator().manual_seed(0))
        train = self.splits.train
        images = Subset(train, np.linspace(0, len(train) - 1, min(CALIBRATION, len(train))).astype(np.int64))
        transform = evaluation_transform(preprocess)
        batch = next(iter(evaluation_loader(images, transform, shape, CALIBRATION, worker_count(images, 1))))
        return NormalizeOnDevice(preprocess)(batch)[batch.weights > 0]
