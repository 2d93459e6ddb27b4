"""From an image to a tensor: timm's augmentation for training, resize and central crop for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, posterize
from timm.data.transforms import MaybeToTensor
from torchvision.transforms import Compose

from ffvit.errors import UserError
from ffvit.recipe import Recipe

Transform = Callable[[PIL.Image.Image], Float[torch.Tensor, "channels height width"]]


def training_transform(
    recipe: Recipe, image: tuple[int, int], channels: int, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """Random resized crop, flip, AutoAugment or RandAugment, normalisation, random erasing: as DeiT trains.

    Args:
        recipe: How strongly.
        image: Height and width of what comes out.
        channels: 3, or 1 for grey (made so only as the image becomes a tensor).
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.

    Raises:
        UserError: Another number of channels, or an augmentation that timm does not know.
    """
    _check(channels, mean, std)

    def stages(mean: tuple[float, ...]) -> tuple[Any, Any, Any]:
        return create_transform(
            (channels, *image),
            is_training=True,
            scale=recipe.crop_scale,
            ratio=recipe.crop_ratio,
            hflip=recipe.flip,
            color_jitter=None,
            auto_augment=recipe.auto_augment,
            interpolation=recipe.interpolation,
            mean=mean,
            std=tuple(std),
            re_prob=recipe.erase,
            re_mode="pixel",
            re_count=1,
            separate=True,
        )

    try:
        # Augmentation works on colour, and fills what it moves away with the mean colour, also where grey comes out
        crop, augment, _ = stages(tuple(mean) * (3 // channels))
    except Exception as error:  # timm asserts, or trips over a number that is none
        raise UserError(
            f"recipe.auto_augment: timm does not know {recipe.auto_augment!r} ({error or type(error).__name__}); "
            "for example: rand-m9-mstd0.5-inc1"
        ) from error
    for operation in _operations(augment):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    *_, finish = stages(tuple(mean))
    return Compose([crop, augment, _with_own_tensors(finish, mean, std)])


def evaluation_transform(
    crop: float,
    interpolation: str,
    image: tuple[int, int],
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Transform:
    """Resize so that the central crop is the given share of the shorter side, crop, normalise.

    Args:
        crop: Length of the crop as a share of the resized image's (0.875: 224 of 256).
        interpolation: bicubic or bilinear.
        image: Height and width of what comes out.
        channels: 3, or 1 for grey.
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.

    Raises:
        UserError: Another number of channels.
    """
    _check(channels, mean, std)
    transform = create_transform(
        (channels, *image), interpolation=interpolation, crop_pct=crop, mean=tuple(mean), std=tuple(std)
    )
    return _with_own_tensors(transform, mean, std)


class _ToTensor:
    """A colour or grey image as normalised numbers.

    To the bit those of torchvision's ToTensor and Normalize, which take longer over a small image than all that comes
    before them.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mode = "L" if len(mean) == 1 else "RGB"
        self.mean, self.std = (np.array(each, dtype=np.float32).reshape(-1, 1, 1) for each in (mean, std))

    def __call__(self, image: PIL.Image.Image) -> Float[torch.Tensor, "channels height width"]:
        pixels = np.atleast_3d(np.asarray(image if image.mode == self.mode else image.convert(self.mode)))
        values = np.ascontiguousarray(pixels.transpose(2, 0, 1)) / np.float32(255)
        values -= self.mean
        values /= self.std
        return torch.from_numpy(values)


def _with_own_tensors(transform: Any, mean: Sequence[float], std: Sequence[float]) -> Compose:
    """One of timm's transforms with our `_ToTensor` in the place of its ToTensor and Normalize."""
    steps = transform.transforms
    at = next(place for place, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    return Compose([*steps[:at], _ToTensor(mean, std), *steps[at + 2 :]])


def _operations(augment: Any) -> Iterator[AugmentOp]:
    """Every operation within timm's RandAugment, AutoAugment or AugMix."""
    if isinstance(augment, AugmentOp):
        yield augment
    elif isinstance(augment, list | tuple):
        for each in augment:
            yield from _operations(each)
    elif isinstance(augment, Compose):
        yield from _operations(augment.transforms)
    else:
        yield from _operations([getattr(augment, name) for name in ("ops", "policy") if hasattr(augment, name)])


def _posterize(image: PIL.Image.Image, bits: int, **_: Any) -> PIL.Image.Image:
    """As timm's. At full strength it keeps 0 bits: black, as ever, where Pillow from 13 on would refuse."""
    return posterize(image, bits) if bits > 0 else PIL.Image.new(image.mode, image.size)


def _check(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    if channels not in (1, 3):
        raise UserError(f"channels: images have 3 (colour) or 1 (grey); the network takes {channels}")
    if not len(mean) == len(std) == channels:
        raise UserError(f"mean and std: must have one number a channel ({channels}); got {len(mean)} and {len(std)}")
