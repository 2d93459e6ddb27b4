from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageOps

from ffvit.data.decode import decode, to_rgb
from ffvit.data.images import BadImageError, read_file


def read_image(path: Path) -> PIL.Image.Image:
    return decode(read_file(path), str(path))


def save(path, image: PIL.Image.Image, **options):
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixel."""
    size = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [size, b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


@pytest.fixture
def quadrants() -> PIL.Image.Image:
    """Red above left, green above right, blue below left, white below right; wider than high."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16, 0] = pixels[:8, 16:, 1] = pixels[8:, :16, 2] = pixels[8:, 16:] = 255
    return PIL.Image.fromarray(pixels)


class TestReadImage:
    def test_a_photograph_is_decoded_as_pillow_does(self, photos):
        path = next(photos.glob("val/dahlia/*.jpg"))
        np.testing.assert_array_equal(read_image(path), PIL.Image.open(path))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_is_upright_whatever_the_camera_noted(self, tmp_path, quadrants, orientation):
        turned = {
            2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
            3: PIL.Image.Transpose.ROTATE_180,
            4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
            5: PIL.Image.Transpose.TRANSPOSE,
            6: PIL.Image.Transpose.ROTATE_90,
            7: PIL.Image.Transpose.TRANSVERSE,
            8: PIL.Image.Transpose.ROTATE_270,
        }
        stored = quadrants.transpose(turned[orientation]) if orientation > 1 else quadrants
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "turned.png", stored, exif=exif)
        np.testing.assert_array_equal(read_image(path), quadrants)

    def test_damaged_exif_costs_nothing_but_the_orientation(self, tmp_path, quadrants):
        path = save(tmp_path / "a.jpg", quadrants, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
        assert read_image(path).size == quadrants.size

    @pytest.mark.parametrize(
        ("contents", "reason"),
        [
            (b"", "is empty, damaged, or no image"),
            (b"<svg/>", "is empty, damaged, or no image"),
            (png_header(30_000, 20_000), "has more than 100,000,000 pixels, and is not decoded"),
            (png_header(3, 3), "cannot be read"),
        ],
        ids=["empty", "no image", "bomb", "header only"],
    )
    def test_what_is_wrong_is_said(self, tmp_path, contents, reason):
        path = tmp_path / "bad.png"
        path.write_bytes(contents)
        with pytest.raises(BadImageError) as caught:
            read_image(path)
        assert caught.value.name == str(path)
        assert caught.value.reason.startswith(reason)

    def test_truncated(self, photos, tmp_path):
        whole = next(photos.glob("val/dahlia/*.jpg")).read_bytes()
        path = tmp_path / "half.jpg"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadImageError, match=r"cannot be read .*truncated"):
            read_image(path)

    def test_missing(self, tmp_path):
        with pytest.raises(BadImageError, match=r"gone\.jpg: there is no such file"):
            read_image(tmp_path / "gone.jpg")

    def test_a_large_image_within_the_limit_is_read_without_a_warning(self, tmp_path, monkeypatch, quadrants):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 300)
        assert read_image(save(tmp_path / "large.png", quadrants)).size == (32, 16)
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 200)
        with pytest.raises(BadImageError, match="more than 400 pixels"):
            read_image(tmp_path / "large.png")

    def test_16_bit_files_are_scaled(self, tmp_path):
        grey = np.array([[257 * 3, 257 * 100, 257 * 200]], np.uint16)
        for suffix in ("png", "tif"):
            path = save(tmp_path / f"deep.{suffix}", PIL.Image.fromarray(grey))
            assert np.asarray(read_image(path))[0, :, 0].tolist() == [3, 100, 200]

    def test_cmyk_jpeg(self, tmp_path):
        path = save(tmp_path / "ink.jpg", PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100)
        red, green, blue = np.asarray(read_image(path))[8, 8]
        assert red > 250
        assert max(green, blue) < 5


class TestAsRgb:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
            (np.float32([[-10, 0, 10]]), [0, 128, 255]),
            (np.float32([[0, np.nan, 1]]), [0, 0, 255]),
            (np.float32([[0, 0, 0]]), [0, 0, 0]),
            (np.int32([[0, 257 * 7, 65535]]), [0, 7, 255]),
            (np.int32([[-1000, 0, 1000]]), [0, 128, 255]),
            (np.float32([[70, 70, 70]]), [0, 0, 0]),
        ],
    )
    def test_deep_grey_is_scaled_not_clipped(self, values, expected):
        assert np.asarray(to_rgb(PIL.Image.fromarray(values)))[0, :, 1].tolist() == expected

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparent_becomes_white_and_opaque_stays(self, mode):
        pixels = np.zeros((1, 3, 4), np.uint8)
        pixels[0, :, 3] = 0, 128, 255
        image = PIL.Image.fromarray(pixels)
        if mode == "P":  # One colour of the palette is clear
            image = PIL.Image.fromarray(np.uint8([[0, 0, 1]]), "L").convert("P")
            image.putpalette([9, 9, 9, 0, 0, 0])
            image.info["transparency"] = 0
            expected = [255, 255, 0]
        else:
            image = image.convert(mode)
            expected = [255, 127, 0]
        got = np.asarray(to_rgb(image)).astype(int)[0]
        np.testing.assert_allclose(got, np.array(expected)[:, None].repeat(3, 1), atol=1)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV"])
    def test_other_modes(self, quadrants, mode):
        image = to_rgb(quadrants.convert(mode))
        assert image.mode == "RGB"
        assert image.size == quadrants.size


def test_exif_is_applied_once(tmp_path, quadrants):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.tif", quadrants, exif=exif)
    np.testing.assert_array_equal(read_image(path), ImageOps.exif_transpose(PIL.Image.open(path)))
