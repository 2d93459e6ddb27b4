from __future__ import annotations

import csv
import inspect
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from rich.console import Console
from sklearn.datasets import load_digits, load_sample_image

from commands import ffvit, here, started
from ffvit.config.data_commands import Check as Command
from ffvit.data.check.check import NARROW, NARROW_ONES, NEAR, check
from ffvit.data.check.report import check_report, write_findings
from ffvit.errors import RunStoppedError

BOXES = [(left, top, left + 160, top + 140) for left in (0, 160, 320, 480) for top in (0, 140, 280)]


@pytest.fixture(scope="session")
def regions() -> list[PIL.Image.Image]:
    """24 photographs with nothing in common."""
    photos = [PIL.Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [photo.crop(box) for photo in photos for box in BOXES]


@pytest.fixture
def folder(tmp_path, regions) -> Path:
    """Two classes, eight photographs each in train and four in val, and nothing wrong with any."""
    at = iter(regions)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(count):
                next(at).save(tmp_path / "set" / split / name / f"{number}.jpg", quality=90)
    return tmp_path / "set"


def found(folder: Path | str, **options) -> dict[str, list[str]]:
    """The images of each finding, as paths in the folder, with the image each goes with."""
    checked = check(str(folder), **options)

    def short(index: int) -> str:
        return checked.images.name(index).removeprefix(f"{folder}/")

    return {
        each.kind.name: [
            short(image) if other < 0 else f"{short(image)} = {short(other)}"
            for image, other in zip(each.images.tolist(), each.partners.tolist(), strict=True)
        ]
        for each in checked.findings
    }


def summary(folder: Path | str, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(check_report(check(str(folder)), width))
        return console.export_text()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def photo(folder: Path, name: str = "train/cat/0.jpg") -> PIL.Image.Image:
    with PIL.Image.open(folder / name) as image:
        return image.copy()


def test_nothing_is_found_where_nothing_is_wrong(folder):
    assert found(folder) == {}
    assert "Nothing is wrong" in summary(folder)


def seen_through(image: PIL.Image.Image) -> PIL.Image.Image:
    image.putalpha(200)
    return image


class TestByItself:
    def test_broken(self, folder):
        whole = (folder / "train/cat/0.jpg").read_bytes()
        (folder / "train/cat/0.jpg").write_bytes(whole[: len(whole) // 2])
        (folder / "val/dog/0.jpg").write_bytes(b"")
        checked = check(str(folder))
        (broken,) = checked.findings
        assert broken.kind.name == "broken"
        assert checked.serious
        assert "truncated" in broken.detail(0)
        assert broken.detail(1) == "is empty, damaged, or no image"
        assert found(folder) == {"broken": ["train/cat/0.jpg", "val/dog/0.jpg"]}

    @pytest.mark.parametrize(
        ("kind", "change", "options"),
        [
            ("blank", lambda image: PIL.Image.new("RGB", image.size, "teal"), {}),
            ("tiny", lambda image: image.resize((40, 31)), {}),
            ("huge", lambda image: image.rotate(90).resize((1600, 1300)), {}),
            ("narrow", lambda image: image.resize((510, 100)), {}),
            ("grey", lambda image: image.convert("L"), {}),
            ("cmyk", lambda image: image.convert("CMYK"), {}),
            ("transparent", seen_through, {"format": "PNG"}),
            ("palette", lambda image: image.convert("P"), {"format": "PNG"}),
            ("animated", lambda image: image, {"format": "WEBP", "save_all": True, "append": True}),
            ("turned", lambda image: image, {"orientation": 6}),
            ("progressive", lambda image: image, {"progressive": True}),
        ],
    )
    def test_each_kind(self, folder, kind, change, options):
        path = folder / "train/cat/0.jpg"
        image = change(photo(folder))
        if options.pop("append", False):
            options["append_images"] = [image.rotate(180)]
        if turn := options.pop("orientation", None):
            options["exif"] = PIL.Image.Exif()
            options["exif"][0x0112] = turn
        image.save(path, **{"format": "JPEG"} | options)
        assert found(folder) == {kind: ["train/cat/0.jpg"]}
        assert not check(str(folder)).serious

    def test_deep_grey(self, folder):
        deep = np.asarray(photo(folder).convert("L")).astype(np.uint16) * 256
        PIL.Image.fromarray(deep).save(folder / "train/cat/0.jpg", format="PNG")
        assert found(folder) == {"grey": ["train/cat/0.jpg"], "16-bit": ["train/cat/0.jpg"]}

    def test_colour_among_grey(self, folder):
        paths = sorted(folder.rglob("*.jpg"))
        for path in paths[1:]:
            photo(folder, str(path)).convert("L").save(path)
        assert found(folder) == {"colour": ["train/cat/0.jpg"]}

    def test_what_all_are_is_not_unusual(self, tmp_path):
        for number, digit in enumerate(load_digits().images[:40]):
            at = tmp_path / str(number % 2)
            at.mkdir(exist_ok=True)
            PIL.Image.fromarray((digit * 15).astype(np.uint8)).save(at / f"{number}.png")
        assert found(tmp_path) == {}
        (tmp_path / "1/x.png").write_bytes(b"")  # 41 images: read by other processes
        assert found(tmp_path) == {"broken": ["1/x.png"]}

    def test_an_alpha_channel_that_hides_nothing_is_no_transparency(self, folder):
        photo(folder).convert("RGBA").save(folder / "train/cat/0.jpg", format="PNG")
        assert found(folder) == {}


class TestAlike:
    def test_an_image_in_two_splits(self, folder):
        shutil.copy(folder / "train/cat/1.jpg", folder / "val/cat/copy.jpg")
        assert found(folder) == {"leak": ["val/cat/copy.jpg = train/cat/1.jpg"]}
        assert check(str(folder)).serious
        assert "1 of val in train" in summary(folder)

    def test_a_leak_between_val_and_test_too(self, folder):
        shutil.copytree(folder / "val", folder / "test")
        shutil.copy(folder / "train/cat/1.jpg", folder / "test/cat/0.jpg")
        leaks = found(folder)["leak"]
        assert leaks[0] == "test/cat/0.jpg = train/cat/1.jpg"
        assert leaks[1:] == [f"test/{each} = val/{each}" for each in sorted_names(folder / "val")[1:]]

    def test_an_image_under_two_labels(self, folder):
        shutil.copy(folder / "train/cat/1.jpg", folder / "train/dog/9.jpg")
        shutil.copy(folder / "train/cat/1.jpg", folder / "train/cat/9.jpg")
        pairs = ["train/cat/1.jpg = train/dog/9.jpg", "train/cat/9.jpg = train/dog/9.jpg"]
        assert found(folder) == {"conflict": [*pairs, "train/dog/9.jpg = train/cat/1.jpg"]}
        assert check(str(folder)).serious

    def test_a_duplicate_in_split_and_class(self, folder):
        for name in ("8.jpg", "9.jpg"):
            shutil.copy(folder / "train/cat/1.jpg", folder / "train/cat" / name)
        assert found(folder) == {"duplicate": [f"train/cat/{name} = train/cat/1.jpg" for name in ("8.jpg", "9.jpg")]}
        assert not check(str(folder)).serious

    def test_pixels_held_in_memory_are_compared_too(self, monkeypatch):
        digits = load_digits()
        digits.images[7] = digits.images[3]
        monkeypatch.setattr("sklearn.datasets.load_digits", lambda: digits)
        assert found("digits") == {"conflict": ["digits[3] = digits[7]", "digits[7] = digits[3]"]}

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: image,
            lambda image: image.resize((100, 90)),
            lambda image: image.resize((64, 64)),
            lambda image: image.crop((2, 1, 159, 139)),
            lambda image: image.convert("L").convert("RGB").point(lambda value: value * 0.9),
        ],
    )
    def test_a_changed_copy_looks_alike(self, folder, change):
        for number in range(4, 8):
            change(photo(folder, f"train/dog/{number}.jpg")).save(folder / f"val/dog/copy{number}.jpg", quality=60)
        pairs = [f"val/dog/copy{number}.jpg = train/dog/{number}.jpg" for number in range(4, 8)]
        assert found(folder)["near leak"] == pairs
        assert "near leak" not in found(folder, near=0)

    def test_near_duplicates_by_split_and_label(self, folder):
        small = photo(folder).resize((80, 70))
        small.save(folder / "train/cat/small.jpg")
        assert found(folder) == {"near duplicate": ["train/cat/small.jpg = train/cat/0.jpg"]}
        shutil.copy(folder / "train/cat/small.jpg", folder / "train/dog/9.jpg")
        seen = found(folder)
        assert seen["conflict"] == ["train/cat/small.jpg = train/dog/9.jpg", "train/dog/9.jpg = train/cat/small.jpg"]
        assert seen["near conflict"] == ["train/cat/0.jpg = train/dog/9.jpg"]

    def test_a_duplicate_of_a_near_duplicate_is_one_as_well(self, folder):
        photo(folder).resize((80, 70)).save(folder / "val/cat/8.jpg")
        shutil.copy(folder / "val/cat/8.jpg", folder / "val/cat/9.jpg")
        assert found(folder) == {
            "near leak": [f"val/cat/{name} = train/cat/0.jpg" for name in ("8.jpg", "9.jpg")],
            "duplicate": ["val/cat/9.jpg = val/cat/8.jpg"],
        }

    def test_small_images_and_blank_ones_are_not_compared(self, folder):
        for name in ("train/cat/a.png", "val/cat/a.png"):
            PIL.Image.new("RGB", (90, 90), "white").save(folder / name)
        assert "leak" not in found(folder)
        assert "near leak" not in found("digits")


def sorted_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))


class TestClasses:
    def test_sizes_of_each_split(self, folder):
        (folder / "train/cat/0.jpg").unlink()
        sizes = check(str(folder)).sizes
        train, val = sizes.loc["train"], sizes.loc["val"]
        assert train[["images", "classes", "smallest", "median", "largest"]].tolist() == [15, 2, 7, 7.5, 8]
        assert val[["images", "classes", "smallest", "median", "largest"]].tolist() == [8, 2, 4, 4, 4]
        stored = sum(path.stat().st_size for path in folder.glob("val/*/*"))
        assert val["MiB"] == pytest.approx(stored / 2**20)

    def test_a_class_that_a_split_lacks(self, folder):
        shutil.move(folder / "val/cat", folder / "val/owl")
        checked = check(str(folder))
        assert [(each.split, each.label, each.elsewhere) for each in checked.missing] == [
            ("train", "owl", "val"),
            ("val", "cat", "train"),
        ]
        assert checked.serious
        assert "owl: none in train, some in val" in summary(folder)


class TestTold:
    def test_fits_the_terminal_whatever_the_names(self, folder):
        long = folder / "train" / ("[red]" + "x" * 200)
        long.mkdir()
        shutil.copy(folder / "train/cat/1.jpg", long / ("y" * 200 + ".jpg"))
        (folder / "train/cat/line\nbreak\x1b[31m.png").write_bytes(b"GIF89a")
        (folder / "train/cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
        told = summary(folder)
        assert max(map(len, told.splitlines())) <= 80
        assert r"caf\xe9.png: is empty, damaged, or no image" in told
        assert r"line\nbreak\x1b[31m.png" in told
        assert told.index("broken") < told.index("conflict")

    def test_names_in_the_list_are_harmless(self, folder, tmp_path):
        shutil.move(folder / "train/cat", folder / "train/=1+1")
        shutil.move(folder / "val/cat", folder / "val/=1+1")
        (folder / "train/=1+1" / os.fsdecode(b"caf\xe9,.png")).write_bytes(b"")
        assert write_findings(check(str(folder)), tmp_path / "out.csv") == 1
        (row,) = rows(tmp_path / "out.csv")
        assert row["image"] == str(folder / r"train/=1+1/caf\xe9,.png")
        assert (row["split"], row["label"], row["problem"]) == ("train", "'=1+1", "broken")

    @pytest.mark.parametrize("name", ["=cmd|' C calc'!A0.png", "+1.png", "-1.png", "@SUM(1).png"])
    def test_a_relative_name_that_begins_a_formula(self, tmp_path, monkeypatch, name):
        (tmp_path / name).write_bytes(b"")
        table = tmp_path / "list.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), (tmp_path / name, name)])
        write_findings(check(str(table)), tmp_path / "out.csv")
        (row,) = rows(tmp_path / "out.csv")
        assert row["label"] == f"'{name}"


class TestCommand:
    def test_as_typed(self, folder, tmp_path):
        (folder / "train/cat/0.jpg").write_bytes(b"")
        done = ffvit("check", folder, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert done.stderr == ""
        assert "train/cat/0.jpg: is empty" in done.stdout
        assert done.stdout.splitlines()[-1] == "1 findings in check.csv"
        (row,) = rows(tmp_path / "check.csv")
        assert row == {
            "split": "train",
            "image": str(folder / "train/cat/0.jpg"),
            "label": "cat",
            "problem": "broken",
            "detail": "is empty, damaged, or no image",
            "other_image": "",
        }

    def test_nothing_serious_leaves_well_and_replaces_the_list_of_before(self, folder, tmp_path):
        shutil.copy(folder / "train/cat/1.jpg", folder / "train/cat/9.jpg")
        for _ in range(2):
            done = here("check", folder, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        assert len((tmp_path / "check.csv").read_text().splitlines()) == 2

    def test_lists_and_digits(self, folder, tmp_path):
        listed = [(path, path.parent.name, path.parent.parent.name) for path in sorted(folder.rglob("*.jpg"))]
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *listed])
        for data in (tmp_path / "list.csv", "digits"):
            done = here("check", data, "--out", tmp_path / "out.csv")
            assert done.returncode == 0, done.stdout + done.stderr

    def test_replaces_no_file_but_a_list_of_findings(self, folder, tmp_path):
        mine = tmp_path / "mine.csv"
        mine.write_text("path,label\n")
        for out, words in (
            (mine, "is no list of findings"),
            (tmp_path / "nowhere" / "a.csv", "there is no folder"),
            (tmp_path / "a.txt", "ends in .csv"),
        ):
            done = here("check", folder, "--out", out)
            assert done.returncode == 2
            assert words in done.stderr
        assert mine.read_text() == "path,label\n"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [(("nowhere",), "there is no 'nowhere'"), (("digits", "--near", "33"), "--near"), ((), "DATA is missing")],
    )
    def test_mistakes_get_a_sentence(self, tmp_path, arguments, words):
        done = here("check", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr

    def test_defaults_are_those_of_the_function(self):
        assert inspect.signature(Command).parameters["near"].default == NEAR
        assert f"over {NARROW} times" in NARROW_ONES.what

    def test_a_killed_process_gets_a_sentence(self, monkeypatch):
        monkeypatch.setattr(
            "ffvit.data.check.scan._scan_image", lambda images, index: os.kill(os.getpid(), signal.SIGKILL)
        )
        with pytest.raises(RunStoppedError, match="was killed, most likely for memory"):
            check("digits")

    def test_can_be_interrupted(self, tmp_path, regions):
        large = regions[0].resize((1800, 1800))
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            large.save(tmp_path / name / "0.png")
            for number in range(1, 4000):
                os.link(tmp_path / name / "0.png", tmp_path / name / f"{number}.png")
        process = started("check", tmp_path, "--out", tmp_path / "out.csv")
        while subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.DEVNULL, check=False).returncode:
            time.sleep(0.1)  # until images are being looked at, by processes of its own
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "interrupted" in said
        assert "Traceback" not in said
        assert not (tmp_path / "out.csv").exists()
