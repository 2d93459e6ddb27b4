"""What is known of each image before training on it, found by opening every one once."""

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
from ffvit.data.jpeg import EXIF_ORIENTATION
from ffvit.data.worker_loader import WorkerLoader
from ffvit.errors import OutOfMemoryError
from ffvit.hardware.devices import available_cores

SMALLEST_TO_COMPARE = 32
"""Shorter side in pixels, below which small images that look alike need not be duplicates."""

THUMBNAIL = 16
"""Side of the grey thumbnail that confirms that two images look alike."""

Result = TypeVar("Result")

_FEW = 32  # images, which this process opens sooner than others would start
_AT_ONCE = 8  # images that a process is given: after Ctrl-C it finishes them


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


RECORD = np.dtype(
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
    """A `RECORD` of every image in order; of a broken one, the reason."""
    return _by_workers(images, np.arange(len(images)), _scan_image)


def thumbnails(images: Images, indices: Int64[np.ndarray, " some"]) -> Iterator[np.ndarray | str]:
    """Grey thumbnails of some images in order, centred and of length 1 as vectors; of a broken one, the reason."""
    return _by_workers(images, indices, _thumbnail)


def _scan_image(images: Images, index: int) -> np.ndarray:
    stored = images.read(index)
    image = decode(stored, images.name(index))
    pixels = np.asarray(image)
    traits = _stored_traits(stored)
    # Some pixels tell for nearly all images.
    if all((some == pixels[0, 0]).all() for some in (pixels[::8, ::8], pixels)):
        traits |= Trait.BLANK
    if all((some[..., :1] == some[..., 1:]).all() for some in (pixels[::8, ::8], pixels)):
        traits |= Trait.GREY
    record = np.zeros((), RECORD)
    if min(image.size) >= SMALLEST_TO_COMPARE and (bits := perceptual_hash(image)) is not None:
        traits |= Trait.COMPARABLE
        record["hash"] = bits
    encoded = stored if isinstance(stored, bytes) else repr((stored.mode, stored.size)).encode() + stored.tobytes()
    record["width"], record["height"] = image.size
    record["size"] = len(stored) if isinstance(stored, bytes) else 0
    record["traits"] = traits
    record["digest"] = np.frombuffer(hashlib.blake2b(encoded, digest_size=16).digest(), np.uint64)
    return record


def _stored_traits(stored: StoredImage) -> Trait:
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
        for trait in (trait for trait, applies in shown.items() if applies):
            traits |= trait
        if image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9):
            traits |= Trait.TURNED
    return traits


def _thumbnail(images: Images, index: int) -> Float32[np.ndarray, " pixels"]:
    image = decode(images.read(index), images.name(index)).convert("L")
    pixels = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BOX), dtype=np.float32).ravel()
    pixels = pixels - pixels.mean()
    return pixels / max(float(np.linalg.norm(pixels)), 1e-6)


class _Results(Dataset[Result | str], Generic[Result]):
    """The result of a function for each image, or why the image cannot be read."""

    def __init__(
        self, images: Images, indices: Int64[np.ndarray, " some"], function: Callable[[Images, int], Result]
    ) -> None:
        self.images, self.indices, self.function = images, indices, function

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Result | str:
        try:
            return self.function(self.images, int(self.indices[place]))
        except BadImageError as error:
            return error.reason


def _by_workers(
    images: Images, indices: Int64[np.ndarray, " some"], function: Callable[[Images, int], Result]
) -> Iterator[Result | str]:
    """The result for each image in order, by a process on every core; for few images, by this one."""
    loader: WorkerLoader[list[Result | str]] = WorkerLoader(
        _Results(images, indices, function),
        batch_size=_AT_ONCE,
        collate_fn=list,
        num_workers=available_cores() if len(indices) > _FEW else 0,
    )
    try:
        for results in loader:
            yield from results
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OutOfMemoryError(
            "a process that opens images was killed, most likely for memory (one image of very many pixels is enough): "
            "leave more memory free, and check again"
        ) from error
