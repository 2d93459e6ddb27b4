"""Whether an exported file predicts what its network predicts, and where the two part if it does not.

The file is run on real images: noise lets errors pass that photographs show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from ffvit.config.preprocess import Preprocess
from ffvit.data.decode import open_image, to_array
from ffvit.data.images import BadImageError, Images
from ffvit.data.loader import NormalizeOnDevice
from ffvit.data.transforms import LazyImage, ResizeForCrop, evaluation_transform
from ffvit.errors import DataError, ModelError
from ffvit.exporting.program import Program, Stages
from ffvit.hardware.precision import float32
from ffvit.inference.exported import Exported, open_runner
from ffvit.inference.intervals import PairedDifference, Proportion
from ffvit.inference.run_images import evenly_spaced
from ffvit.models.registry import register_with_timm
from ffvit.models.weights import load

IMAGES = 1000
"""Images that a file is proven on, at most, in batches."""

SINGLE = 16
"""Of those, images that are given to the file as they are, one by one."""

BATCH = 32
TOLERANCE = 1e-3
"""Largest difference of a logit, or of a number between two stages, as a share of the largest one there: far above the
rounding that docs/export.md shows, far below what a wrong stage makes."""

LEVELS = 1.01
"""Largest difference of a level from Pillow's, of 255, and some rounding."""

LEVEL_TOLERANCE = 3e-2
"""As `TOLERANCE`, for an image that the file itself resized: some of its levels may differ by 1."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Proof:
    """What was measured of a file.

    Attributes:
        images: How many it was run on in batches.
        labels: Their classes.
        before: The network's logits.
        after: The file's.
        singles: How many images it got as they are, one by one.
        single_difference: Largest absolute difference of a logit there.
        single_agree: On how many of them both predict the same class.
        level_difference: Largest difference from Pillow of a level that the file resized, of 255.
    """

    labels: np.ndarray
    before: Float32[np.ndarray, "images classes"]
    after: Float32[np.ndarray, "images classes"]
    singles: int
    single_difference: float
    single_agree: int
    level_difference: float

    @property
    def images(self) -> int:
        """How many images it was run on in batches."""
        return len(self.labels)

    @property
    def difference(self) -> float:
        """Largest absolute difference of a logit, in batches."""
        return float(np.abs(self.after - self.before).max())

    @property
    def scale(self) -> float:
        """Largest absolute logit of the network."""
        return float(np.abs(self.before).max())

    @property
    def agree(self) -> int:
        """On how many images both predict the same class."""
        return int((self.before.argmax(1) == self.after.argmax(1)).sum())

    def top1(self, logits: np.ndarray) -> Proportion:
        """The share of correct predictions."""
        return Proportion.of(int((logits.argmax(1) == self.labels).sum()), self.images)

    @property
    def gain(self) -> PairedDifference:
        """The file's top-1 less the network's, on the same images."""
        return PairedDifference.of(*(logits.argmax(1) == self.labels for logits in (self.after, self.before)))


@dataclass(frozen=True)
class Sample:
    """Real images, as a file takes them.

    Attributes:
        batches: Resized, not cropped, so that the file leaves their size: uint8 arrays of batch x height x width x 3.
        labels: Of the images in the batches.
        whole: Some of them as they are: uint8 arrays of 1 x height x width x 3, of different sizes.
    """

    batches: list[np.ndarray]
    labels: np.ndarray
    whole: list[np.ndarray]

    @classmethod
    def of(cls, images: Images, preprocess: Preprocess, max_side: int, count: int = IMAGES) -> Sample:
        """At most so many of the images, from all over them; unreadable ones are left out.

        Raises:
            DataError: None of them can be read.
        """
        chosen, resize = evenly_spaced(images, count), ResizeForCrop(preprocess)
        ready: list[np.ndarray] = []
        whole: list[np.ndarray] = []
        labels: list[int] = []
        for index, label in enumerate(chosen.labels.tolist()):
            try:
                image = open_image(chosen, index)
            except BadImageError:
                continue
            image.thumbnail((max_side, max_side))
            ready.append(resize(LazyImage(image, "")).pixels)
            labels.append(label)
            if len(whole) < SINGLE:
                whole.append(to_array(image)[None])
        if not ready:
            raise DataError(f"none of the {len(chosen)} images to prove the file on could be read")
        batches = [np.stack(ready[start : start + BATCH]) for start in range(0, len(ready), BATCH)]
        return cls(batches, np.array(labels), whole)


@dataclass(frozen=True)
class Reference:
    """The network in PyTorch and its images as Pillow prepares them: what a file is compared with."""

    network: nn.Module
    preprocess: Preprocess

    def pixels(self, images: UInt8[np.ndarray, "batch height width 3"]) -> torch.Tensor:
        """Normalised images, prepared without anything of the program that is exported."""
        import PIL.Image

        transform = evaluation_transform(self.preprocess)
        prepared = [transform(LazyImage(PIL.Image.fromarray(image), "")).pixels for image in images]
        return NormalizeOnDevice(self.preprocess).normalized(torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2))

    def logits(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float32[np.ndarray, "batch classes"]:
        """The network's logits."""
        return _logits(self.network, self.pixels(images))


@dataclass(frozen=True)
class Opened:
    """A file that was written, as its readers open it: what makes normalised pixels of images, and what makes logits."""

    pixels: Callable[[UInt8[np.ndarray, "batch height width 3"]], torch.Tensor]
    logits: Callable[[UInt8[np.ndarray, "batch height width 3"]], Float32[np.ndarray, "batch classes"]]

    @classmethod
    def of_program(cls, path: Path, pixels: Path) -> Opened:
        """A file that holds the whole program, and one of the same format whose output is the preprocessing alone."""
        exported, (_, prepare) = Exported(path), open_runner(pixels)
        return cls(
            lambda images: torch.from_numpy(prepare(images)[0]),
            lambda images: exported(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy(),
        )

    @classmethod
    def by_timm(cls, folder: Path) -> Opened:
        """A folder of timm's format, opened by timm, which prepares the images too."""
        import PIL.Image
        import timm
        from timm.data import create_transform, resolve_data_config

        register_with_timm()
        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        config = resolve_data_config(model=network)
        transform, mode = create_transform(**config), "L" if config["input_size"][0] == 1 else "RGB"

        def pixels(images: np.ndarray) -> torch.Tensor:
            return torch.stack([transform(PIL.Image.fromarray(image).convert(mode)) for image in images])

        return cls(pixels, lambda images: _logits(network, pixels(images)))

    @classmethod
    def of_weights(cls, path: Path, preprocess: Preprocess) -> Opened:
        """A file of weights alone, read by `load`; the images are prepared as its network's were."""
        own = Reference(load(path), preprocess)
        return cls(own.pixels, own.logits)


def prove(opened: Opened, reference: Reference, sample: Sample) -> Proof:
    """Run a file on images, beside its network.

    Args:
        opened: The file.
        reference: Its network.
        sample: The images.
    """
    before = np.concatenate([reference.logits(batch) for batch in sample.batches])
    after = np.concatenate([opened.logits(batch) for batch in sample.batches])
    singles = [(reference.logits(image), opened.logits(image)) for image in sample.whole]
    of_level = 255 * torch.tensor(reference.preprocess.std).view(-1, 1, 1)
    levels = [(opened.pixels(image) - reference.pixels(image)) * of_level for image in sample.whole]
    return Proof(
        sample.labels,
        before,
        after,
        len(singles),
        max(float(np.abs(own - theirs).max()) for own, theirs in singles),
        sum(int(own.argmax() == theirs.argmax()) for own, theirs in singles),
        max(float(difference.abs().max()) for difference in levels),
    )


def _logits(network: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode(), float32(CPU):
        logits: np.ndarray = network(pixels).numpy()
    return logits


def is_faithful(proof: Proof) -> bool:
    """Whether a file in float computes what its network does, up to rounding."""
    finite = bool(np.isfinite(proof.after).all())
    return (
        finite
        and proof.level_difference <= LEVELS
        and proof.difference <= TOLERANCE * proof.scale
        and proof.single_difference <= LEVEL_TOLERANCE * proof.scale
    )


def find_stage(
    write: Callable[[nn.Module, list[str]], Path], program: Program, reference: Reference, sample: Sample
) -> str:
    """The first stage whose output in a format differs from that of the network in PyTorch.

    Args:
        write: Writes a module with outputs of these names in the format, and hands back the file.
        program: What was exported.
        reference: What it should be.
        sample: Images.
    """
    stages = Stages(program)
    _, run = open_runner(write(stages, stages.names))
    image = sample.whole[0]
    outputs = run(image)
    prepared, std = reference.pixels(image), torch.tensor(reference.preprocess.std).view(-1, 1, 1)
    pixels = torch.from_numpy(outputs[0])
    if not ((pixels - prepared).abs() * 255 * std <= LEVELS).all():
        return stages.names[0]
    with torch.inference_mode(), float32(CPU):
        expected = Stages(Program(reference.network, reference.preprocess)).after(pixels)
    for name, own, theirs in zip(stages.names, outputs, expected, strict=True):
        if not np.abs(own - theirs.numpy()).max() <= TOLERANCE * float(theirs.abs().max()):
            return name
    raise ModelError(
        "the file differs from the network, but no stage does when it is written with all of them as outputs"
    )
