"""Decoding of JPEGs for a crop: at the smallest scale that holds it, and no further down than it reaches.

Most of the time goes into the entropy code, which can only be read from its beginning: a decoder saves what lies below
a crop, but not what lies above or beside it. Where restart markers cut a JPEG into tiles (`ffvit prepare` writes such),
only the tiles that a crop touches are decoded. For both the decoder is given a smaller JPEG, whose header names fewer
rows and columns. docs/data.md says what this gains.

Pixels are those of a full decoding, to the bit, unless the scale is below 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import PIL.Image
import simplejpeg
from jaxtyping import Int64, UInt8

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
        blocks_in_row = -(-self.width // width)
        if self.interval and self.interval % blocks_in_row == 0:
            return self.interval // blocks_in_row * height, blocks_in_row * width
        if self.interval and blocks_in_row % self.interval == 0:
            return height, self.interval * width
        return None


def header(encoded: bytes) -> Header | None:
    """The header of a JPEG that this module can decode; None for all that is left to Pillow.

    Pillow decodes other formats, CMYK, more than 8 bits and rare codings, and says what is wrong with images that are
    cut short, of a refused size, or of very many scans.
    """
    try:
        head = _parse(encoded)
    except IndexError:  # it ends within its header
        return None
    if head is None or encoded.rfind(EOI, head.scan_at) < 0 or refused_size(head.width, head.height):
        return None
    return head if head.sequential or encoded.count(SOS) <= MAX_SCANS else None


def _segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment up to the first scan's; ends early at what no common encoder writes."""
    at = 2
    while encoded[at] == 0xFF and encoded[at + 1] != 0xFF:  # fill bytes are allowed, and rare
        marker, end = encoded[at + 1], at + 2 + _short(encoded, at + 2)
        yield marker, at + 4, end
        if marker == SOS[1]:
            return
        at = end


def _parse(encoded: bytes) -> Header | None:
    if encoded[:2] != SOI:
        return None
    orientation, interval, components, block = 1, 0, 0, (8, 8)
    height = width = size_at = 0
    sequential = False
    for marker, at, end in _segments(encoded):
        if marker in (0xC0, 0xC1, 0xC2):  # frame: baseline, extended or progressive
            components, size_at, sequential = encoded[at + 5], at + 1, marker != 0xC2
            height, width = _short(encoded, at + 1), _short(encoded, at + 3)
            factors = [encoded[at + 7 + 3 * component] for component in range(components)]
            if encoded[at] != 8 or components not in (1, 3):
                return None
            if not all(1 <= side <= 4 for factor in factors for side in (factor & 15, factor >> 4)):
                return None
            if components > 1:  # a lone component's blocks are 8 x 8, whatever its factors say
                block = 8 * max(factor & 15 for factor in factors), 8 * max(factor >> 4 for factor in factors)
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8):  # lossless, arithmetic and other rare codings
            return None
        elif marker == 0xDD:
            interval = _short(encoded, at)
        elif marker == 0xE1:
            turned = _orientation(encoded[at:end])
            if turned is None:
                return None
            orientation = turned if turned > 1 else orientation
        elif marker == SOS[1] and height and width:
            one_scan = sequential and encoded[at] == components
            return Header(height, width, orientation, one_scan, block, interval, size_at, end)
    return None


def _short(encoded: bytes, at: int) -> int:
    return encoded[at] << 8 | encoded[at + 1]


def _orientation(segment: bytes) -> int | None:
    """EXIF's orientation; None where it takes Pillow to tell (it looks into XMP too)."""
    if not segment.startswith(b"Exif\0\0"):
        return None if b"Orientation" in segment else 1
    exif = PIL.Image.Exif()
    try:
        exif.load(segment)
        orientation = exif.get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF costs nothing but the orientation
        return 1
    return orientation if orientation in range(1, 9) else 1


def crop(encoded: bytes, head: Header, box: Box, least: tuple[int, int]) -> Pixels:
    """Part of an image, upright, in RGB; no more of it is decoded than necessary.

    Args:
        encoded: The JPEG.
        head: Its header.
        box: The part, of the upright image.
        least: Height and width that the part must keep where it is scaled down.

    Raises:
        ValueError: It cannot be decoded.
    """
    scale = scale_for(box, least)
    if head.orientation > 1 or not head.sequential:
        return cut(whole(encoded, head, scale), box, scale)
    smaller, (top, left, height, width) = _reduced(encoded, head, box, scale)
    return cut(_decode(smaller, height, width, scale), (box[0] - top, box[1] - left, *box[2:]), scale)


def scale_for(box: Box, least: tuple[int, int]) -> int:
    """By how much a part may be scaled down and still hold the pixels that it must."""
    return next((by for by in SCALES if box[2] >= by * least[0] and box[3] >= by * least[1]), 1)


def whole(encoded: bytes, head: Header, scale: int) -> Pixels:
    """All of an image, upright, in RGB, scaled down.

    Raises:
        ValueError: It cannot be decoded.
    """
    pixels = _decode(encoded, head.height, head.width, scale)
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


def _decode(encoded: bytes | bytearray, height: int, width: int, scale: int) -> Pixels:
    # Not strict: libjpeg warns of the rest that is left unread, and Pillow too passes over its warnings.
    return simplejpeg.decode_jpeg(
        encoded, "RGB", min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale, strict=False
    )


def _reduced(encoded: bytes, head: Header, box: Box, scale: int) -> tuple[bytes | bytearray, Box]:
    """A sequential JPEG that holds a part of another one, and where in that it lies.

    Colour is stored at half the size and interpolated, so a row and a column more on each side are needed.
    """
    all_of_it = encoded, (0, 0, head.height, head.width)
    top, left = max(0, box[0] - 2 * scale), max(0, box[1] - 2 * scale)
    bottom, right = (
        min(head.height, box[0] + box[2] + 2 * scale),
        min(head.width, box[1] + box[3] + 2 * scale),
    )
    if head.tile is None:
        rows = min(head.height, _round_up(bottom, head.block[0]))
        if rows == head.height:
            return all_of_it
        return _resized(encoded, head, rows, head.width), (0, 0, rows, head.width)
    height, width = head.tile
    tiles = -(-head.height // height), -(-head.width // width)
    marks = _restart_markers(encoded, head.scan_at)
    if len(marks) != tiles[0] * tiles[1]:  # damaged: the decoder shall say how
        return all_of_it
    starts = np.concatenate([[head.scan_at], marks[:-1] + 2]).reshape(tiles)
    lengths = (marks + 2).reshape(tiles) - starts  # each with the marker that follows it
    kept = (slice(top // height, -(-bottom // height)), slice(left // width, -(-right // width)))
    top, left = top // height * height, left // width * width
    rows, columns = min(head.height, _round_up(bottom, height)) - top, min(head.width, _round_up(right, width)) - left
    smaller = _resized(encoded[: head.scan_at], head, rows, columns)
    for start, length in zip(starts[kept][:, 0].tolist(), lengths[kept].sum(1).tolist(), strict=True):
        smaller += encoded[start : start + length]
    ends = head.scan_at + np.cumsum(lengths[kept])
    # Markers count from 0 to 7, over and over.
    np.frombuffer(smaller, np.uint8)[ends - 1] = 0xD0 + np.arange(len(ends)) % 8
    smaller[-2:] = EOI
    return smaller, (top, left, rows, columns)


def _restart_markers(encoded: bytes, start: int) -> Int64[np.ndarray, " marks"]:
    """Where the restart markers are, and the image's end."""
    code = np.frombuffer(encoded, np.uint8)
    marks = start + np.flatnonzero(code[start:-1] == 0xFF)
    marks = marks[code[marks + 1] & 0xF8 == 0xD0]
    return np.append(marks, encoded.rfind(EOI))


def _resized(encoded: bytes, head: Header, height: int, width: int) -> bytearray:
    """The same with another height and width in its header."""
    smaller = bytearray(encoded)
    smaller[head.size_at : head.size_at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return smaller


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
