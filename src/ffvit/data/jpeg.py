"""JPEGs read fast: at the smallest scale that holds a crop, and no further down than the crop reaches.

Most of the time goes into the entropy code, which can only be read from its beginning: a decoder saves what lies below
a crop, but not what lies above or beside it. Where a JPEG has a restart marker every row of blocks (`ffvit prepare`
writes such), the rows above are left out too. Both is done by handing the decoder a shorter JPEG: one whose header names
fewer rows.

Pixels are those of a full decoding, to the bit, unless the scale is below 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import PIL.Image
import simplejpeg
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "_height _width _channels"]

EXIF_ORIENTATION = 0x0112
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
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
        block_rows: Pixel rows of a row of blocks.
        restart_rows: Rows of blocks between restart markers. 0: there are none, or not at the ends of rows.
        height_at: Where the header has the height.
        scan_at: Where the entropy code begins.
    """

    height: int
    width: int
    orientation: int
    sequential: bool
    block_rows: int
    restart_rows: int
    height_at: int
    scan_at: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def header(encoded: bytes) -> Header | None:
    """The header of a JPEG that this file can decode; None for all that is for Pillow.

    Pillow's are: other formats, CMYK, more than 8 bits, the rare codings, images cut short, and those beyond Pillow's
    limit against decompression bombs, which it will refuse.
    """
    try:
        found = _parsed(encoded)
    except IndexError:  # it ends within its header
        return None
    if found is None or encoded.rfind(b"\xff\xd9", found.scan_at) < 0:
        return None
    return found if found.height * found.width <= 2 * (PIL.Image.MAX_IMAGE_PIXELS or np.inf) else None


def _parsed(encoded: bytes) -> Header | None:
    if encoded[:2] != b"\xff\xd8":
        return None
    at, orientation, interval = 2, 1, 0
    height = width = height_at = components = block_rows = block_columns = 0
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
            height_at, sequential = body + 1, marker != 0xC2
            height = encoded[body + 1] << 8 | encoded[body + 2]
            width = encoded[body + 3] << 8 | encoded[body + 4]
            factors = [encoded[body + 7 + 3 * component] for component in range(components)]
            alone = components == 1  # a lone component's blocks are 8 x 8, whatever its factors say
            block_columns = 8 * (1 if alone else max(factor >> 4 for factor in factors))
            block_rows = 8 * (1 if alone else max(factor & 15 for factor in factors))
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
            a_row = -(-width // block_columns)
            restart_rows = interval // a_row if whole and interval % a_row == 0 else 0
            return Header(
                height, width, orientation, sequential and whole, block_rows, restart_rows, height_at, at + 2 + length
            )
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
    top, left, height, width = box
    shorter, first, rows = _rows(encoded, head, top, top + height, scale)
    return cut(_decoded(shorter, rows, head.width, scale), (top - first, left, height, width), scale)


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


def _rows(encoded: bytes, head: Header, top: int, bottom: int, scale: int) -> tuple[bytes | bytearray, int, int]:
    """A JPEG of the rows from `top` to before `bottom`, which of the whole its first row is, and how many it has.

    Colour is stored at half the height and interpolated between rows, so a row more on each side is needed.
    """
    if not head.sequential:
        return encoded, 0, head.height
    more = 2 * scale
    end = min(head.height, _up(bottom + more, head.block_rows))
    step = head.restart_rows * head.block_rows
    if not step:
        return (_renamed(encoded, head, head.height - end), 0, end) if end < head.height else (encoded, 0, end)
    begin = max(0, (top - more) // step * step)
    end = min(head.height, _up(end, step))
    marks = [found.start() for found in RESTART.finditer(encoded, head.scan_at)]
    if len(marks) != -(-head.height // step) - 1:  # damaged: whatever it shows is for the decoder to say
        return encoded, 0, head.height
    first, last = begin // step, -(-end // step)
    start = marks[first - 1] + 2 if first else head.scan_at
    stop = marks[last - 1] if last - 1 < len(marks) else len(encoded)
    shorter = bytearray(encoded[: head.scan_at])
    shorter[head.height_at : head.height_at + 2] = (end - begin).to_bytes(2, "big")
    shorter += encoded[start:stop]
    offset = head.scan_at - start
    for number, mark in enumerate(marks[first : last - 1]):  # they count from 0 to 7, over and over
        shorter[mark + offset + 1] = 0xD0 + number % 8
    shorter += b"\xff\xd9"
    return shorter, begin, end - begin


def _renamed(encoded: bytes, head: Header, fewer: int) -> bytearray:
    shorter = bytearray(encoded)
    shorter[head.height_at : head.height_at + 2] = (head.height - fewer).to_bytes(2, "big")
    return shorter


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
