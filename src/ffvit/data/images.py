"""Labeled images with random access."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import PIL.Image
from jaxtyping import Int64

from ffvit.errors import FfvitError

Labels = Int64[np.ndarray, " images"]

StoredImage = bytes | PIL.Image.Image
"""An image as it is stored: an encoded file, or pixels (of any mode)."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *("AVIF",) * bool(find_spec("PIL.AvifImagePlugin")))
"""What Pillow may open, whatever a file is called: PostScript, for one, would run a program."""

MAX_FILE_BYTES = 512 * 2**20
"""A file beyond this is no image to train on, and is not read."""

MAX_PIXELS = 100_000_000
"""An image beyond this is not decoded: it would take a process about 1 GiB."""

MAX_ASPECT_RATIO = 100
"""An image that is longer for its width is not decoded: with its shorter side resized, it would be huge."""


class BadImageError(FfvitError):
    """An image cannot be read; `name` says which (path or number), `reason` why, in a few words."""

    code = "E-IMAGE"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both as arguments, so that it survives the way out of a loader's worker
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@runtime_checkable
class Images(Protocol):
    """Images with labels; every process can open any of them at any time."""

    @property
    def labels(self) -> Labels:
        """The class of each image, as its place among the class names."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where a person finds the image: its path, or the data set and its number there."""
        ...

    def read(self, index: int) -> StoredImage:
        """The image as it is stored: an encoded file's bytes, or its pixels where they are held.

        Raises:
            BadImageError: It cannot be read. (That bytes are no image shows only as they are decoded.)
        """
        ...


SPLITS = ("train", "val", "test")
"""The splits that a data source may have, in this order."""

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What folders, lists, tar files and data sets call their splits, and which split each name means."""


class LabeledImages(NamedTuple):
    """Images and the names of the classes that their labels count."""

    images: Images
    classes: tuple[str, ...]


def natural_sort(names: Sequence[str]) -> tuple[tuple[str, ...], Labels]:
    """The different names in natural order (2 before 10, as timm sorts them), and each name's place among them."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        pieces = re.split(r"(\d+)", name)
        return [(int(piece), "") if piece.isdecimal() else (-1, piece.lower()) for piece in pieces], name

    classes = sorted(set(names), key=key)
    place = {name: index for index, name in enumerate(classes)}
    return tuple(classes), np.array([place[name] for name in names], dtype=np.int64)


class FileImages:
    """Image files. The paths are kept as one bytes object: small, and quick to hand to a loader's workers."""

    def __init__(self, folder: Path, paths: Sequence[str], labels: Labels) -> None:
        """Label the files.

        Args:
            folder: Where relative paths begin.
            paths: Relative to the folder, or absolute.
            labels: One a path.
        """
        encoded = [os.fsencode(path) for path in paths]
        self.labels = labels
        self._folder = os.fsencode(folder)
        self._paths = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The path as it was given, relative to the folder or absolute."""
        return os.fsdecode(self._paths[self._ends[index] : self._ends[index + 1]])

    def name(self, index: int) -> str:
        """The path, with the folder."""
        return os.path.join(os.fsdecode(self._folder), self.path(index))  # noqa: PTH118

    def read(self, index: int) -> StoredImage:
        """The file, see `Images.read`."""
        return read_file(self.name(index))


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images held in memory as 8-bit arrays, grey (height, width) or colour (height, width, 3)."""

    source: str
    arrays: Sequence[np.ndarray] | np.ndarray
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The source and the image's number in it."""
        return f"{self.source}[{index}]"

    def read(self, index: int) -> StoredImage:
        """The image, see `Images.read`."""
        return PIL.Image.fromarray(self.arrays[index])


@dataclass(frozen=True, eq=False)
class TimmImages:
    """A data set that timm opened for random access: a Hugging Face data set on disk, or one of torchvision's."""

    source: str
    dataset: Any
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The source and the image's number in it."""
        return f"{self.source}[{index}]"

    def read(self, index: int) -> StoredImage:
        """The image, see `Images.read`."""
        reader = getattr(self.dataset, "reader", None)
        try:
            if reader is None:
                with only_image_formats():
                    return cast("StoredImage", self.dataset[index][0])
            # Not through timm's own data set, which replaces an unreadable image with its neighbour, label and all.
            with reader[index][0] as file:
                return cast("bytes", file.read())
        except BadImageError:
            raise
        except Exception as error:  # a data set's own reader may raise anything
            raise BadImageError(self.name(index), f"cannot be read ({error})") from error


class Subset:
    """Some of the images, in the order of their indices; `labels` renumbers them where that is needed."""

    def __init__(self, images: Images, indices: Labels, labels: Labels | None = None) -> None:
        self.labels: Labels = images.labels[indices] if labels is None else labels
        self.images = images
        self.indices = indices

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The image's name in the whole."""
        return self.images.name(int(self.indices[index]))

    def read(self, index: int) -> StoredImage:
        """The image, see `Images.read`."""
        return self.images.read(int(self.indices[index]))


def without_subsets(images: Images) -> tuple[Images, Labels]:
    """The images under all subsets, and the indices of these images there."""
    indices = np.arange(len(images))
    while isinstance(images, Subset):
        indices, images = images.indices[indices], images.images
    return images, indices


def read_file(path: str | Path) -> bytes:
    """What a file holds.

    Raises:
        BadImageError: It is missing, cannot be read, is no regular file (a pipe would block for ever) or is too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 (half the time of Path.read_bytes)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                reason = "is no regular file"
            elif status.st_size > MAX_FILE_BYTES:
                reason = f"has {status.st_size:,} bytes, and is not read (the limit is {MAX_FILE_BYTES:,})"
            else:
                return file.readall() or b""
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "is no regular file"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except ValueError as error:  # a name with a null byte
        reason = f"cannot be read ({error})"
    raise BadImageError(str(path), reason)


def refused_size(width: int, height: int) -> str | None:
    """Why an image of this size is not decoded, or None if it is; to be called before decoding."""
    most = min(MAX_PIXELS, 2 * (PIL.Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    if width * height > most:
        return f"has more than {most:,} pixels, and is not decoded"
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return f"is {width:,} x {height:,} pixels, and is not decoded (one side is more than {MAX_ASPECT_RATIO} times the other)"
    return None


@contextmanager
def only_image_formats() -> Iterator[None]:
    """Let Pillow open nothing but `FORMATS`, also where libraries call it."""
    original = PIL.Image.open
    PIL.Image.open = partial(original, formats=FORMATS)
    try:
        yield
    finally:
        PIL.Image.open = original
