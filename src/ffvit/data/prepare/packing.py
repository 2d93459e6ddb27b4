"""One shard: images checked, made small if that is asked for, and written into a tar file."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from ffvit.data.decode import decode
from ffvit.data.images import FORMATS, BadImageError, Images, Labels, StoredImage
from ffvit.data.shards.index import RECORD, Shard

QUALITY = 90
MOST_PIXELS = 65_500
"""The longest side that a JPEG can have."""

_BLOCK = 512
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Packed(NamedTuple):
    """An image as it goes into a shard, and its size in pixels as it is seen."""

    encoded: bytes
    suffix: str
    height: int
    width: int


@dataclass(frozen=True)
class Form:
    """What images are made into.

    Attributes:
        max_side: Images with a longer side are made this small, and JPEGs. None: none is.
        quality: Given, every JPEG is encoded anew, with this quality. None: only what is made smaller is encoded.
    """

    max_side: int | None = None
    quality: int | None = None

    def applied(self, stored: StoredImage, name: str) -> Packed:
        """An image in this form; its bytes untouched where nothing asks for a change.

        Raises:
            BadImageError: It cannot be decoded, or it cannot be encoded.
        """
        image = decode(stored, name)
        try:
            return self._packed(stored, image)
        except Exception as error:  # Pillow's encoders; the pixels themselves are good
            raise BadImageError(name, f"cannot be stored ({error})") from error

    def _packed(self, stored: StoredImage, image: PIL.Image.Image) -> Packed:
        longest = max(image.size)
        kind = _kind(stored) if isinstance(stored, bytes) else ""
        if self.max_side is not None and longest > self.max_side:
            width, height = (max(1, round(side * self.max_side / longest)) for side in image.size)
            image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)  # antialiased, as always in Pillow
            encoded, suffix = self._jpeg(image), "jpg"
        elif self.quality is not None and kind in ("JPEG", "MPO"):
            encoded, suffix = self._jpeg(image), "jpg"
        elif isinstance(stored, bytes):
            encoded, suffix = stored, _SUFFIXES.get(kind, kind.lower())
        else:
            encoded, suffix = _png(stored if stored.mode in _PNG_MODES else image), "png"
        return Packed(encoded, suffix, image.height, image.width)

    def _jpeg(self, image: PIL.Image.Image) -> bytes:
        """The image as a baseline JPEG.

        Restart markers cut it into tiles, 48 pixels wide or a little more where the width allows. They cost 1.4 % of the
        bytes, and let a decoder pass over the tiles that a crop does not touch.
        """
        a_row = -(-image.width // 16)  # blocks: 4:2:0 codes 16 x 16 pixels together
        tile = next((blocks for blocks in range(3, a_row) if a_row % blocks == 0), a_row)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality or QUALITY, subsampling="4:2:0", restart_marker_blocks=tile)
        return file.getvalue()


def room(length: int) -> int:
    """The bytes that an image of so many takes in a shard, with its label and their headers."""
    return 3 * _BLOCK + _padded(length)


def pack(
    path: Path,
    file: str,
    images: Images,
    indices: Labels,
    first: int,
    form: Form,
    base: str,
    seen: Callable[[BadImageError | None], None],
) -> Shard:
    """Write a shard. Images that cannot be read are left out of it.

    Args:
        path: Where to write it.
        file: What the shard is called.
        images: The images.
        indices: Those that belong into the shard.
        first: The number of the first one; they are numbered on from there, those left out as well.
        form: What they are made into.
        base: What is not kept of the images' names, where they begin with it.
        seen: Called for each image, with what is wrong with it.
    """
    records = np.zeros(len(indices), RECORD)
    names = bytearray()
    count = 0
    with path.open("wb") as tar:
        for number, index in enumerate(indices.tolist(), start=first):
            try:
                packed = form.applied(images.read(index), images.name(index))
            except BadImageError as error:
                seen(error)
                continue
            label = int(images.labels[index])
            offset = _add(tar, f"{number:08d}.{packed.suffix}", packed.encoded)
            _add(tar, f"{number:08d}.cls", b"%d" % label)
            names += os.fsencode(images.name(index).removeprefix(base))
            checksum = zlib.crc32(packed.encoded)
            records[count] = (
                *(0, offset, len(packed.encoded), label),
                *(packed.height, packed.width, checksum, len(names)),
            )
            count += 1
            seen(None)
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE or tarfile.RECORDSIZE))  # at least two blocks of zeros end it
        size = tar.tell()
    return Shard(file, size, records[:count], bytes(names))


def _add(tar: io.BufferedWriter, name: str, content: bytes) -> int:
    """Add a file to a tar; where its first byte lies. Its owner and time are always the same."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(content)
    tar.write(bytes(_padded(len(content)) - len(content)))
    return offset


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _kind(encoded: bytes) -> str:
    """The format of an image, by its bytes and not by its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return image.format or ""


def _png(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
