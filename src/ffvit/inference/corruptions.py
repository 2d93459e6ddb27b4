"""Corrupted images: ImageNet-C's corruptions, and patches that are shuffled, left out or covered.

All of them change the levels that a network is given, after resizing and cropping and before normalization. What is
drawn is a function of (seed, these levels, corruption, severity), so that every process, order and machine gets the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import Images, StoredImage
from ffvit.data.jpeg import Pixels
from ffvit.data.random_erasing import NOTHING
from ffvit.data.transforms import LazyImage, TransformedImage, evaluation_transform
from ffvit.errors import MissingPackageError, UserError, did_you_mean
from ffvit.inference.exported import missing_packages
from ffvit.seeding import seed_of, seeded

Fill = UInt8[np.ndarray, " channels"]
"""The color of lost patches."""

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "patches": ("patch_shuffle", "patch_drop", "occlusion"),
}
"""The corruptions of D. Hendrycks and T. Dietterich (arXiv 1903.12261) by family, and what is done to patches."""

PATCHES = FAMILIES["patches"]

SEVERITIES = (1, 2, 3, 4, 5)

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Which share of the patches moves or is lost, by severity."""

SIDES = (14, 12, 8, 7, 6, 5, 4, 3, 2)
"""Patches along each side: the first that cuts the image into patches of 2 pixels or more (224 px: ViT's 14 of 16 px).

It does not depend on the network, so that all networks are given the same pixels.
"""

LEAST_SIDE = 32
"""Pixels that the library asks for: its severities are those of photographs."""

SEEDED_APART = ("impulse_noise", "glass_blur")
"""These do not draw from numpy's global generator."""


@dataclass(frozen=True)
class Condition:
    """A corruption and its severity, 1 to 5."""

    corruption: str
    severity: int


CLEAN = Condition("none", 0)
"""The image as it is."""


def choose_corruptions(names: Sequence[str]) -> tuple[str, ...]:
    """The corruptions that names of corruptions and families stand for, in the order of `FAMILIES`.

    Raises:
        UserError: A name is none of them.
    """
    every = [name for family in FAMILIES.values() for name in family]
    known = {**FAMILIES, **{name: (name,) for name in every}, "all": tuple(every)}
    for name in names:
        if name not in known:
            raise UserError(
                f"corruptions: there is no corruption {name!r}{did_you_mean(name, known)} (known: all, "
                f"{', '.join(FAMILIES)}, or one of {', '.join(every)})"
            )
    chosen = {corruption for name in names for corruption in known[name]}
    return tuple(name for name in every if name in chosen)


def check_corruptions(corruptions: Sequence[str], preprocess: Preprocess | None) -> None:
    """Make sure that images can be corrupted so here.

    Args:
        corruptions: As `choose_corruptions` gives them.
        preprocess: How images are prepared; None if an exported file does it.

    Raises:
        UserError: A package is missing, the images are too small, or they are cropped inside a file.
    """
    if not corruptions:
        return
    if preprocess is None:
        raise UserError(
            "corruptions: are applied after the crop, and an exported file crops images by itself: evaluate the run "
            "that it was exported from"
        )
    size = " x ".join(map(str, preprocess.img_size))
    if set(corruptions) - set(PATCHES):
        if missing := missing_packages(("imagecorruptions", "numba", "skimage")):
            raise MissingPackageError(
                f"corruptions: need {' and '.join(missing)}: pip install 'ffvit[corruptions]', then pip install --no-deps "
                "imagecorruptions-imaug (whose own requirements would replace OpenCV by one that needs a display)"
            )
        if min(preprocess.img_size) < LEAST_SIDE:
            raise UserError(
                f"corruptions: are defined for images of {LEAST_SIDE} x {LEAST_SIDE} pixels or more, and this network "
                f"takes {size}: give --corruptions patches, or a network for larger images (ffvit train --image-size)"
            )
    if set(corruptions) & set(PATCHES) and grid_side(*preprocess.img_size) is None:
        raise UserError(f"corruptions: images of {size} pixels cannot be cut into equal patches: leave out patches")


def corrupt(pixels: Pixels, condition: Condition, seed: int, fill: Fill) -> Pixels:
    """An image under a condition.

    Args:
        pixels: Colour (3 channels) or grey (1), as the network is given it.
        condition: The corruption; `CLEAN` leaves it as it is.
        seed: Of what is drawn.
        fill: Where patches are lost.
    """
    if condition == CLEAN:
        return pixels
    name, severity = condition.corruption, condition.severity
    content = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
    numbers = seed, content, zlib.crc32(name.encode()), severity
    if name in PATCHES:
        return _PATCHES[name](pixels, SHARES[severity - 1], np.random.default_rng(numbers), fill)
    own = {"seed": seed_of(*numbers)} if name in SEEDED_APART else {}
    with seeded(*numbers):
        corrupted: Pixels = _library().corrupt(pixels, severity, name, **own)
    return corrupted if pixels.shape[2] == 3 else cv2.cvtColor(corrupted, cv2.COLOR_RGB2GRAY)[:, :, None]


@cache
def _library() -> Any:
    """The package imagecorruptions, with what it compiles kept on the disk: it takes seconds, in every process."""
    import imagecorruptions

    for function in vars(imagecorruptions.corruptions).values():
        if hasattr(function, "enable_caching"):
            with contextlib.suppress(RuntimeError):  # no place to write to
                function.enable_caching()
    return imagecorruptions


def grid_side(height: int, width: int) -> int | None:
    """Patches along each side; None if the image cannot be cut into equal ones."""
    sides = (s for s in SIDES if not height % s and not width % s and min(height, width) >= 2 * s)
    return next(sides, None)


def _to_patches(pixels: Pixels) -> tuple[np.ndarray, int]:
    """Patches (a copy), row by row, and how many there are along each side."""
    height, width, channels = pixels.shape
    side = grid_side(height, width)
    assert side is not None
    parts = pixels.reshape(side, height // side, side, width // side, channels).swapaxes(1, 2)
    return parts.reshape(side**2, height // side, width // side, channels).copy(), side


def _to_image(patches: np.ndarray, side: int) -> Pixels:
    _, height, width, channels = patches.shape
    parts = patches.reshape(side, side, height, width, channels).swapaxes(1, 2)
    return parts.reshape(side * height, side * width, channels)


def _shuffle(pixels: Pixels, share: float, generator: np.random.Generator, _fill: Fill) -> Pixels:
    """A share of the patches moves, each to another one's place."""
    patches, side = _to_patches(pixels)
    moved = generator.permutation(len(patches))[: round(share * len(patches))]
    patches[moved] = patches[np.roll(moved, 1)]
    return _to_image(patches, side)


def _drop(pixels: Pixels, share: float, generator: np.random.Generator, fill: Fill) -> Pixels:
    """A share of the patches is lost, here and there."""
    patches, side = _to_patches(pixels)
    patches[generator.permutation(len(patches))[: round(share * len(patches))]] = fill
    return _to_image(patches, side)


def _occlude(pixels: Pixels, share: float, generator: np.random.Generator, fill: Fill) -> Pixels:
    """The same share of the area is covered, in one piece with the image's proportions."""
    height, width, _ = pixels.shape
    rows, columns = round(share**0.5 * height), round(share**0.5 * width)
    top, left = generator.integers(height - rows, endpoint=True), generator.integers(width - columns, endpoint=True)
    covered = pixels.copy()
    covered[top : top + rows, left : left + columns] = fill
    return covered


_PATCHES: dict[str, Callable[[Pixels, float, np.random.Generator, Fill], Pixels]] = {
    "patch_shuffle": _shuffle,
    "patch_drop": _drop,
    "occlusion": _occlude,
}


class CorruptedImages:
    """Every image under every condition, as pixels; those of an image follow each other, so that it is prepared once.

    Args:
        images: The images.
        preprocess: How they are prepared. Its mean is the colour of lost patches.
        conditions: What is done to them then.
        seed: Of what is drawn.
    """

    def __init__(self, images: Images, preprocess: Preprocess, conditions: Sequence[Condition], seed: int) -> None:
        self.images, self.conditions, self.seed = images, conditions, seed
        self.labels = np.repeat(images.labels, len(conditions))
        self.prepare = evaluation_transform(preprocess)
        self.fill = np.round(255 * np.array(preprocess.mean)).astype(np.uint8)
        self._last: tuple[int, Pixels] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The image's name, whatever is done to it."""
        return self.images.name(index // len(self.conditions))

    def read(self, index: int) -> StoredImage:
        """The image's pixels, see `Images.read`."""
        place, number = divmod(index, len(self.conditions))
        if self._last is None or self._last[0] != place:
            self._last = place, self.prepare(LazyImage(self.images.read(place), self.images.name(place))).pixels
        pixels = corrupt(self._last[1], self.conditions[number], self.seed, self.fill)
        return PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def as_prepared(image: LazyImage) -> TransformedImage:
    """What `CorruptedImages` holds, as it is."""
    return TransformedImage(np.atleast_3d(np.asarray(image.stored)), NOTHING)
