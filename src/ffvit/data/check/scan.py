"""What there is to know of each image before training on it, found by opening every one once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from enum import IntFlag
from typing import Generic, TypeVar

import numpy as np
import PIL.Image
from jaxtyping import Float32, Int64
from torch.utils.data import Dataset

from ffvit.data.check.perceptual_hash import perceptual_hash
from ffvit.data.decode import decode
from ffvit.data.images import FORMATS, BadImageError, Images, StoredImage
from ffvit.data.worker_loader import WorkerLoader
from ffvit.errors import OutOfMemoryError
from ffvit.hardware.devices import available_cores

SMALLEST_TO_COMPARE = 32
"""Shorter side in pixels, below which small images that look alike need not be copies of each other."""

THUMBNAIL = 16
"""Side of the grey thumbnail that confirms that two images look alike."""

Found = TypeVar("Found")

_FEW = 32  # images, which this process opens sooner than others would start
_AT_ONCE = 8  # images that a process is given: after Ctrl-C it finishes them
_ORIENTATION = 0x0112


class Trait(IntFlag):
    """What an image may be, by itself."""

    BROKEN = 1
    BLANK = 2
    GREY = 4
    CMYK = 8
    TRANSPARENT = 16
    PALETTE = 32
    DEEP = 64
    ANIMATED = 128
    TURNED = 256
    PROGRESSIVE = 512
    COMPARABLE = 1024


LOOK = np.dtype(
    [
        ("width", np.uint32),
        ("height", np.uint32),
        ("size", np.int64),  # of the file in bytes
        ("traits", np.uint16),
        ("digest", np.uint64, 2),
        ("hash", np.uint64, 2),
    ]
)
"""What is kept of an image: 50 bytes."""


def scan_images(images: Images) -> Iterator[np.ndarray | str]:
    """A look at every image in order, as `LOOK`; of a broken one, the reason."""
    return _by_workers(images, np.arange(len(images)), _look)


def thumbnails(images: Images, indices: Int64[np.ndarray, " some"]) -> Iterator[np.ndarray | str]:
    """Grey thumbnails of some images in order, centred and of length 1 as vectors; of a broken one, the reason."""
    return _by_workers(images, indices, _thumbnail)


def _look(images: Images, index: int) -> np.ndarray:
    stored = images.read(index)
    image = decode(stored, images.name(index))
    encoded = stored if isinstance(stored, bytes) else repr((stored.mode, stored.size)).encode() + stored.tobytes()
    look = np.zeros((), LOOK)
    traits = _as_stored(stored)
    pixels = np.asarray(image)
    if _is_blank(pixels):
        traits |= Trait.BLANK
    if _is_grey(pixels):
        traits |= Trait.GREY
    if min(image.size) >= SMALLEST_TO_COMPARE and (seen := perceptual_hash(image)) is not None:
        traits |= Trait.COMPARABLE
        look["hash"] = seen
    look["width"], look["height"] = image.size
    look["size"] = len(stored) if isinstance(stored, bytes) else 0
    look["traits"] = traits
    look["digest"] = np.frombuffer(hashlib.blake2b(encoded, digest_size=16).digest(), np.uint64)
    return look


def _as_stored(stored: StoredImage) -> Trait:
    """What shows of an image before its pixels are decoded; damaged metadata shows nothing."""
    traits = Trait(0)
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        image = PIL.Image.open(io.BytesIO(stored), formats=FORMATS) if isinstance(stored, bytes) else stored
        shown = {
            Trait.CMYK: image.mode == "CMYK",
            Trait.TRANSPARENT: image.has_transparency_data
            and bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any()),
            Trait.PALETTE: image.mode == "P",
            Trait.DEEP: image.mode in ("I", "F") or image.mode.startswith("I;16"),
            Trait.PROGRESSIVE: "progressive" in image.info,
            Trait.ANIMATED: getattr(image, "is_animated", False),
        }
        for trait in (trait for trait, is_so in shown.items() if is_so):
            traits |= trait
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            traits |= Trait.TURNED
    return traits


def _is_blank(pixels: np.ndarray) -> bool:
    return all((each == pixels[0, 0]).all() for each in (pixels[::8, ::8], pixels))  # some tell, for nearly all


def _is_grey(pixels: np.ndarray) -> bool:
    return all((each[..., :1] == each[..., 1:]).all() for each in (pixels[::8, ::8], pixels))


def _thumbnail(images: Images, index: int) -> Float32[np.ndarray, " pixels"]:
    image = decode(images.read(index), images.name(index)).convert("L")
    pixels = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BOX), dtype=np.float32).ravel()
    pixels = pixels - pixels.mean()
    return pixels / max(float(np.linalg.norm(pixels)), 1e-6)


class _Each(Dataset[Found | str], Generic[Found]):
    """What a function finds of each image, or why it cannot be read."""

    def __init__(
        self, images: Images, indices: Int64[np.ndarray, " some"], find: Callable[[Images, int], Found]
    ) -> None:
        self.images = images
        self.indices = indices
        self.find = find

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Found | str:
        try:
            return self.find(self.images, int(self.indices[place]))
        except BadImageError as error:
            return error.reason


def _by_workers(
    images: Images, indices: Int64[np.ndarray, " some"], find: Callable[[Images, int], Found]
) -> Iterator[Found | str]:
    """What is found of each image, in order, by a process on every core; of a few images, by this one."""
    loader: WorkerLoader[list[Found | str]] = WorkerLoader(
        _Each(images, indices, find),
        batch_size=_AT_ONCE,
        collate_fn=list,
        num_workers=available_cores() if len(indices) > _FEW else 0,
    )
    try:
        for found in loader:
            yield from found
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OutOfMemoryError(
            "a process that opens images was killed, most likely for memory (one image of very many pixels is enough): "
            "leave more memory free, and check again"
        ) from error
