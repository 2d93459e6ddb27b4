"""One shard: images checked, made smaller if that is asked for, and written into a tar file."""

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

_BLOCK = tarfile.BLOCKSIZE
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class EncodedImage(NamedTuple):
    """An image as it is stored in a shard, and its size in pixels as it is seen."""

    encoded: bytes
    suffix: str
    height: int
    width: int


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        max_side: Images with a longer side are made this small, and JPEGs. None: none is.
        quality: Given, every JPEG is encoded again, with this quality. None: only what is made smaller is encoded.
    """

    max_side: int | None = None
    quality: int | None = None

    def encode(self, stored: StoredImage, name: str) -> EncodedImage:
        """An image as it is to be stored; its bytes untouched where nothing asks for a change.

        Raises:
            BadImageError: It cannot be decoded, or it cannot be encoded.
        """
        image = decode(stored, name)
        try:
            return self._encode(stored, image)
        except Exception as error:  # Pillow's encoders; the pixels themselves are good
            raise BadImageError(name, f"cannot be stored ({error})") from error

    def _encode(self, stored: StoredImage, image: PIL.Image.Image) -> EncodedImage:
        longest = max(image.size)
        kind = _format(stored) if isinstance(stored, bytes) else ""
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
        return EncodedImage(encoded, suffix, image.height, image.width)

    def _jpeg(self, image: PIL.Image.Image) -> bytes:
        """The image as a baseline JPEG.

        Restart markers cut it into tiles, 48 pixels wide or a little more where the width allows. They cost 1.4 % of the
        bytes, and let a decoder pass over the tiles that a crop does not touch.
        """
        row = -(-image.width // 16)  # blocks: 4:2:0 codes 16 x 16 pixels together
        tile = next((blocks for blocks in range(3, row) if row % blocks == 0), row)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality or QUALITY, subsampling="4:2:0", restart_marker_blocks=tile)
        return file.getvalue()


def size_in_tar(length: int) -> int:
    """The bytes that an image of so many takes in a shard, with its label and their headers."""
    return 3 * _BLOCK + length + -length % _BLOCK


def pack(
    path: Path,
    file: str,
    images: Images,
    indices: Labels,
    first: int,
    encoding: Encoding,
    base: str,
    on_image: Callable[[BadImageError | None], None],
) -> Shard:
    """Write a shard. Images that cannot be read are left out of it.

    Args:
        path: Where to write it.
        file: What the shard is called.
        images: The images.
        indices: Those of the shard.
        first: The number of the first one; they are numbered on from there, those left out as well.
        encoding: How to store them.
        base: What is not kept of the images' names, where they begin with it.
        on_image: Called after each image, with what is wrong with it.
    """
    records = np.zeros(len(indices), RECORD)
    names = bytearray()
    count = 0
    with path.open("wb") as tar:
        for number, index in enumerate(indices.tolist(), start=first):
            try:
                image = encoding.encode(images.read(index), images.name(index))
            except BadImageError as error:
                on_image(error)
                continue
            label = int(images.labels[index])
            offset = _add(tar, f"{number:08d}.{image.suffix}", image.encoded)
            _add(tar, f"{number:08d}.cls", b"%d" % label)
            names += os.fsencode(images.name(index).removeprefix(base))
            length, checksum = len(image.encoded), zlib.crc32(image.encoded)
            records[count] = (0, offset, length, label, image.height, image.width, checksum, len(names))
            count += 1
            on_image(None)
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE or tarfile.RECORDSIZE))  # zeros end it
        size = tar.tell()
    return Shard(file, size, records[:count], bytes(names))


def _add(tar: io.BufferedWriter, name: str, content: bytes) -> int:
    """Add a file to a tar, and return where its first byte is. Its owner and time are always the same."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(content + bytes(-len(content) % _BLOCK))
    return offset


def _format(encoded: bytes) -> str:
    """The format of an image, by its bytes and not by its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return image.format or ""


def _png(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
