"""JPEGs decoded by libjpeg-turbo at the smallest scale that holds a crop, several times as fast as by Pillow.

Pixels are Pillow's, to the bit, unless the scale is below 1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL.JpegImagePlugin import JpegImageFile

from ffvit.data.images import refused_size

Pixels = UInt8[np.ndarray, "_height _width _channels"]
Box = tuple[int, int, int, int]
"""Top, left, height and width."""

EXIF_ORIENTATION = 0x0112
SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
"""Markers: start of image, end of image, start of scan."""

MAX_SCANS = 100
"""Scans of a progressive JPEG; encoders write about ten, and each passes over the whole image."""

SCALES = (8, 4, 2)
"""Divisors of the size at which libjpeg-turbo decodes faster than in full (3/4 and the like take longer)."""


@dataclass(frozen=True, slots=True)
class Header:
    """Height and width of a JPEG as stored, and EXIF's orientation (1 to 8; above 1 it is turned or mirrored)."""

    height: int
    width: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def header(encoded: bytes) -> Header | None:
    """The header of a JPEG that this module can decode; None for all that is left to Pillow.

    Pillow decodes other formats, CMYK and more than 8 bits, looks for the orientation in XMP, and says what is wrong with
    images that are cut short, of a refused size, or of very many scans.
    """
    if encoded[:2] != SOI:
        return None
    file = io.BytesIO(encoded)
    try:
        image = JpegImageFile(file)
    except Exception:  # damaged headers raise nearly anything
        return None
    is_whole = encoded.rfind(EOI, file.tell()) >= 0  # behind the header, which may hold a thumbnail
    if image.mode not in ("L", "RGB") or not is_whole or encoded.count(SOS) > MAX_SCANS:
        return None
    if refused_size(*image.size) or any(
        name == "APP1" and b"Orientation" in content and not content.startswith(b"Exif\0\0")
        for name, content in image.applist
    ):
        return None
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF costs nothing but the orientation
        orientation = 1
    return Header(image.height, image.width, orientation if orientation in range(1, 9) else 1)


def scale_for(box: Box, least: tuple[int, int]) -> int:
    """By how much a part may be scaled down and still have the height and width of `least`."""
    return next((by for by in SCALES if box[2] >= by * least[0] and box[3] >= by * least[1]), 1)


def decode_scaled(encoded: bytes, head: Header, scale: int) -> Pixels:
    """All of an image, upright, in RGB, scaled down.

    Raises:
        ValueError: It cannot be decoded.
    """
    height, width = -(-head.height // scale), -(-head.width // scale)
    # Not strict: Pillow too passes over libjpeg's warnings.
    pixels = simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width, min_factor=scale, strict=False)
    if head.orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if head.orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if head.orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def cut(pixels: Pixels, box: Box, scale: int) -> Pixels:
    """Part of pixels that are scaled down; the box is that before scaling."""
    top, left, height, width = box
    up, down, near, far = (round(edge / scale) for edge in (top, top + height, left, left + width))
    return pixels[up : max(down, up + 1), near : max(far, near + 1)]
