"""Decoding with Pillow: whatever the format, upright, in RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
import PIL.Image
from PIL import ImageOps, UnidentifiedImageError

from ffvit.data.images import FORMATS, BadImageError, Images, StoredImage, refused_size
from ffvit.data.jpeg import MAX_SCANS, SOI, SOS
from ffvit.errors import DataError

_BAND_PIXELS = 2**22
"""Pixels that are converted at once."""


def open_image(images: Images, index: int) -> PIL.Image.Image:
    """An image, upright, in RGB, fully decoded.

    Raises:
        BadImageError: It cannot be read or decoded.
    """
    return decode(images.read(index), images.name(index))


def typical_side(images: Images) -> int:
    """Median shorter side in pixels, of up to 50 of the images.

    Raises:
        UserError: None of them can be read.
    """
    sides = []
    for index in np.linspace(0, len(images) - 1, min(50, len(images))).astype(int):
        try:
            sides.append(min(open_image(images, int(index)).size))
        except BadImageError:
            continue
    if not sides:
        raise DataError("data.source: none of the images that were looked at could be read")
    return int(np.median(sides))


def decode(stored: StoredImage, name: str) -> PIL.Image.Image:
    """Decode an image with Pillow: upright, in RGB, all of it.

    Args:
        stored: The image.
        name: What it is called where it cannot be decoded.

    Raises:
        BadImageError: It is empty, truncated, no image, or of a size that is refused before a pixel is decoded: see
            `refused_size` and `jpeg.MAX_SCANS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of sizes that are still allowed
            return to_rgb(_checked_size(stored) if isinstance(stored, PIL.Image.Image) else _upright(stored))
    except PIL.Image.DecompressionBombError:  # Pillow's own limit comes first where it is the lower one
        reason = refused_size(2**31, 2**31) or ""
    except _RefusedError as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "is empty, damaged, or no image"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # Pillow's decoders, fed damaged files, raise nearly anything
        reason = f"is damaged ({error})"
    raise BadImageError(name, reason)


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of any mode in 8-bit RGB.

    Transparent places become white, the paper that drawings with an alpha channel are made for (dropping the channel
    instead, as `convert` does, uncovers whatever colour lies hidden under it). Grey of more than 8 bits is scaled.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return PIL.Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.width * image.height <= _BAND_PIXELS:
        return _band_as_rgb(image)
    whole = PIL.Image.new("RGB", image.size)
    for top, bottom in _bands(image.height, image.width):
        whole.paste(_band_as_rgb(image.crop((0, top, image.width, bottom))), (0, top))
    return whole


def to_array(image: PIL.Image.Image) -> np.ndarray:
    """The pixels of an RGB image, in an array that may be written to (Pillow's own may not)."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, bottom in _bands(image.height, image.width):
        band = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = np.asarray(band)
    return pixels


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last row of bands of an image, so that its copies take little memory."""
    rows = max(1, _BAND_PIXELS // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _band_as_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Deep grey scaled to 8 bits, by the range of its type where it has one, or else by the values it holds."""
    low, high = 0.0, 65535.0
    if grey.dtype.kind == "f":
        grey = np.nan_to_num(grey, posinf=0.0, neginf=0.0)
        high = 1.0
    if grey.min() < low or grey.max() > high:  # neither 16 bits nor 0 to 1: darkest to black, lightest to white
        low, high = float(grey.min()), float(grey.max())
    scaled = np.empty(grey.shape, np.uint8)
    for top, bottom in _bands(*grey.shape):
        band = grey[top:bottom].astype(np.float64)
        scaled[top:bottom] = np.round((band - low) * (255 / (high - low or 1.0)))
    return scaled


class _RefusedError(Exception):
    """An image is not decoded; says why."""


def _checked_size(image: PIL.Image.Image) -> PIL.Image.Image:
    if reason := refused_size(*image.size):
        raise _RefusedError(reason)
    return image


def _upright(encoded: bytes) -> PIL.Image.Image:
    if encoded[:2] == SOI and (scans := encoded.count(SOS)) > MAX_SCANS:
        raise _RefusedError(f"is a JPEG of {scans:,} scans, and is not decoded (at most {MAX_SCANS})")
    with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        _checked_size(image)
        image.load()  # first, so that what fails below is the EXIF
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:  # damaged EXIF is no reason to do without the pixels
            return image.copy()
        return image.copy() if image.readonly else image
