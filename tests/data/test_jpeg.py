from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps
from sklearn.datasets import load_sample_images

from ffvit.data import jpeg

CHINA = PIL.Image.fromarray(load_sample_images().images[0])
NO_LESS = (10_000, 10_000)


def encoded(size=(150, 110), quality=90, **options) -> bytes:
    file = io.BytesIO()
    CHINA.resize(size).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


WAYS = st.sampled_from(
    [
        {},
        {"progressive": True},
        *({"restart_marker_rows": rows} for rows in (1, 2)),
        *({"restart_marker_blocks": blocks} for blocks in (1, 2, 3, 7)),
    ]
)


def part_of(file: bytes, box: jpeg.Box, least: tuple[int, int]) -> jpeg.Pixels:
    scale = jpeg.scale_for(box, least)
    return jpeg.cut(jpeg.decode_scaled(file, jpeg.header(file), scale), box, scale)


@settings(max_examples=150)
@given(WAYS, st.sampled_from([0, 1, 2]), st.integers(3, 130), st.integers(3, 130), st.data())
def test_pixels_at_full_scale_are_pillows_to_the_bit(way, subsampling, width, height, data):
    file = encoded((width, height), subsampling=subsampling, **way)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    down, across = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    head = jpeg.header(file)
    assert (head.height, head.width) == (height, width)
    whole = np.asarray(PIL.Image.open(io.BytesIO(file)))
    part = part_of(file, (top, left, down, across), NO_LESS)
    np.testing.assert_array_equal(part, whole[top : top + down, left : left + across])


@pytest.mark.parametrize("way", [{}, {"restart_marker_rows": 1}, {"progressive": True}])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_scaled_part_shows_what_the_whole_shows_there(way, scale):
    file = encoded((640, 480), **way)
    part = part_of(file, (96, 160, 320, 400), (320 // scale, 400 // scale))
    assert part.shape == (320 // scale, 400 // scale, 3)
    whole = CHINA.resize((640, 480)).crop((160, 96, 560, 416)).resize(part.shape[1::-1], PIL.Image.Resampling.BOX)
    assert np.abs(part.astype(int) - np.asarray(whole)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_are_upright(orientation):
    exif = PIL.Image.Exif()
    exif[jpeg.EXIF_ORIENTATION] = orientation
    file = encoded(exif=exif)
    whole = np.asarray(ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file))))
    part = part_of(file, (20, 30, 40, 50), NO_LESS)
    np.testing.assert_array_equal(part, whole[20:60, 30:80])


def test_grey_comes_in_colour():
    file = io.BytesIO()
    CHINA.convert("L").save(file, "JPEG")
    part = part_of(file.getvalue(), (0, 0, 9, 9), NO_LESS)
    assert part.shape == (9, 9, 3)
    assert (part[..., 0] == part[..., 2]).all()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 20, 300, 600])
def test_what_is_cut_short_is_for_pillow(length):
    assert jpeg.header(encoded()[:length]) is None


def test_a_thumbnail_does_not_stand_in_for_the_end_of_an_image_cut_short():
    exif = PIL.Image.Exif()
    exif[0x9286] = encoded((16, 12))  # a JPEG in the header, with an end of its own
    whole = encoded(exif=exif)
    assert jpeg.header(whole) is not None
    assert whole.find(jpeg.EOI) < whole.rfind(jpeg.SOS)
    assert jpeg.header(whole[: len(whole) // 2]) is None


def test_what_else_is_for_pillow(monkeypatch):
    ink = io.BytesIO()
    PIL.Image.new("CMYK", (9, 9)).save(ink, "JPEG")
    assert jpeg.header(ink.getvalue()) is None
    assert jpeg.header(b"\x89PNG\r\n\x1a\n") is None
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 150 * 110 // 2 - 1)
    assert jpeg.header(encoded()) is None


@given(st.data())
def test_damage_raises_nothing_but_value_errors(data):
    file = bytearray(encoded((64, 48), **data.draw(WAYS)))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(2, len(file) - 1))] = data.draw(st.integers(0, 255))
    head = jpeg.header(bytes(file))
    if head is not None and head.height * head.width < 10**6:
        with suppress(ValueError):
            assert jpeg.decode_scaled(bytes(file), head, 1).shape == (*head.size, 3)
