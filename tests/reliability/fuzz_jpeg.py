"""Fuzzes the reader of JPEGs."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import PIL.Image

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.data.jpeg"]):
        import ffvit.data.jpeg  # noqa: F401

from fuzzing import fuzz

from ffvit.data import jpeg
from ffvit.data.images import MAX_PIXELS


def target(data: bytes) -> None:
    head = jpeg.header(data)
    if head is None:
        return
    height, width = head.size
    assert 0 < height * width <= MAX_PIXELS
    if height * width > 2**16:
        return
    draw = np.random.default_rng(len(data))
    top, left = int(draw.integers(height)), int(draw.integers(width))
    box = top, left, int(draw.integers(1, height - top + 1)), int(draw.integers(1, width - left + 1))
    for least in ((2**31, 2**31), (1, 1)):
        with contextlib.suppress(ValueError):
            scale = jpeg.scale_for(box, least)
            pixels = jpeg.cut(jpeg.decode_scaled(data, head, scale), box, scale)
            assert pixels.ndim == 3
            assert min(pixels.shape) > 0


def seeds() -> list[bytes]:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    made = []
    for options in (
        {},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1, "subsampling": "4:2:0"},
        {"exif": exif, "subsampling": "4:4:4"},
    ):
        for image in (noise, noise.convert("L"), noise.convert("CMYK")):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=30, **options)
            made.append(file.getvalue())
    return made


if __name__ == "__main__":
    fuzz(target, seeds)
