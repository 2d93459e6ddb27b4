from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from ffvit import Data
from ffvit.data.images import BadImageError, Images
from ffvit.data.prepare.packing import Encoding, pack
from ffvit.data.prepare.prepare import prepare
from ffvit.data.shards.index import RECORD, Shard, write_index, write_info
from ffvit.data.shards.reader import ShardFolder, ShardImages, open_index, open_shards
from ffvit.data.splits import open_images, open_splits
from ffvit.errors import UserError
from memory import most_memory

leaves_files_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset does


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory) -> Path:
    """The photographs in shards of a few images."""
    out = tmp_path_factory.mktemp("shards") / "made"
    prepare(photos, out, shard_size=0.05, workers=2, console=Console(quiet=True))
    return out


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_bytes_labels_and_names_are_those_of_the_folder(made, photos):
    folder = open_splits(Data(source=str(photos), validation=0)).train
    wanted = {
        os.path.relpath(folder.name(index), photos): (folder.read(index), label)
        for index, label in enumerate(folder.labels.tolist())
    }
    parts = open_shards(made)
    assert {part: len(found.images) for part, found in parts.items()} == {"train": 48, "val": 12}
    images, classes = parts["train"]
    assert isinstance(images, Images)
    assert classes == ("dahlia", "leaves", "pagoda", "sky")
    assert images.labels.dtype == np.int64
    found = {}
    for index, label in enumerate(images.labels.tolist()):
        shard, name = images.name(index).split(":", 1)
        assert (made / shard).exists()
        found[name] = images.read(index), label
    assert found == wanted


def test_every_shard_holds_a_mix_of_classes(made):
    images = open_shards(made)["train"].images
    of_shards = [set(images.labels[images.records["shard"] == number]) for number in np.unique(images.records["shard"])]
    assert len(of_shards) > 3
    assert all(len(classes) > 1 for classes in of_shards[:-1])


def test_sizes_are_those_of_the_images(made):
    images = open_shards(made)["val"].images
    for index, record in enumerate(images.records):
        assert PIL.Image.open(io.BytesIO(images.read(index))).size == (record["width"], record["height"])


def test_a_run_takes_them_for_images_in_parts(made):
    parts = open_splits(Data(source=str(made)))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (43, 5, 12)
    assert len(open_images(str(made), None, ("sky", "pagoda", "leaves", "dahlia"))) == 12


@leaves_files_open
def test_webdataset_reads_them(made):
    webdataset = pytest.importorskip("webdataset")
    images = open_shards(made)["train"].images
    files = [str(path) for path in sorted(made.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False))
    assert [sample["jpg"] for sample in samples] == [images.read(index) for index in range(len(images))]
    assert [int(sample["cls"]) for sample in samples] == images.labels.tolist()


@leaves_files_open
def test_timm_reads_them(made):
    pytest.importorskip("webdataset")
    from timm.data.readers.reader_wds import ReaderWds

    images = open_shards(made)["val"].images
    reader = ReaderWds(str(made), split="val")
    assert len(reader) == 12
    read = list(reader)
    assert [label for _, label in read] == images.labels.tolist()
    np.testing.assert_array_equal(np.asarray(read[5][0]), PIL.Image.open(io.BytesIO(images.read(5))))


def test_they_travel_to_other_processes_without_their_index(made):
    images = open_shards(made)["train"].images
    wanted = [images.read(index) for index in range(3)]
    assert len(pickle.dumps(images)) < 2000
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(2) as others:
            assert others.map(images.read, range(3)) == wanted


def test_only_so_many_files_are_open_at_once(made, monkeypatch):
    monkeypatch.setattr(ShardFolder, "open_files", 2)
    images = open_shards(made)["train"].images
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in np.random.default_rng(0).permutation(len(images)).tolist():
        images.read(index)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    del images


class Few:
    """Images made up for a test."""

    def __init__(self, names: list[str], labels: list[int], contents: list[bytes]) -> None:
        self.names, self.contents = names, contents
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> bytes:
        if not self.contents[index]:
            raise BadImageError(self.names[index], "is empty")
        return self.contents[index]


def png(size: int, extra: int) -> bytes:
    """A picture, and some bytes after its end."""
    file = io.BytesIO()
    PIL.Image.new("L", (size, 1), size).save(file, "PNG")
    return file.getvalue() + bytes(extra)


image = st.tuples(
    st.binary(max_size=20).map(os.fsdecode),
    st.integers(0, 2**31 - 1),
    st.one_of(st.just(b""), st.builds(png, st.integers(1, 9), st.integers(0, 1200))),
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(image, min_size=1, max_size=20), st.integers(1, 7), st.randoms(use_true_random=False))
def test_whatever_is_packed_is_read_back(tmp_path_factory, given_images, per_shard, random):
    folder = tmp_path_factory.mktemp("any")
    images = Few(*(list(column) for column in zip(*given_images, strict=True)))
    order = list(range(len(images)))
    random.shuffle(order)
    bad: list[BadImageError | None] = []
    packed = []
    for begin in range(0, len(order), per_shard):
        indices = np.array(order[begin : begin + per_shard], dtype=np.int64)
        file = f"train-{begin:06}.tar"
        packed.append(pack(folder / file, file, images, indices, begin, Encoding(), "", bad.append))
    good = [index for index in order if images.contents[index]]
    assert [error is None for error in bad] == [bool(images.contents[index]) for index in order]
    for shard in packed:
        assert shard.size == (folder / shard.file).stat().st_size
        with tarfile.open(folder / shard.file) as tar:
            assert len(tar.getmembers()) == 2 * len(shard.records)
    packed = [shard for shard in packed if len(shard.records)]
    split = write_index(folder, "train", packed, "")
    assert split.num_samples == len(good)
    if not good:
        return
    found = ShardImages(folder / "train.index", ShardFolder(folder, split.filenames))
    assert [found.read(index) for index in range(len(found))] == [images.contents[index] for index in good]
    assert [found.name(index).split(":", 1)[1] for index in range(len(found))] == [images.names[i] for i in good]
    assert found.labels.tolist() == images.labels[good].tolist()


def info(folder: Path, **changes: object) -> None:
    """Change what `_info.json` says."""
    said = json.loads((folder / "_info.json").read_text())
    (folder / "_info.json").write_text(json.dumps(said | changes))


def cut(path: Path, by: int = 5000) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def other_index(folder: Path) -> None:
    """An index whose records are in another order."""
    path = folder / "train.index"
    records = np.load(path)
    records[["label"]] = records[["label"]][::-1]
    with path.open("wb") as file:
        np.save(file, records)


def older_index(folder: Path) -> None:
    with (folder / "train.index").open("wb") as file:
        np.save(file, np.load(folder / "val.index")[["shard", "offset"]])


def emptied(folder: Path) -> None:
    said = json.loads((folder / "_info.json").read_text())
    said["splits"]["train"]["shard_lengths"][2] = 0
    (folder / "_info.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda at: (at / "train-000002.tar").unlink(),
            r"1 of the \d+ shards of train are missing .first: train-000002",
        ),
        (
            lambda at: cut(at / "train-000001.tar"),
            r"train-000001.tar: is cut off: it has [\d,]+ bytes, and was written",
        ),
        (lambda at: shutil.copy(at / "val.index", at / "val-000000.tar"), "val-000000.tar: is cut off"),
        (lambda at: os.truncate(at / "val-000000.tar", 10**6), "val-000000.tar: is another file: it has"),
        (emptied, "train-000002.tar: is an empty shard"),
        (lambda at: info(at, version=7), "_info.json: is of version 7 of the format, this ffvit reads version 1"),
        (lambda at: info(at, classes=["a", "b"]), "has an image of class 3, but .* names 2 classes"),
        (lambda at: info(at, splits={"train": {}}), "_info.json: is damaged, or was not written by ffvit prepare"),
        (lambda at: info(at, splits=[]), "_info.json: is damaged, or was not written by ffvit prepare"),
        (lambda at: cut(at / "_info.json", 50), "_info.json: is damaged, or was not written"),
        (lambda at: (at / "_info.json").unlink(), "is not fully prepared; give the same"),
        (lambda at: (at / "train.index").unlink(), "train.index: is missing"),
        (lambda at: cut(at / "train.index", 40), "train.index: cannot be read as an index"),
        (lambda at: (at / "train.index").write_bytes(b""), "train.index: cannot be read as an index"),
        (lambda at: shutil.copy(at / "val.index", at / "train.index"), "names: are not the names of the images in"),
        (other_index, "train.index: is not the index that .* describes"),
        (older_index, "train.index: is an index of another version"),
        (lambda at: (at / "train.names").unlink(), "train.names: is missing"),
        (lambda at: cut(at / "val.names", 3), "val.names: are not the names of the images in"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(copy, spoil, words):
    spoil(copy)
    with pytest.raises(UserError, match=words) as error:
        open_splits(Data(source=str(copy)))
    assert "\n" not in str(error.value)


def test_a_read_past_the_end_names_shard_and_place(copy):
    images = open_shards(copy)["train"].images
    shard, offset = images.shards.files[0], int(images.records["offset"][2])
    assert images.records["shard"][2] == 0
    os.truncate(copy / shard, offset + 100)
    with pytest.raises(BadImageError, match=rf"^{shard}:train/.*jpg: the shard is cut off: .* byte {offset}, 100 do"):
        images.read(2)
    assert images.read(0)
    (copy / shard).unlink()
    images = ShardImages(copy / "train.index", images.shards)
    with pytest.raises(BadImageError, match=f"{shard}.*cannot be read at byte {offset} .No such file"):
        images.read(2)


def test_damaged_bytes_are_told_from_those_that_were_written(copy):
    images = open_shards(copy)["train"].images
    shard, offset = images.shards.files[0], int(images.records["offset"][0])
    with (copy / shard).open("r+b") as file:
        file.seek(offset + 50)
        file.write(b"damage")
    with pytest.raises(BadImageError, match=f"its bytes at byte {offset} are not those that were written"):
        images.read(0)


def test_an_index_of_a_million_images_is_mapped_and_not_read(tmp_path):
    count = 1000
    records = np.zeros(count, RECORD)
    records["name_end"] = np.arange(1, count + 1) * 9
    shard = Shard("train-000000.tar", 0, records, b"cat/1.jpg" * count)
    split = write_index(tmp_path, "train", (shard._replace(file=f"{number}.tar") for number in range(1000)), "")
    write_info(tmp_path, ["cat"], [split], {}, "")
    with most_memory() as most:
        images, _ = open_index(tmp_path, lambda split: ShardFolder(tmp_path, split.filenames))["train"]
    assert most() < images.labels.nbytes + 2**20 < images.records.nbytes / 4
    assert images.name(len(images) - 1) == "999.tar:cat/1.jpg"
