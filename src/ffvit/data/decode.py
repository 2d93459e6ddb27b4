"""The one place where bytes become pixels, exactly: whatever the format, upright, in RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
import PIL.Image
from PIL import ImageOps, UnidentifiedImageError

from ffvit.data.images import BadImageError, Images, Stored
from ffvit.errors import DataError


def opened(images: Images, index: int) -> PIL.Image.Image:
    """An image, upright, in RGB, fully decoded.

    Raises:
        BadImageError: It cannot be read or decoded.
    """
    return decoded(images.read(index), images.name(index))


def typical_side(images: Images) -> int:
    """Median shorter side in pixels, of up to 50 of the images.

    Raises:
        UserError: None of them can be read.
    """
    sides = []
    for index in np.linspace(0, len(images) - 1, min(50, len(images))).astype(int):
        try:
            sides.append(min(opened(images, int(index)).size))
        except BadImageError:
            continue
    if not sides:
        raise DataError("data.source: none of the images that were looked at could be read")
    return int(np.median(sides))


def decoded(stored: Stored, name: str) -> PIL.Image.Image:
    """Decode an image with Pillow: upright, in RGB, all of it.

    Args:
        stored: The image.
        name: What it is called where it cannot be decoded.

    Raises:
        BadImageError: It is empty, truncated, no image, or beyond Pillow's limit against decompression bombs
            (2 x `PIL.Image.MAX_IMAGE_PIXELS`), which is checked before a pixel is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of sizes that are still allowed
            return as_rgb(stored if isinstance(stored, PIL.Image.Image) else _upright(stored))
    except PIL.Image.DecompressionBombError:
        reason = f"has more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0):,} pixels, and is not decoded"
    except UnidentifiedImageError:
        reason = "is empty, damaged, or no image"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # Pillow's decoders, fed damaged files, raise nearly anything
        reason = f"is damaged ({error})"
    raise BadImageError(name, reason)


def as_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of any mode in 8-bit RGB.

    Transparent places become white, the paper that drawings with an alpha channel are made for (dropping the channel
    instead, as `convert` does, uncovers whatever colour lies hidden under it). Grey of more than 8 bits is scaled.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return PIL.Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Deep grey scaled to 8 bits, by the range of its type where it has one, or else by the values it holds."""
    low, high = 0.0, 65535.0
    if grey.dtype.kind == "f":
        grey = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0)
        high = 1.0
    if grey.min() < low or grey.max() > high:  # Neither 16 bits nor 0 to 1: darkest to black, lightest to white
        low, high = float(grey.min()), float(grey.max())
    return np.round((grey - low) * (255 / (high - low or 1.0))).astype(np.uint8)


def _upright(encoded: bytes) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        image.load()  # first, so that what fails below is the EXIF
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # Damaged EXIF is no reason to do without the pixels
            return image.copy()
