from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from rich.console import Console
from sklearn.datasets import load_sample_image

from commands import here
from ffvit import Data, RunStoppedError, UserError
from ffvit.data.decode import decode, open_image
from ffvit.data.prepare import packing
from ffvit.data.prepare import prepare as preparing
from ffvit.data.prepare.packing import Form
from ffvit.data.prepare.prepare import prepare
from ffvit.data.shards.index import open_shards
from ffvit.data.splits import open_splits

QUIET = Console(quiet=True)
FORK = multiprocessing.get_context("fork")


def packed(source: Path, out: Path, **options):
    return prepare(source, out, **{"workers": 2, "shard_size": 0.02, "console": QUIET} | options)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """600 small pictures of three classes."""
    folder = tmp_path_factory.mktemp("many")
    draw = np.random.default_rng(0)
    for number in range(600):
        (folder / "abc"[number % 3]).mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "abc"[number % 3] / f"{number}.jpg")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files below the folder, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.name != ".lock" and path.is_file()
    }


def spoil(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"no image")
    return folder


@contextlib.contextmanager
def in_another_process(*arguments, **options):
    """`packed` in a process group of its own, which is killed in the end."""

    def run():
        os.setsid()
        packed(*arguments, **options)

    process = FORK.Process(target=run)
    process.start()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        until(lambda: gone(process.pid))


def gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


def until(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def slowly(monkeypatch):
    """Images take so long that work is still going on when a test steps in."""
    decode = packing.decode

    def decoded(*arguments):
        time.sleep(0.02)
        return decode(*arguments)

    monkeypatch.setattr(packing, "decode", decoded)


class TestKilled:
    def test_killed_again_and_again_it_leaves_the_same_bytes(self, many, tmp_path, monkeypatch, slowly):
        draw = np.random.default_rng(0)
        done = []
        for _ in range(5):
            with in_another_process(many, tmp_path / "killed", max_side=10):
                until((tmp_path / "killed" / "prepare.json").exists)
                time.sleep(draw.uniform(0.02, 0.3))
            done.append(len(list((tmp_path / "killed").glob(".done/*.npz"))))
        assert done == sorted(done)
        monkeypatch.undo()
        packed(many, tmp_path / "killed", max_side=10)
        packed(many, tmp_path / "whole", max_side=10)
        assert contents(tmp_path / "killed") == contents(tmp_path / "whole")

    def test_finished_shards_are_not_made_again(self, many, tmp_path, monkeypatch):
        with in_another_process(many, tmp_path / "out"):
            until(lambda: len(list((tmp_path / "out").glob(".done/train*"))) > 2)
        kept = {path.name.removesuffix(".npz") for path in (tmp_path / "out").glob(".done/train*")}
        before = {name: (tmp_path / "out" / name).stat().st_ino for name in kept}
        packed(many, tmp_path / "out")
        assert {name: (tmp_path / "out" / name).stat().st_ino for name in kept} == before

    def test_workers_end_with_the_process_that_started_them(self, many, tmp_path, slowly):
        with in_another_process(many, tmp_path / "out") as process:
            until(lambda: any((tmp_path / "out").glob("*.tar")))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            until(lambda: gone(process.pid))
        packed(many, tmp_path / "out")

    def test_a_worker_that_is_killed_stops_the_work_with_a_sentence(self, many, tmp_path, monkeypatch):
        monkeypatch.setattr(preparing, "pack", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(RunStoppedError, match=r"was ended by SIGKILL.*memory.*shards in .* kept: give the same"):
            packed(many, tmp_path / "out")
        monkeypatch.undo()
        packed(many, tmp_path / "out")

    def test_ctrl_c_says_how_to_go_on(self, many, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(preparing, "run_pool", interrupted)
        done = here("prepare", many, tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr == (
            f"ffvit: interrupted; the finished shards in {tmp_path / 'out'} are kept: give the same command again to go on "
            "[E-STOPPED]\n"
        )

    def test_ctrl_c_ends_all_processes(self, many, tmp_path, slowly):
        with in_another_process(many, tmp_path / "out") as process:
            until(lambda: any((tmp_path / "out").glob("*.tar")))
            os.killpg(process.pid, signal.SIGINT)
            process.join()
            assert gone(process.pid)
            assert process.exitcode == 1
        assert not list((tmp_path / "out").rglob("*.tmp"))


def test_two_at_once(many, tmp_path, monkeypatch, slowly):
    monkeypatch.setattr(preparing, "LOCK_PATIENCE", 0.0)
    with in_another_process(many, tmp_path / "out"):
        until(lambda: any((tmp_path / "out").glob("*.tar")))
        with pytest.raises(UserError, match="out: another `ffvit prepare` is working in it"):
            packed(many, tmp_path / "out")


def test_the_number_of_workers_moves_nothing(many, tmp_path):
    packed(many, tmp_path / "one", workers=1)
    packed(many, tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_shards_are_about_as_large_as_was_asked_for(photos, tmp_path):
    packed(photos, tmp_path / "out", shard_size=0.1)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("train-*.tar"))]
    assert len(sizes) > 2
    assert np.mean(sizes[:-1]) == pytest.approx(0.1 * 2**20, rel=0.2)


class TestForm:
    @pytest.fixture
    def photo(self) -> PIL.Image.Image:
        return PIL.Image.fromarray(load_sample_image("china.jpg"))

    def stored(self, image: PIL.Image.Image, form: str = "JPEG", **options) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    @pytest.mark.parametrize(
        ("form", "suffix"),
        [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif"), ("GIF", "gif")],
    )
    def test_bytes_are_left_as_they_are_and_named_for_what_they_are(self, photo, form, suffix):
        stored = self.stored(photo, form)
        assert Form().applied(stored, "x.jpg") == (stored, suffix, 427, 640)
        assert Form(max_side=640).applied(stored, "x.jpg") == (stored, suffix, 427, 640)

    def test_large_images_are_made_small_upright_and_with_restart_markers(self, photo):
        on_its_side = self.turned(photo)
        encoded, suffix, height, width = Form(max_side=320).applied(on_its_side, "x")
        assert (suffix, height, width) == ("jpg", 320, 214)
        image = PIL.Image.open(io.BytesIO(encoded))
        assert (image.size, image.mode, image.format) == ((214, 320), "RGB", "JPEG")
        assert not image.getexif()
        upright = photo.transpose(PIL.Image.Transpose.ROTATE_270)
        wanted = upright.resize((214, 320), PIL.Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(image, int) - np.asarray(wanted, int)).mean() < 4
        assert encoded.count(b"\xff\xdd") == 1  # the interval is defined
        assert sum(encoded.count(bytes((0xFF, 0xD0 + number))) for number in range(8)) == 20 * 2 - 1  # 2 x 7 blocks
        assert b"\xff\xc0" in encoded  # baseline
        assert b"\xff\xc2" not in encoded

    def turned(self, photo) -> bytes:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        return self.stored(photo, exif=exif)

    def test_a_quality_encodes_every_jpeg_anew_and_nothing_else(self, photo):
        jpeg, png = self.stored(photo, quality=95), self.stored(photo, "PNG")
        small = Form(quality=50).applied(jpeg, "x").encoded
        assert len(small) < len(jpeg) / 2
        assert len(Form(quality=80).applied(jpeg, "x").encoded) > len(small)
        assert Form(quality=50).applied(png, "x").encoded == png

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "HSV"])
    def test_pixels_become_png_and_look_the_same(self, photo, mode):
        held = photo.crop((0, 0, 60, 40))
        if mode == "I;16":
            held = PIL.Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
        elif mode in ("LA", "1"):
            held = held.convert("L").convert(mode)
        else:
            held = held.convert(mode)
        encoded, suffix, height, width = Form().applied(held, "x")
        assert (suffix, height, width) == ("png", 40, 60)
        np.testing.assert_array_equal(np.asarray(decode(encoded, "x")), np.asarray(decode(held, "x")))

    def test_thin_images_keep_a_pixel(self):
        _, _, height, width = Form(max_side=10).applied(self.stored(PIL.Image.new("L", (1000, 11)), "PNG"), "x")
        assert (height, width) == (1, 10)


def test_pixels_held_in_memory_are_packed(tmp_path):
    prepared = packed("digits", tmp_path / "out", shard_size=1.0)
    assert prepared.images == {"train": 1797}
    there = open_splits(Data(source=str(tmp_path / "out")))
    from_memory = open_splits(Data(source="digits"))
    assert there.classes == from_memory.classes
    images = open_shards(tmp_path / "out")["train"].images
    wanted = {
        np.asarray(open_image(part, i)).tobytes()
        for part in (from_memory.train, from_memory.test, from_memory.validation)
        for i in range(len(part))
    }
    assert {np.asarray(open_image(images, index)).tobytes() for index in range(len(images))} == wanted


def test_shards_are_packed_into_shards(photos, tmp_path):
    packed(photos, tmp_path / "first")
    packed(tmp_path / "first", tmp_path / "second", max_side=50)
    images = open_shards(tmp_path / "second")["val"].images
    assert max(open_image(images, 0).size) == 50
    assert images.name(0).count("val/") == 1


class TestBadImages:
    @pytest.fixture
    def spoilt(self, many, tmp_path) -> Path:
        folder = shutil.copytree(many, tmp_path / "spoilt")
        cut = (folder / "a" / "300.jpg").read_bytes()
        (folder / "a" / "300.jpg").write_bytes(cut[: len(cut) // 2])
        (folder / "c" / "2.jpg").write_bytes(b"")
        return spoil(folder, "b/1.jpg", "b/4.jpg")

    def test_are_left_out_counted_and_listed(self, spoilt, tmp_path):
        done = here("prepare", spoilt, tmp_path / "out", "--shard-size", 0.1)
        assert done.returncode == 0, done.stderr
        assert "596 images (596 for train) in" in done.stdout
        assert f"4 images cannot be read and were left out: {tmp_path / 'out' / 'bad_images.csv'}" in done.stdout
        assert f"ffvit train --data {tmp_path / 'out'}" in done.stdout
        with (tmp_path / "out" / "bad_images.csv").open(newline="") as file:
            rows = {row["image"]: row["reason"] for row in csv.DictReader(file)}
        assert rows.keys() == {str(spoilt / name) for name in ("a/300.jpg", "b/1.jpg", "b/4.jpg", "c/2.jpg")}
        assert rows[str(spoilt / "b/1.jpg")] == "is empty, damaged, or no image"
        again = here("prepare", spoilt, tmp_path / "out", "--shard-size", 0.1)
        assert "all there already" in again.stdout
        assert "4 images cannot be read" in again.stdout

    def test_too_many_stop_it_and_a_larger_limit_goes_on(self, spoilt, tmp_path):
        done = here("prepare", spoilt, tmp_path / "out", "--bad-images", 3, "--shard-size", 0.02)
        assert done.returncode == 1
        assert "4 images cannot be read, more than --bad-images 3 allows (3 of 600); they are listed in" in done.stderr
        assert len((tmp_path / "out" / "bad_images.csv").read_text().splitlines()) >= 5
        with pytest.raises(UserError, match="is not prepared to its end; give the same ffvit prepare command again"):
            open_splits(Data(source=str(tmp_path / "out")))
        packed(spoilt, tmp_path / "out")
        packed(spoilt, tmp_path / "whole")
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_a_shard_of_bad_images_alone_is_none(self, spoilt, tmp_path):
        prepared = packed(spoilt, tmp_path / "out", shard_size=0.001)
        assert (prepared.shards, prepared.images, prepared.bad) == (596, {"train": 596}, 4)
        assert len(open_shards(tmp_path / "out")["train"].images) == 596

    def test_no_good_one(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / "photos" / name).mkdir(parents=True)
            spoil(tmp_path / "photos", f"{name}/1.jpg")
        with pytest.raises(UserError, match=r"none of 2 images tried can be read .the last: .*b/1.jpg: is empty"):
            packed(tmp_path / "photos", tmp_path / "out")


def test_odd_file_names_and_loops_of_links(photos, tmp_path):
    odd = ("caf\udce9.jpg", "new\nline.jpg", 'quote".jpg', "comma,.JPG", " .jpg", "日本.jpeg", "[red].jpg")
    for name in ("a", "b\udce9"):
        (tmp_path / "odd" / name).mkdir(parents=True)
        for file in odd:
            shutil.copy(photos / "train" / "sky" / "0000.jpg", tmp_path / "odd" / name / file)
        spoil(tmp_path / "odd" / name, "bad\udce9\n.jpg")
        (tmp_path / "odd" / name / "loop").symlink_to(tmp_path / "odd")
    prepared = packed(tmp_path / "odd", tmp_path / "out")
    images, classes = open_shards(tmp_path / "out")["train"]
    assert classes == ("a", "b\udce9")
    names = {images.name(index).split(":", 1)[1] for index in range(len(images))}
    assert {f"{name}/{file}" for name in classes for file in odd} <= names
    with (tmp_path / "out" / "bad_images.csv").open(newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == prepared.bad
    assert str(tmp_path / "odd" / "a" / "bad\udce9\n.jpg") in {row["image"] for row in rows}


class TestRefused:
    def test_other_options_or_another_source(self, photos, many, tmp_path):
        packed(photos, tmp_path / "out")
        before = contents(tmp_path / "out")
        with pytest.raises(UserError, match=r"begun otherwise: --max-side was not given, and is 64; --quality was not"):
            packed(photos, tmp_path / "out", max_side=64, quality=70)
        with pytest.raises(
            UserError, match=r"the source was .*photos.*, and is .*many.*; the images .* have changed\. Giv"
        ):
            packed(many, tmp_path / "out")
        assert contents(tmp_path / "out") == before
        packed(many, tmp_path / "out", overwrite=True)
        packed(many, tmp_path / "anew")
        assert contents(tmp_path / "out") == contents(tmp_path / "anew")

    def test_a_source_that_was_changed_meanwhile(self, many, tmp_path):
        folder = shutil.copytree(many, tmp_path / "folder")
        packed(folder, tmp_path / "out")
        (folder / "a" / "0.jpg").unlink()
        with pytest.raises(
            UserError, match=r"begun otherwise: the images of the source have changed. Give the command"
        ):
            packed(folder, tmp_path / "out")

    def test_the_same_source_by_another_path(self, many, tmp_path, monkeypatch):
        packed(many, tmp_path / "out")
        monkeypatch.chdir(many.parent)
        assert packed(Path(many.name), tmp_path / "out").seconds is None

    def test_a_folder_that_holds_other_things(self, photos, tmp_path):
        (tmp_path / "thesis.tex").touch()
        for overwrite in (False, True):
            with pytest.raises(UserError, match=r"holds other things .thesis.tex.; give a new folder"):
                packed(photos, tmp_path, overwrite=overwrite)
        assert (tmp_path / "thesis.tex").exists()

    def test_a_folder_inside_the_source(self, photos):
        with pytest.raises(UserError, match="lies in the source itself"):
            packed(photos, photos / "shards")
        assert not (photos / "shards").exists()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--quality", 101), "--quality: must be from 1 to 100; got 101"),
            (("--max-side", 70_000), "--max-side: must be from 1 to 65,500 pixels; got 70000"),
            (("--shard-size", 2_000_000), "--shard-size: must be more than 0 MiB"),
            (("--workers", 0), "--workers: input should be greater than 0; got '0'"),
        ],
    )
    def test_options_that_make_no_sense(self, photos, tmp_path, options, words):
        done = here("prepare", photos, tmp_path / "out", *options)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "out").exists()

    def test_a_damaged_plan(self, photos, tmp_path):
        packed(photos, tmp_path / "out")
        (tmp_path / "out" / "prepare.json").write_text("{")
        with pytest.raises(UserError, match=r"prepare.json: is damaged; begin again with --overwrite"):
            packed(photos, tmp_path / "out")
        packed(photos, tmp_path / "out", overwrite=True)

    def test_a_shard_that_was_lost_is_told(self, photos, tmp_path):
        packed(photos, tmp_path / "out")
        (tmp_path / "out" / "train-000001.tar").unlink()
        with pytest.raises(UserError, match=r"shards of train are missing .first: train-000001.tar.*--overwrite"):
            packed(photos, tmp_path / "out")

    def test_a_source_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match="there is no 'nowhere' in"):
            packed(tmp_path / "nowhere", tmp_path / "out")
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="file: is a file; give a folder for the shards"):
            packed("digits", tmp_path / "file")
        with pytest.raises(UserError, match="cannot be written to"):
            packed("digits", tmp_path / "file" / "out")


def test_a_full_disk_keeps_what_is_finished(many, tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # a quota is told from a full disk by its number alone
    try:
        with pytest.raises(RunStoppedError, match=r"the disk is full.*give the same command again to go on"):
            packed(many, tmp_path / "out", shard_size=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list((tmp_path / "out").rglob("*.tmp"))
    packed(many, tmp_path / "out", shard_size=0.1)


def test_training_on_shards_is_training_on_the_images(photos, tmp_path):
    packed(photos, tmp_path / "shards")
    done = here(
        *("train", "ff_micro_patch2_8", "--data", tmp_path / "shards", "--out", tmp_path / "run", "--workers", 1),
        *("--recipe", "digits", "--recipe.epochs", 1, "--recipe.warmup-epochs", 0, "--recipe.batch-size", 16),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())
