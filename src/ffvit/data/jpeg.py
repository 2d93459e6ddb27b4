"""JPEGs read fast: at the smallest scale that holds a crop, and no further down than the crop reaches.

Most of the time goes into the entropy code, which can only be read from its beginning: a decoder saves what lies below
a crop, but not what lies above or beside it. Where restart markers cut a JPEG into tiles (`ffvit prepare` writes such),
only the tiles that a crop touches are decoded. Both is done by handing the decoder a smaller JPEG: one whose header
names fewer rows and columns.

Pixels are those of a full decoding, to the bit, unless the scale is below 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
import simplejpeg
from jaxtyping import Int64, UInt8

from ffvit.data.images import refused_size

Pixels = UInt8[np.ndarray, "_height _width _channels"]

EXIF_ORIENTATION = 0x0112
END = b"\xff\xd9"
SCAN = b"\xff\xda"
MAX_SCANS = 100
"""Scans of a progressive JPEG; encoders write about ten, and each passes over the whole image."""

SCALES = (8, 4, 2)
"""Sizes that libjpeg-turbo divides by faster than it decodes the whole (3/4 and the like take longer than that)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a JPEG says of itself before its pixels.

    Attributes:
        height: Rows, as stored.
        width: Columns, as stored.
        orientation: EXIF's, 1 to 8; above 1 the stored pixels are turned or mirrored.
        sequential: Stored from top to bottom in one scan; a progressive JPEG comes in several.
        block: Height and width of what is coded together, in pixels.
        interval: How many of them between two restart markers. 0: there are none.
        size_at: Where the header has the height, and after it the width.
        scan_at: Where the entropy code begins.
    """

    height: int
    width: int
    orientation: int
    sequential: bool
    block: tuple[int, int]
    interval: int
    size_at: int
    scan_at: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    @property
    def tile(self) -> tuple[int, int] | None:
        """Height and width of what lies between two restart markers, where these cut the image into a grid."""
        height, width = self.block
        a_row = -(-self.width // width)
        if self.interval and self.interval % a_row == 0:
            return self.interval // a_row * height, a_row * width
        if self.interval and a_row % self.interval == 0:
            return height, self.interval * width
        return None


def header(encoded: bytes) -> Header | None:
    """The header of a JPEG that this file can decode; None for all that is for Pillow.

    Pillow's are: other formats, CMYK, more than 8 bits, the rare codings, images cut short, and those of a refused size or
    of very many scans, of which `decode` says what is wrong.
    """
    try:
        found = _parsed(encoded)
    except IndexError:  # it ends within its header
        return None
    if found is None or encoded.rfind(END, found.scan_at) < 0:
        return None
    if refused_size(found.width, found.height) or (not found.sequential and encoded.count(SCAN) > MAX_SCANS):
        return None
    return found


def _parsed(encoded: bytes) -> Header | None:
    if encoded[:2] != b"\xff\xd8":
        return None
    at, orientation, interval = 2, 1, 0
    height = width = size_at = components = 0
    block = 8, 8
    sequential = False
    while True:
        marker = encoded[at + 1]
        if encoded[at] != 0xFF or marker == 0xFF:  # fill bytes are allowed, and rare
            return None
        length = encoded[at + 2] << 8 | encoded[at + 3]
        body = at + 4
        if marker in (0xC0, 0xC1, 0xC2):
            components = encoded[body + 5]
            if encoded[body] != 8 or components not in (1, 3):
                return None
            size_at, sequential = body + 1, marker != 0xC2
            height = encoded[body + 1] << 8 | encoded[body + 2]
            width = encoded[body + 3] << 8 | encoded[body + 4]
            factors = [encoded[body + 7 + 3 * component] for component in range(components)]
            if not all(1 <= side <= 4 for factor in factors for side in (factor & 15, factor >> 4)):
                return None
            if components > 1:  # a lone component's blocks are 8 x 8, whatever its factors say
                block = 8 * max(factor & 15 for factor in factors), 8 * max(factor >> 4 for factor in factors)
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8):
            return None
        elif marker == 0xDD:
            interval = encoded[body] << 8 | encoded[body + 1]
        elif marker == 0xE1:
            found = _orientation(encoded[body : at + 2 + length])
            if found is None:
                return None
            orientation = found if found > 1 else orientation
        elif marker == 0xDA:
            if not height or not width:
                return None
            whole = encoded[body] == components
            sequential = sequential and whole
            return Header(height, width, orientation, sequential, block, interval, size_at, at + 2 + length)
        at += 2 + length


def _orientation(segment: bytes) -> int | None:
    """Which way is up; None where it takes Pillow to tell (it looks into XMP too)."""
    if segment.startswith(b"Exif\0\0"):
        exif = PIL.Image.Exif()
        try:
            exif.load(segment)
            orientation = exif.get(EXIF_ORIENTATION, 1)
        except Exception:  # damaged EXIF costs nothing but the orientation
            return 1
        return orientation if orientation in range(1, 9) else 1
    return None if b"Orientation" in segment else 1


def crop(encoded: bytes, head: Header, box: tuple[int, int, int, int], least: tuple[int, int]) -> Pixels:
    """Part of an image, upright, in RGB; no more of it is decoded than must be.

    Args:
        encoded: The JPEG.
        head: Its header.
        box: Top, left, height and width of the part, of the upright image.
        least: Height and width that the part must keep where it is scaled down.

    Raises:
        ValueError: It cannot be decoded.
    """
    scale = scale_for(box, least)
    if head.orientation > 1:
        return cut(whole(encoded, head, scale), box, scale)
    smaller, (top, left), size = _around(encoded, head, box, scale)
    return cut(_decoded(smaller, *size, scale), (box[0] - top, box[1] - left, *box[2:]), scale)


def scale_for(box: tuple[int, int, int, int], least: tuple[int, int]) -> int:
    """By how much a part may be scaled down and still hold the pixels that it must."""
    return next((by for by in SCALES if box[2] >= by * least[0] and box[3] >= by * least[1]), 1)


def whole(encoded: bytes, head: Header, scale: int) -> Pixels:
    """All of an image, upright, in RGB, scaled down.

    Raises:
        ValueError: It cannot be decoded.
    """
    return _turned(_decoded(encoded, head.height, head.width, scale), head.orientation)


def cut(pixels: Pixels, box: tuple[int, int, int, int], scale: int) -> Pixels:
    """Part of pixels that are scaled down, by its place in what they were."""
    top, left, height, width = box
    up, down, near, far = (round(edge / scale) for edge in (top, top + height, left, left + width))
    return pixels[up : max(down, up + 1), near : max(far, near + 1)]


def _decoded(encoded: bytes | bytearray, height: int, width: int, scale: int) -> Pixels:
    # Not strict: libjpeg warns of the rest that is left unread, and Pillow too passes over its warnings.
    return simplejpeg.decode_jpeg(
        encoded, "RGB", min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale, strict=False
    )


def _around(
    encoded: bytes, head: Header, box: tuple[int, int, int, int], scale: int
) -> tuple[bytes | bytearray, tuple[int, int], tuple[int, int]]:
    """A JPEG that holds a part; where in the whole its top and left are, and its height and width.

    Colour is stored at half the size and interpolated, so a row and a column more on each side are needed.
    """
    whole = encoded, (0, 0), (head.height, head.width)
    if not head.sequential:
        return whole
    more = 2 * scale
    top, left = max(0, box[0] - more), max(0, box[1] - more)
    bottom, right = min(head.height, box[0] + box[2] + more), min(head.width, box[1] + box[3] + more)
    if head.tile is None:
        size = min(head.height, _up(bottom, head.block[0])), head.width
        return whole if size[0] == head.height else (_renamed(encoded, head, size), (0, 0), size)
    height, width = head.tile
    a_row = -(-head.width // width)
    tiles = -(-head.height // height), a_row
    marks = _marks(encoded, head.scan_at)
    if len(marks) != tiles[0] * tiles[1]:  # damaged: whatever it shows is for the decoder to say
        return whole
    starts = np.concatenate([[head.scan_at], marks[:-1] + 2]).reshape(tiles)
    lengths = (marks + 2).reshape(tiles) - starts  # each with the marker that follows it
    kept = (slice(top // height, -(-bottom // height)), slice(left // width, -(-right // width)))
    top, left = top // height * height, left // width * width
    size = min(head.height, _up(bottom, height)) - top, min(head.width, _up(right, width)) - left
    smaller = _renamed(encoded[: head.scan_at], head, size)
    for start, length in zip(starts[kept][:, 0].tolist(), lengths[kept].sum(1).tolist(), strict=True):
        smaller += encoded[start : start + length]
    ends = head.scan_at + np.cumsum(lengths[kept])
    np.frombuffer(smaller, np.uint8)[ends - 1] = (
        0xD0 + np.arange(len(ends)) % 8
    )  # markers count from 0 to 7, over and over
    smaller[-2:] = END
    return smaller, (top, left), size


def _marks(encoded: bytes, start: int) -> Int64[np.ndarray, " marks"]:
    """Where restart markers are, and the image's end."""
    code = np.frombuffer(encoded, np.uint8)
    marks = start + np.flatnonzero(code[start:-1] == 0xFF)
    marks = marks[code[marks + 1] & 0xF8 == 0xD0]
    return np.append(marks, encoded.rfind(END))


def _renamed(encoded: bytes, head: Header, size: tuple[int, int]) -> bytearray:
    smaller = bytearray(encoded)
    smaller[head.size_at : head.size_at + 4] = b"".join(side.to_bytes(2, "big") for side in size)
    return smaller


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels made upright, by EXIF's orientation."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
