"""Photographs to time the reading of: crops of the two that scikit-learn ships, 500 x 375 pixels and 90 to 130 KB each, as ImageNet's are on average."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = 500, 375
BYTES = 90_000, 130_000
CLASSES = 5


def write_photographs(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` JPEGs into class folders; crops, scales and mirror images are drawn."""
    draws = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(count):
        photo = photos[number % len(photos)]
        width = draws.uniform(0.75, 0.88) * photo.width
        height = width * SIZE[1] / SIZE[0]
        left, top = draws.uniform(0, photo.width - width), draws.uniform(0, photo.height - height)
        cut = photo.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        if draws.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = folder / f"class{number % CLASSES}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(cut))


def _encoded(photo: Image.Image) -> bytes:
    """At the quality that makes a file of the size wanted."""
    for quality, subsampling in ((quality, how) for how in (2, 0) for quality in range(90, 101)):
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=quality, subsampling=subsampling)
        if BYTES[0] <= file.tell() <= BYTES[1]:
            return file.getvalue()
    raise RuntimeError("no quality makes a file of this size")
