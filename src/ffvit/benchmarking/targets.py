"""What is benchmarked: a network by its name, or weights and the run they are from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from ffvit.data.splits import Splits
from ffvit.errors import UserError
from ffvit.inference.run_images import calibration_images, splits_of
from ffvit.models.create import check_name, create_model
from ffvit.models.description import preprocess_of
from ffvit.models.weights import load
from ffvit.run_folder import Run


@dataclass(frozen=True)
class Target:
    """A network to measure; cheap to send to another process.

    Attributes:
        name: A network's name, a run folder or a weights file.
        image_size: Side of the images in pixels, if not the network's own.
    """

    name: str
    image_size: int | None = None

    def __post_init__(self) -> None:
        if not self.is_weights:
            check_name(self.name)
        elif self.image_size is not None:
            raise UserError(f"the weights in {self.name} fix the image size: leave out --image-size")

    @property
    def is_weights(self) -> bool:
        """Whether it is a file or folder."""
        return Path(self.name).exists() or len(Path(self.name).parts) > 1

    @property
    def has_run(self) -> bool:
        """Whether it is a run folder, which says what images the network was trained and tested on."""
        return (Path(self.name) / "config.yaml").is_file()

    def network(self) -> nn.Module:
        """A new copy of the network, in evaluation mode.

        Raises:
            UserError: As `ffvit.load` or `ffvit.create_model`.
        """
        if self.is_weights:
            return load(self.name)
        return create_model(self.name, img_size=self.image_size).eval()

    def splits(self) -> Splits:
        """The run's images.

        Raises:
            UserError: They are no longer where they were, or not those it was trained on.
        """
        return splits_of(Run(self.name))

    def calibration_images(self) -> Float[Tensor, "images channels height width"] | None:
        """Training images of the run for calibration, or None without a run."""
        return calibration_images(Run(self.name), preprocess_of(self.network())) if self.has_run else None
