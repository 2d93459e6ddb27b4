from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ffvit import Data
from ffvit.data.decode import open_image
from ffvit.data.shards.local import TARS, find_files, open_files
from ffvit.data.splits import open_splits
from ffvit.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A home of its own, where the indices are kept."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def png(shade: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (4, 3), shade).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: range, classes: int = 3) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in numbers:
        members[f"{number:04}.png"] = png(number)
        members[f"{number:04}.cls"] = b"%d" % (number % classes)
    return members


@pytest.fixture
def foreign(tmp_path) -> Path:
    folder = tmp_path / "foreign"
    write_tar(folder / "some-train-0000.tar", samples(range(30)))
    write_tar(folder / "some-train-0001.tar", samples(range(30, 45)))
    write_tar(folder / "some-validation-0000.tar", samples(range(50, 59)))
    return folder


def test_parts_and_labels_of_tars_by_their_names(foreign):
    parts = open_files(foreign)
    assert {part: len(found.images) for part, found in parts.items()} == {"train": 45, "val": 9}
    images, classes = parts["train"]
    assert classes == ("0", "1", "2")
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [number % 3 for number in range(45)]
    assert [images.read(index) for index in (44, 0, 31)] == [png(44), png(0), png(31)]
    assert images.name(31) == "some-train-0001.tar:0031.png"
    assert np.asarray(open_image(parts["val"].images, 8))[0, 0, 0] == 58
    assert len(open_splits(Data(source=str(foreign))).test) == 9


def test_the_index_is_kept_and_made_again_when_a_file_changes(foreign, home, monkeypatch):
    open_files(foreign)
    with monkeypatch.context() as patch:
        patch.setattr("ffvit.data.shards.local.read_shard", lambda *_: pytest.fail("walked again"))
        open_files(foreign)
    write_tar(foreign / "some-train-0001.tar", samples(range(30, 40)))
    assert len(open_files(foreign)["train"].images) == 40
    assert len(list((home / ".cache" / "ffvit" / "shards").iterdir())) == 2


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names_in_every_format(tmp_path, form):
    long = "n" * 90 + "/" + "m" * 90
    members = {f"{long}.seg.JPEG": b"image", f"{long}.cls": b" 1\n", "a\nb.webp": b"other", "a\nb.cls": b"0"}
    images, _ = open_files(write_tar(tmp_path / "tars" / "x.tar", members, form).parent)["train"]
    assert [images.read(index) for index in range(2)] == [b"image", b"other"]
    assert [images.name(index) for index in range(2)] == [f"x.tar:{long}.seg.JPEG", "x.tar:a\nb.webp"]
    assert images.labels.tolist() == [1, 0]
    assert pickle.loads(pickle.dumps(images)).read(1) == b"other"


def test_names_that_are_not_utf8(tmp_path):
    members = {"caf\udce9.jpg": b"image", "caf\udce9.cls": b"0"}
    images, _ = open_files(write_tar(tmp_path / "tars" / "x.tar", members).parent)["train"]
    assert os.fsencode(images.name(0)) == b"x.tar:caf\xe9.jpg"


@pytest.mark.parametrize("said", [{"label": 2}, {"cls": "2", "caption": "a leaf"}])
def test_labels_in_json_and_what_is_no_image_beside_it(tmp_path, said):
    members = {
        "README": b"hello",
        "1.json": json.dumps(said).encode(),
        "1.txt": b"a leaf",
        "1.jpg": b"image",
        "2.txt": b"",
    }
    images, classes = open_files(write_tar(tmp_path / "tars" / "x.tar", members).parent)["train"]
    assert images.labels.tolist() == [2]
    assert classes == ("0", "1", "2")


def test_parts_by_timms_info(tmp_path):
    folder = tmp_path / "tars"
    write_tar(folder / "a.tar", samples(range(9)))
    write_tar(folder / "b.tar", samples(range(6)))
    (folder / "_info.json").write_text(
        json.dumps({"splits": {"train": {"filenames": ["b.tar"]}, "validation": {"filenames": ["a.tar"]}}})
    )
    assert {part: len(found.images) for part, found in open_files(folder).items()} == {"train": 6, "val": 9}


def test_a_part_whose_labels_are_withheld_is_no_part(foreign):
    write_tar(foreign / "some-test-0000.tar", {"1.png": png(1), "1.cls": b"-1"})
    assert set(open_files(foreign)) == {"train", "val"}


def test_a_damaged_index_is_made_again(foreign, home):
    open_files(foreign)
    for path in (home / ".cache" / "ffvit" / "shards").glob("*/train.index"):
        path.write_bytes(path.read_bytes()[:-7])
    assert len(open_files(foreign)["train"].images) == 45


def test_an_index_that_cannot_be_kept(foreign, home):
    home.touch()
    with pytest.raises(UserError, match=r"the index of .*foreign cannot be kept there .Not a directory"):
        open_files(foreign)


def cut(folder: Path) -> None:
    path = folder / "some-train-0000.tar"
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "some-train-0000.tar: is cut off, or no tar file"),
        (lambda folder: (folder / "train-9.tar").touch(), "train-9.tar: is cut off, or no tar file .empty file"),
        (lambda folder: (folder / "train-9.tar").write_bytes(b"x" * 20_000), "train-9.tar: is cut off, or no tar file"),
        (lambda folder: write_tar(folder / "train-9.tar", {}), "train-9.tar: there is no image in it"),
        (lambda folder: write_tar(folder / "train-9.tar", {"1.jpg": b""}), "1.jpg has no label"),
        (lambda folder: write_tar(folder / "train-9.tar", {"1.jpg": b"", "1.json": b"[1"}), "1.jpg has no label"),
        (
            lambda folder: write_tar(folder / "train-9.tar", {"1.jpg": b"", "1.cls": b"cat"}),
            "has '0'; .*1.jpg has 'cat': some labels",
        ),
        (lambda folder: write_tar(folder / "train-9.tar", {"1.jpg": b"", "1.cls": b"9" * 30}), "as its label; a label"),
        (lambda folder: write_tar(folder / "more.tar", samples(range(3))), "more.tar does not say which split"),
        (lambda folder: (folder / "train-8.tar").symlink_to("nowhere"), "train-8.tar: cannot be read"),
    ],
)
def test_bad_tars_are_told_in_a_sentence(foreign, spoil, words):
    spoil(foreign)
    with pytest.raises(UserError, match=words):
        open_splits(Data(source=str(foreign)))


def test_a_folder_of_class_folders_with_a_tar_is_one_of_class_folders(photos, tmp_path):
    assert find_files(photos, TARS) is None
    (tmp_path / "cats").mkdir()
    write_tar(tmp_path / "backup.tar", {})
    assert find_files(tmp_path, TARS) is None
