"""Images of strangers: they run no code, never block, and cost bounded memory and time."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest

import commands
from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe
from ffvit.data import images, jpeg
from ffvit.data.check.scan import _stored_traits
from ffvit.data.decode import decode
from ffvit.data.images import BadImageError, TimmImages, only_image_formats, read_file
from ffvit.data.prepare.packing import Encoding
from ffvit.data.timm_datasets import open_split
from ffvit.data.transforms import LazyImage, evaluation_transform, training_transform
from ffvit.models.create import create_model
from ffvit.models.weights import save_weights

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
REFUSED_FORMATS = ("EPS", "WMF", "PCX", "TGA", "FITS", "MPEG", "PSD", "ICNS", "DDS", "PDF")


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    """A white grey PNG of any size, a few bytes long."""
    rows = b"\0" + b"\xff" * width if rows is None else rows
    squeeze = zlib.compressobj(9)
    code = b"".join(squeeze.compress(rows) for _ in range(height)) + squeeze.flush()
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + code, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def jpeg_bytes(**options) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(file, "JPEG", **options)
    return file.getvalue()


def size_at(stored: bytes | bytearray) -> int:
    """Where a baseline JPEG has its height, and after it the width."""
    return stored.index(b"\xff\xc0") + 5


def in_time(function, seconds: float = 5.0):
    """What a function returns or raises; a failure if it takes longer, as it would for ever."""
    outcome = []

    def call() -> None:
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"not back after {seconds:g} seconds"
    return outcome[0]


class TestCode:
    @pytest.fixture(autouse=True)
    def ghostscript(self, monkeypatch) -> list[object]:
        """Every time Ghostscript would have been started."""
        started: list[object] = []

        def start(*arguments, **options):
            started.append(arguments)
            return PIL.Image.new("RGB", (9, 9)).im

        monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", start)
        return started

    @pytest.mark.parametrize("use", [decode, Encoding(max_side=8).encode, lambda stored, _: _stored_traits(stored)])
    def test_postscript_never_starts_ghostscript(self, ghostscript, use):
        with contextlib.suppress(BadImageError):
            use(POSTSCRIPT, "x.jpg")
        assert ghostscript == []

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_postscript_in_a_data_set_of_timm_never_starts_ghostscript(self, ghostscript, tmp_path):
        """timm's and torchvision's own readers call Pillow themselves."""
        path = tmp_path / "x.jpg"
        path.write_bytes(POSTSCRIPT)
        with only_image_formats(), pytest.raises(PIL.UnidentifiedImageError):
            PIL.Image.open(path)
        with PIL.Image.open(path) as image:  # and the program around us keeps its own Pillow
            assert image.format == "EPS"
        with pytest.raises(BadImageError):
            decode(TimmImages("torch/x", Opens(path), np.zeros(1, np.int64)).read(0), "x")
        write_webdataset(tmp_path / "wds", POSTSCRIPT)
        with pytest.raises(Exception, match=r"cannot open|holds no image"):
            open_split("wds/a", tmp_path / "wds", "train")
        gc.collect()  # of the files that webdataset leaves open
        assert ghostscript == []

    def test_predict_refuses_postscript(self, ghostscript, tmp_path, small_weights):
        (tmp_path / "x.jpg").write_bytes(POSTSCRIPT)
        done = commands.here("predict", small_weights, tmp_path / "x.jpg")
        assert "not read" in done.stderr
        assert ghostscript == []

    def test_only_the_formats_of_the_suffixes_are_opened(self):
        assert not set(REFUSED_FORMATS) & set(images.FORMATS)
        for suffix, kind in ((".jpg", "JPEG"), (".webp", "WEBP"), (".tif", "TIFF"), (".ppm", "PPM"), (".gif", "GIF")):
            file = io.BytesIO()
            PIL.Image.new("RGB", (9, 7)).save(file, kind)
            assert decode(file.getvalue(), suffix).size == (9, 7)


class TestFiles:
    @pytest.mark.parametrize("kind", ["fifo", "zero", "socket", "folder", "tty"])
    def test_only_regular_files_are_read(self, tmp_path, kind):
        path = tmp_path / "x.jpg"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "tty":
            path.symlink_to("/dev/ptmx")
        elif kind == "folder":
            path.mkdir()
        else:
            with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
                server.bind(path.name)
        outcome = in_time(lambda: read_file(path))
        assert isinstance(outcome, BadImageError)
        assert "regular file" in outcome.reason or "No such device" in outcome.reason

    def test_a_sparse_file_of_200_gb_is_refused_unread(self, tmp_path):
        path = tmp_path / "x.jpg"
        with path.open("wb") as file:
            file.truncate(200 * 10**9)
        with pytest.raises(BadImageError, match=r"200,000,000,000 bytes.*limit"):
            read_file(path)

    def test_check_names_what_is_no_file_and_ends(self, tmp_path, photos):
        data = tmp_path / "data"
        for name in ("a", "b"):
            (data / name).mkdir(parents=True)
            for number in range(3):
                (data / name / f"{number}.jpg").write_bytes(jpeg_bytes(quality=50 + 9 * number))
        os.mkfifo(data / "a" / "pipe.jpg")
        (data / "b" / "zero.png").symlink_to("/dev/zero")
        done = in_time(lambda: commands.here("check", data, cwd=tmp_path), 60)
        assert "is no regular file" in done.stdout + done.stderr


class TestSizes:
    def test_a_needle_is_refused_before_it_is_decoded(self):
        stored = png(65_000, 1)
        assert len(stored) < 300
        for transform in (
            evaluation_transform(Preprocess(img_size=(224, 224))),
            evaluation_transform(Preprocess(img_size=(224, 224), pixel_backend="fast")),
        ):
            with pytest.raises(BadImageError, match="65,000 x 1"):
                transform(LazyImage(stored, "needle.png"))

    def test_a_needle_of_a_jpeg_is_refused_before_it_is_decoded(self):
        file = io.BytesIO()
        PIL.Image.new("RGB", (65_000, 1)).save(file, "JPEG")
        transform = evaluation_transform(Preprocess(img_size=(224, 224), pixel_backend="fast"))
        with pytest.raises(BadImageError, match="65,000 x 1"):
            transform(LazyImage(file.getvalue(), "needle.jpg"))

    def test_long_images_within_the_ratio_are_read(self):
        assert decode(png(100 * 3, 3), "strip.png").size == (300, 3)

    def test_too_many_pixels_are_refused_before_they_are_decoded(self):
        stored = png(13_370, 13_370, b"")  # no row of them is there
        with pytest.raises(BadImageError, match="more than 100,000,000 pixels"):
            decode(stored, "bomb.png")

    def test_a_jpeg_of_too_many_pixels_is_refused(self):
        stored = bytearray(jpeg_bytes())
        at = size_at(stored)
        stored[at : at + 4] = struct.pack(">HH", 13_370, 13_370)
        assert jpeg.header(bytes(stored)) is None
        with pytest.raises(BadImageError, match="more than 100,000,000 pixels"):
            decode(bytes(stored), "bomb.jpg")

    def test_a_progressive_jpeg_of_very_many_scans_is_refused(self):
        """Each scan passes over the whole image, and takes a few bytes."""
        stored = jpeg_bytes(progressive=True)
        last = stored.rfind(b"\xff\xda")
        bomb = stored[:-2] + stored[last:-2] * 1000 + b"\xff\xd9"
        for transform in (
            evaluation_transform(Preprocess(img_size=(224, 224), pixel_backend="fast")),
            evaluation_transform(Preprocess(img_size=(224, 224), pixel_backend="pillow")),
        ):
            with pytest.raises(BadImageError, match="scans"):
                transform(LazyImage(bomb, "scans.jpg"))
            transform(LazyImage(stored, "fine.jpg"))

    @pytest.mark.reliability
    @pytest.mark.parametrize("kind", ["L", "RGBA", "I;16"])
    def test_the_largest_image_takes_bounded_memory(self, tmp_path, kind):
        path = tmp_path / "large.png"
        PIL.Image.new(kind, (10_000, 10_000), 0 if kind != "RGBA" else (9, 9, 9, 9)).save(path, compress_level=1)
        code = f"""
import resource
from ffvit.data.transforms import LazyImage, evaluation_transform
from ffvit.data.images import read_file
from ffvit.models.create import create_model
from ffvit.models.weights import save_weights
from ffvit.config.preprocess import Preprocess
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
transform = evaluation_transform(Preprocess(img_size=(224, 224), pixel_backend="fast"))
transform(LazyImage(read_file({str(path)!r}), "large.png"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert float(done.stdout) < 1300  # MiB


@pytest.mark.parametrize("factor", [0x00, 0x01, 0x10, 0x51, 0x15, 0xFF])
def test_impossible_sampling_factors_are_bad_images(factor):
    stored = bytearray(jpeg_bytes(restart_marker_blocks=1))
    at = size_at(stored) + 6  # of the first component
    for component in range(3):
        stored[at + 3 * component] = factor
    for transform in (
        evaluation_transform(Preprocess(img_size=(32, 32), pixel_backend="fast")),
        evaluation_transform(Preprocess(img_size=(32, 32), pixel_backend="pillow")),
        training_transform(Recipe(exact="never"), Preprocess(img_size=(32, 32))),
    ):
        with pytest.raises(BadImageError):
            transform(LazyImage(bytes(stored), "x.jpg"))


class Opens:
    """A data set that opens its files itself, as some of torchvision's do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, index: int) -> tuple[PIL.Image.Image, int]:
        return PIL.Image.open(self.path).convert("RGB"), 0


def write_webdataset(folder: Path, content: bytes) -> None:
    folder.mkdir()
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for name, stored in (("a.jpg", content), ("a.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(stored)
            tar.addfile(member, io.BytesIO(stored))
    split = {"name": "train", "num_samples": 1, "filenames": ["train-0.tar"], "shard_lengths": [1]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, create_model("ff_micro_patch2_8", 3), ["a", "b", "c"])
    return path
