"""timm's augmentation operations on arrays of bytes, with OpenCV instead of Pillow.

What is drawn (which operation, how strong, in which direction) stays timm's: an operation of its policy calls another
function. Tables of 256 values do what changes each pixel by itself, so their results are timm's to the bit; operations that
move or mix pixels differ by rounding, and by the cubic's shape (OpenCV's a is -0.75, Pillow's -1 where it moves pixels).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import PIL.Image
from timm.data import auto_augment as timms
from torchvision.transforms import Compose

from ffvit.data.jpeg import Pixels

cv2.setNumThreads(0)  # loading processes share the cores already

INTERPOLATION = {PIL.Image.Resampling.BICUBIC: cv2.INTER_CUBIC, PIL.Image.Resampling.BILINEAR: cv2.INTER_LINEAR}
LEVELS = np.arange(256)
GREY = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in grey (ITU-R 601-2, as Pillow's)."""

SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
"""Pillow's ImageFilter.SMOOTH."""


Step = Callable[[Pixels], Pixels]


def on_arrays(step: Any) -> Step:
    """One of timm's steps on arrays: RandAugment, AutoAugment and 3-Augment by operation, others (AugMix) through Pillow."""
    if not isinstance(step, timms.RandAugment | timms.AutoAugment):
        return partial(_through_pillow, step)
    for operation in operations(step):
        operation.aug_fn = ON_ARRAYS.get(operation.aug_fn) or partial(_through_pillow, operation.aug_fn)
    return step


def operations(augment: Any) -> Iterator[timms.AugmentOp]:
    """Every operation within one of timm's augmentations."""
    if isinstance(augment, timms.AugmentOp):
        yield augment
    elif isinstance(augment, list | tuple):
        for inner in augment:
            yield from operations(inner)
    elif isinstance(augment, Compose):
        yield from operations(augment.transforms)
    else:
        yield from operations([getattr(augment, name) for name in ("ops", "policy") if hasattr(augment, name)])


def posterize(image: PIL.Image.Image, bits: int, **_: Any) -> PIL.Image.Image:
    """As timm's. With 0 bits, which timm draws at full strength and Pillow 13 refuses, the image is black."""
    return timms.posterize(image, bits) if bits > 0 else PIL.Image.new(image.mode, image.size)


def _through_pillow(
    function: Callable[..., PIL.Image.Image], pixels: Pixels, *arguments: Any, **options: Any
) -> Pixels:
    return np.asarray(function(PIL.Image.fromarray(pixels), *arguments, **options))


def _affine(pixels: Pixels, matrix: tuple[float, ...], fillcolor: tuple[int, ...], resample: Any) -> Pixels:
    """Pillow's Image.transform(AFFINE): the matrix tells where each pixel's centre, half a pixel in, comes from."""
    a, b, c, d, e, f = matrix
    centred = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
    height, width, _ = pixels.shape
    return cv2.warpAffine(
        pixels,
        centred,
        (width, height),
        flags=INTERPOLATION[_drawn(resample)] | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fillcolor,
    )


def _drawn(resample: Any) -> PIL.Image.Resampling:
    """The interpolation, or one of those that timm gives to draw from."""
    return random.choice(resample) if isinstance(resample, list | tuple) else resample


def _shear_x(pixels: Pixels, factor: float, **options: Any) -> Pixels:
    return _affine(pixels, (1.0, factor, 0.0, 0.0, 1.0, 0.0), **options)


def _shear_y(pixels: Pixels, factor: float, **options: Any) -> Pixels:
    return _affine(pixels, (1.0, 0.0, 0.0, factor, 1.0, 0.0), **options)


def _translate_x(pixels: Pixels, by: float, fillcolor: tuple[int, ...], resample: Any) -> Pixels:
    """Every pixel moves by the same fraction of a pixel: one small filter, in a tenth of the time of `_affine`."""
    whole, kernel = math.floor(by), _kernel(by - math.floor(by), _drawn(resample))
    height, width, channels = pixels.shape
    made = np.full((height, width, channels), fillcolor, dtype=np.uint8)
    # Those whose centre comes from within the image
    begin, end = max(0, math.ceil(-by - 0.5)), min(width, math.ceil(width - by - 0.5))
    if begin < end:
        padded = cv2.copyMakeBorder(pixels, 0, 0, 1, 1, cv2.BORDER_REPLICATE)
        shifted = cv2.filter2D(padded, -1, kernel, anchor=(1, 0), borderType=cv2.BORDER_REPLICATE)
        made[:, begin:end] = shifted[:, begin + whole + 1 : end + whole + 1]
    return made


def _translate_y(pixels: Pixels, by: float, **options: Any) -> Pixels:
    return np.ascontiguousarray(_translate_x(pixels.swapaxes(0, 1), by, **options).swapaxes(0, 1))


def _kernel(x: float, resample: PIL.Image.Resampling) -> np.ndarray:
    """Weights of four neighbours at a distance of x from the second of them, as Pillow interpolates (a = -1)."""
    if resample == PIL.Image.Resampling.BILINEAR:
        weights = [0, 1 - x, x, 0]
    else:
        weights = [-x + 2 * x**2 - x**3, 1 - 2 * x**2 + x**3, x + x**2 - x**3, -(x**2) + x**3]
    return np.array([weights])


def _translate_x_share(pixels: Pixels, share: float, **options: Any) -> Pixels:
    return _translate_x(pixels, share * pixels.shape[1], **options)


def _translate_y_share(pixels: Pixels, share: float, **options: Any) -> Pixels:
    return _translate_y(pixels, share * pixels.shape[0], **options)


def _rotate(pixels: Pixels, degrees: float, **options: Any) -> Pixels:
    angle = -math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    y, x = pixels.shape[0] / 2, pixels.shape[1] / 2
    return _affine(
        pixels, (cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y), **options
    )


def _through_table(pixels: Pixels, table: np.ndarray) -> Pixels:
    """Each level replaced by the table's: one table, or one a channel (256 x channels)."""
    return cv2.LUT(pixels, table.astype(np.uint8).reshape(1, 256, -1))


def _invert(pixels: Pixels, **_: Any) -> Pixels:
    return 255 - pixels


def _solarize(pixels: Pixels, threshold: int, **_: Any) -> Pixels:
    return _through_table(pixels, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def _solarize_add(pixels: Pixels, add: int, threshold: int = 128, **_: Any) -> Pixels:
    return _through_table(pixels, np.where(threshold > LEVELS, np.minimum(255, LEVELS + add), LEVELS))


def _posterize(pixels: Pixels, bits: int, **_: Any) -> Pixels:
    return pixels if bits >= 8 else pixels & np.uint8(~(2 ** (8 - bits) - 1) & 255)


def _histograms(pixels: Pixels) -> list[np.ndarray]:
    return [
        cv2.calcHist([pixels], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        for channel in range(pixels.shape[2])
    ]


def _auto_contrast(pixels: Pixels, **_: Any) -> Pixels:
    tables = []
    for histogram in _histograms(pixels):
        low, high = np.flatnonzero(histogram)[[0, -1]].tolist()
        scale = 255.0 / (high - low) if high > low else 1.0
        tables.append(np.clip((LEVELS * scale - low * scale).astype(np.int64), 0, 255) if high > low else LEVELS)
    return _through_table(pixels, np.stack(tables, axis=1))


def _equalize(pixels: Pixels, **_: Any) -> Pixels:
    tables = []
    for histogram in _histograms(pixels):
        there = histogram[histogram > 0]
        step = (there.sum() - there[-1]) // 255
        before = np.concatenate(([0], np.cumsum(histogram)[:-1]))
        tables.append(np.minimum((step // 2 + before) // step, 255) if len(there) > 1 and step else LEVELS)
    return _through_table(pixels, np.stack(tables, axis=1))


def _blended(level: float, factor: float) -> np.ndarray:
    """Pillow's Image.blend of a level with every level: cut off after the point."""
    blended = np.float32(level) + np.float32(factor) * (LEVELS - np.float32(level)).astype(np.float32)
    return np.clip(blended, 0, 255)


def _brightness(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return _through_table(pixels, _blended(0.0, factor))


def _contrast(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    mean = float(int(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5))
    return _through_table(pixels, _blended(mean, factor))


def _color(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return cv2.transform(pixels, factor * np.eye(3) + (1 - factor) * GREY)


def _sharpness(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    kernel = (1 - factor) * SMOOTH
    kernel[1, 1] += factor
    made = pixels.copy()  # Pillow leaves the outermost pixels as they are
    made[1:-1, 1:-1] = cv2.filter2D(pixels, -1, kernel)[1:-1, 1:-1]
    return made


def _desaturate(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return _color(pixels, min(1.0, max(0.0, 1.0 - factor)))


ON_ARRAYS: dict[Callable[..., PIL.Image.Image], Callable[..., Pixels]] = {
    timms.shear_x: _shear_x,
    timms.shear_y: _shear_y,
    timms.translate_x_abs: _translate_x,
    timms.translate_y_abs: _translate_y,
    timms.translate_x_rel: _translate_x_share,
    timms.translate_y_rel: _translate_y_share,
    timms.rotate: _rotate,
    timms.auto_contrast: _auto_contrast,
    timms.equalize: _equalize,
    timms.invert: _invert,
    timms.posterize: _posterize,
    timms.solarize: _solarize,
    timms.solarize_add: _solarize_add,
    timms.color: _color,
    timms.desaturate: _desaturate,
    timms.contrast: _contrast,
    timms.brightness: _brightness,
    timms.sharpness: _sharpness,
}
"""timm's functions and ours; others (blurs) go through Pillow."""
