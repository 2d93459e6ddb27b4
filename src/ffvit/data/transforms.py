"""From an encoded image to the pixels a network is given: augmented for training, resized and cropped for evaluation.

There are two pixel backends, chosen by the recipe's `exact` and by `Preprocess.pixel_backend`. `pillow` is timm on
Pillow, to the bit. `fast` draws the same and differs by the rounding of pixels: it decodes a JPEG no larger than the crop
needs, resizes once, and works on arrays of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from timm.data import create_transform
from timm.data.auto_augment import posterize as timms_posterize
from timm.data.transforms import CenterCropOrPad, RandomResizedCropAndInterpolation, ResizeKeepRatio
from torch.nn.functional import interpolate
from torchvision.transforms import CenterCrop, Compose, RandomHorizontalFlip, Resize

from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe
from ffvit.data import jpeg, random_erasing
from ffvit.data.augmentation import Step, on_arrays, operations, posterize
from ffvit.data.decode import decode, to_array
from ffvit.data.images import StoredImage
from ffvit.data.jpeg import Pixels
from ffvit.data.random_erasing import NOTHING, Erased
from ffvit.errors import ConfigError


class TransformedImage(NamedTuple):
    """An image as a network is given it, before its levels are normalized.

    Attributes:
        pixels: Colour (3 channels) or grey (1).
        erased: The rectangle that becomes noise.
    """

    pixels: Pixels
    erased: Erased


class LazyImage:
    """An image that is decoded once for all its views, and a JPEG at no larger scale than they need.

    Args:
        stored: The image.
        name: What it is called where it cannot be decoded.
    """

    def __init__(self, stored: StoredImage, name: str) -> None:
        self.stored, self.name = stored, name
        self._scaled: dict[int, Pixels] = {}

    @cached_property
    def image(self) -> PIL.Image.Image:
        """The image as Pillow decodes it.

        Raises:
            BadImageError: It cannot be decoded.
        """
        return decode(self.stored, self.name)

    @cached_property
    def pixels(self) -> Pixels:
        """The same as an array."""
        return to_array(decode(self.stored, self.name))

    @cached_property
    def header(self) -> jpeg.Header | None:
        """The header of a JPEG that need not be left to Pillow."""
        return jpeg.header(self.stored) if isinstance(self.stored, bytes) else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return self.header.size if self.header is not None else (self.pixels.shape[0], self.pixels.shape[1])

    def crop(self, box: jpeg.Box, least: tuple[int, int]) -> Pixels:
        """A part of it, which may come scaled down, to no less than `least`."""
        if self.header is not None and isinstance(self.stored, bytes):
            scale = jpeg.scale_for(box, least)
            try:
                if scale not in self._scaled:
                    self._scaled[scale] = jpeg.decode_scaled(self.stored, self.header, scale)
                return jpeg.cut(self._scaled[scale], box, scale)
            except ValueError:  # damaged: Pillow is to say how, or to make the best of it
                self.header = None
        return jpeg.cut(self.pixels, box, 1)


Transform = Callable[[LazyImage], TransformedImage]
"""Raises BadImageError for an image that cannot be decoded."""


def training_transform(recipe: Recipe, preprocess: Preprocess) -> Transform:
    """Random resized crop, flip, AutoAugment or RandAugment, random erasing: as DeiT trains.

    Args:
        recipe: How strongly.
        preprocess: Its size and channels (grey is made so only at the end), and its mean, which fills what is moved away.

    Raises:
        UserError: Another number of channels, or an augmentation that timm does not know.
    """
    channels = preprocess.in_chans
    check_channels(channels)
    try:
        first, augment, _ = create_transform(
            (3, *preprocess.img_size),
            is_training=True,
            scale=recipe.crop_scale,
            ratio=recipe.crop_ratio,
            hflip=recipe.flip,
            color_jitter=None,
            auto_augment=recipe.auto_augment,
            interpolation=recipe.interpolation,
            # Augmentation works on colour, also where grey comes out
            mean=preprocess.mean * (3 // channels),
            separate=True,
        )
    except Exception as error:  # timm asserts, or trips over a number that is none
        raise ConfigError(
            f"recipe.auto_augment: timm does not know {recipe.auto_augment!r} ({error or type(error).__name__}); "
            "for example: rand-m9-mstd0.5-inc1"
        ) from error
    if recipe.exact == "always":
        for operation in operations(augment):
            if operation.aug_fn is timms_posterize:
                operation.aug_fn = posterize
        return _PillowTransform(Compose([first, augment]), channels, recipe.random_erase_prob)
    steps = [on_arrays(step) for step in augment.transforms]
    return _FastTraining(first.transforms, steps, recipe.interpolation, channels, recipe.random_erase_prob)


def evaluation_transform(preprocess: Preprocess) -> Transform:
    """Resize so that the central crop is the given share of the shorter side, and crop.

    Raises:
        UserError: Another number of channels than 3 or 1.
    """
    channels, steps = preprocess.in_chans, _evaluation_steps(preprocess)
    check_channels(channels)
    if preprocess.pixel_backend == "pillow":
        return _PillowTransform(Compose(steps), channels)
    return _FastEvaluation(steps, preprocess.interpolation, channels)


def _evaluation_steps(preprocess: Preprocess) -> list[Any]:
    """Timm's resize and central crop."""
    made = create_transform(
        preprocess.shape, interpolation=preprocess.interpolation, crop_pct=preprocess.crop_pct
    ).transforms
    return [step for step in made if isinstance(step, Resize | ResizeKeepRatio | CenterCrop | CenterCropOrPad)]


class ResizeForCrop:
    """Resize with Pillow, in colour, and cut to one size, whose central crop is that of the whole resized image.

    So images become batches for a network that crops by itself. Resizing them again leaves them as they are.

    Attributes:
        size: Height and width of what comes out.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.resize, self.crop = _evaluation_steps(preprocess)
        self.size = tuple(math.floor(side / preprocess.crop_pct) for side in preprocess.img_size)

    def __call__(self, image: LazyImage) -> TransformedImage:
        """Raises BadImageError for an image that cannot be decoded."""
        pixels = np.asarray(self.resize(image.image))
        # Half a pixel is rounded to the even one, here and by the crop inside.
        first = [
            round((side - crop) / 2) - round((cut - crop) / 2)
            for side, cut, crop in zip(pixels.shape, self.size, self.crop.size, strict=False)
        ]
        (top, left), (height, width) = first, self.size
        return TransformedImage(pixels[top : top + height, left : left + width], NOTHING)


class _PillowTransform:
    """timm's steps on the image as Pillow decodes it."""

    def __init__(self, steps: Compose, channels: int, erase: float = 0.0) -> None:
        self.steps, self.mode, self.erase = steps, "L" if channels == 1 else "RGB", erase

    def __call__(self, image: LazyImage) -> TransformedImage:
        made = self.steps(image.image)
        pixels = np.atleast_3d(np.asarray(made if made.mode == self.mode else made.convert(self.mode)))
        return TransformedImage(pixels, random_erasing.draw(self.erase, *pixels.shape[:2]))


class _FastTraining:
    def __init__(self, first: list[Any], augment: list[Step], interpolation: str, channels: int, erase: float) -> None:
        self.crop: RandomResizedCropAndInterpolation = first[0]
        self.flip = next((step.p for step in first if isinstance(step, RandomHorizontalFlip)), 0.0)
        self.augment, self.interpolation, self.channels, self.erase = augment, interpolation, channels, erase

    def __call__(self, image: LazyImage) -> TransformedImage:
        height, width = image.size
        shape = torch.empty((3, height, width), device="meta")  # all that timm looks at is its size
        pixels = image.crop(self.crop.get_params(shape, self.crop.scale, self.crop.ratio), self.crop.size)
        pixels = resized(pixels, self.crop.size, self.interpolation)
        if self.flip and torch.rand(1) < self.flip:
            pixels = cv2.flip(pixels, 1)
        for step in self.augment:
            pixels = step(pixels)
        return TransformedImage(_in_channels(pixels, self.channels), random_erasing.draw(self.erase, *pixels.shape[:2]))


class _FastEvaluation:
    def __init__(self, steps: list[Any], interpolation: str, channels: int) -> None:
        self.resize, self.crop = steps
        self.interpolation, self.channels = interpolation, channels
        self.sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def __call__(self, image: LazyImage) -> TransformedImage:
        if image.size not in self.sizes:  # asked of timm's own step, which takes longer than the rest
            self.sizes[image.size] = tuple(self.resize(torch.empty((3, *image.size), device="meta")).shape[1:])
        size = self.sizes[image.size]
        whole = resized(image.crop((0, 0, *image.size), size), size, self.interpolation)
        height, width = self.crop.size
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
        return TransformedImage(_in_channels(whole[top : top + height, left : left + width], self.channels), NOTHING)


def resized(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """Resize as Pillow does (antialiased, between the two passes rounded to bytes), several times faster."""
    pixels = np.ascontiguousarray(pixels)
    if pixels.shape[:2] == tuple(size):
        return pixels
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    made = interpolate(image, size, mode=interpolation, antialias=True)
    return np.ascontiguousarray(made[0].permute(1, 2, 0).numpy())


def _in_channels(pixels: Pixels, channels: int) -> Pixels:
    return pixels if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None]


def check_channels(channels: int) -> None:
    """Make sure that images can be had in so many channels.

    Raises:
        UserError: They cannot.
    """
    if channels not in (1, 3):
        raise ConfigError(f"channels: images have 3 (colour) or 1 (grey); the network takes {channels}")
