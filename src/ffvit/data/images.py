"""Labelled images with random access, and the one place where bytes become pixels."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import PIL.Image
from jaxtyping import Int64
from PIL import ImageOps, UnidentifiedImageError

Labels = Int64[np.ndarray, " images"]


class BadImageError(Exception):
    """An image cannot be read; `name` says which (path or number), `reason` why, in a few words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both as arguments, so that it survives the way out of a loader's worker
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@runtime_checkable
class Images(Protocol):
    """Images with labels, any of which can be opened at any time, by any process."""

    @property
    def labels(self) -> Labels:
        """The class of each image, as its place among the class names."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a person would look for to find the image: its path, or the data set and its number there."""
        ...

    def open(self, index: int) -> PIL.Image.Image:
        """The image, upright, in RGB, fully decoded.

        Raises:
            BadImageError: It cannot be read.
        """
        ...


class Labelled(NamedTuple):
    """Images and the names of the classes that their labels count."""

    images: Images
    classes: tuple[str, ...]


def numbered(names: Sequence[str]) -> tuple[tuple[str, ...], Labels]:
    """The different names in natural order (2 before 10, as timm sorts them), and each name's place among them."""
    classes = sorted(set(names), key=lambda name: ([_number_or_word(part) for part in _DIGITS.split(name)], name))
    place = {name: index for index, name in enumerate(classes)}
    return tuple(classes), np.array([place[name] for name in names], dtype=np.int64)


_DIGITS = re.compile(r"(\d+)")


def _number_or_word(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part.lower())


class FileImages:
    """Image files. A million paths are kept as one run of bytes: small, and quick to hand to a loader's workers."""

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

    def name(self, index: int) -> str:
        """The path."""
        path = self._paths[self._ends[index] : self._ends[index + 1]]
        return os.fsdecode(os.path.join(self._folder, path))  # noqa: PTH118  (bytes: a name need not be UTF-8)

    def open(self, index: int) -> PIL.Image.Image:
        """The image, see `Images.open`."""
        return read_image(self.name(index))


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

    def open(self, index: int) -> PIL.Image.Image:
        """The image, see `Images.open`."""
        return as_rgb(PIL.Image.fromarray(self.arrays[index]))


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

    def open(self, index: int) -> PIL.Image.Image:
        """The image, see `Images.open`."""
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            return _decoded(self.name(index), lambda: self.dataset[index][0])
        # Past timm's own dataset, which answers an unreadable image with its neighbour, label and all.
        return _decoded(self.name(index), lambda: _image_in(reader[index][0]))


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

    def open(self, index: int) -> PIL.Image.Image:
        """The image, see `Images.open`."""
        return self.images.open(int(self.indices[index]))


def read_image(path: str | Path) -> PIL.Image.Image:
    """Read an image file: upright, in RGB, fully decoded.

    Raises:
        BadImageError: It is missing, empty, truncated, no image, or beyond Pillow's limit against decompression
            bombs (2 x `PIL.Image.MAX_IMAGE_PIXELS`), which is checked before a pixel is decoded.
    """

    def read() -> PIL.Image.Image:
        with Path(path).open("rb") as file:
            return _image_in(file)

    return _decoded(str(path), read)


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


def _image_in(file: IO[bytes]) -> PIL.Image.Image:
    with file, PIL.Image.open(file) as image:
        image.load()  # first, so that what fails below is the EXIF
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # Damaged EXIF is no reason to do without the pixels
            upright = image.copy()
        return as_rgb(upright)


def _decoded(name: str, read: Any) -> PIL.Image.Image:
    """What `read` returns, in RGB; whatever goes wrong on the way is this one image's fault, and said so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of sizes that are still allowed
            return as_rgb(read())
    except BadImageError:
        raise
    except FileNotFoundError:
        reason = "there is no such file"
    except PIL.Image.DecompressionBombError:
        reason = f"has more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0):,} pixels, and is not decoded"
    except UnidentifiedImageError:
        reason = "is empty, damaged, or no image"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # Pillow's decoders, fed damaged files, raise nearly anything
        reason = f"is damaged ({error})"
    raise BadImageError(name, reason)
