"""Data as others write it reads as the same images in class folders."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffvit import Data
from ffvit.data import sources
from ffvit.data.decode import open_image
from ffvit.data.images import BadImageError
from ffvit.data.shards import tars, unpack
from ffvit.data.sources import load_splits
from ffvit.data.splits import open_splits
from ffvit.errors import UserError

CLASSES = ("Bee", "ant", "n2", "n10")  # natural order is ant, Bee, n2, n10; plain text Bee, ant, n10, n2
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "ffvit"


def png(shade: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (2, 2), shade).save(file, "PNG")
    return file.getvalue()


SPLITS = {
    "train": [(png(shade), CLASSES[shade % 4]) for shade in range(24)],
    "val": [(png(shade), CLASSES[shade % 4]) for shade in range(24, 32)],
}


def tar_bytes(samples: list[tuple[bytes, str | int]], label: str = "cls") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, (image, name) in enumerate(samples):
            text = json.dumps({"label": name}) if label == "json" else f"{name}\n"
            for suffix, content in (("png", image), (label, text.encode())):
                member = tarfile.TarInfo(f"{number:03}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_parquet(path: Path, samples, names: tuple[str, ...] | None = None, image: pa.DataType = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": one, "path": "a.png"} if image == IMAGE else one for one, _ in samples]
    labels = [names.index(label) if names else label for _, label in samples]
    table = pa.table({"label": pa.array(labels), "image": pa.array(images, image), "id": range(len(samples))})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=5)
    return path


def halves(samples):
    return samples[: len(samples) // 2], samples[len(samples) // 2 :]


def class_folders(root: Path) -> str:
    for split, samples in SPLITS.items():
        for number, (image, name) in enumerate(samples):
            write(root / split / name / f"{number:03}.png", image)
    return str(root)


def split_folders(root: Path) -> str:
    for split, samples in SPLITS.items():
        for number, half in enumerate(halves(samples)):
            write(root / split / f"{number:04}.tar", tar_bytes(half))
    return str(root)


def split_folders_of_compressed(root: Path) -> str:
    for split, samples in SPLITS.items():
        write(root / split / "0000.tgz", gzip.compress(tar_bytes(samples, "json")))
    return str(root)


def compressed(root: Path) -> str:
    for split, samples in SPLITS.items():
        for number, half in enumerate(halves(samples)):
            write(root / f"{split}-{number}.tar.gz", gzip.compress(tar_bytes(half, "txt")))
    return str(root)


def braces(root: Path) -> str:
    compressed(root)
    return str(root / "{train,val}-{0..1}.tar.gz")


def braces_over_folders(root: Path) -> str:
    split_folders(root)
    return str(root / "{train,val}" / "{0000..0001}.tar")


def parquet(root: Path) -> str:
    for split, samples in SPLITS.items():
        for number, half in enumerate(halves(samples)):
            write_parquet(root / f"{split}-{number:05}-of-00002.parquet", half, ("ant", "Bee", "n2", "n10"))
    return str(root)


def parquet_of_the_hub(root: Path) -> str:
    parquet(root / "data")
    (root / "README.md").touch()
    return str(root)


def parquet_in_split_folders(root: Path) -> str:
    for split, samples in SPLITS.items():
        write_parquet(root / split / "0.parquet", samples, image=pa.binary())
    return str(root)


FORMS = (
    split_folders,
    split_folders_of_compressed,
    compressed,
    braces,
    braces_over_folders,
    parquet,
    parquet_of_the_hub,
    parquet_in_split_folders,
)


def contents(source: str, **options) -> tuple:
    """The classes, and each image with its label, by split."""
    splits = open_splits(Data(source=source, validation=0, **options))
    pairs = {
        split: sorted((images.read(index), int(images.labels[index])) for index in range(len(images)))
        for split, images in (("train", splits.train), ("test", splits.test))
    }
    return splits.classes, pairs


@pytest.mark.parametrize("order", ["natural", "alphabetical"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_as_class_folders(tmp_path, form, order):
    known = contents(class_folders(tmp_path / "folders"), class_order=order)
    assert known[0] == (("ant", "Bee", "n2", "n10") if order == "natural" else ("Bee", "ant", "n10", "n2"))
    assert contents(form(tmp_path / "form"), class_order=order) == known


def test_the_order_of_classes_does_not_change_which_images_are_held_out(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes(SPLITS["train"] * 2))
    natural, plain = (
        open_splits(Data(source=str(path), groups=r"re:(\d)\.", class_order=order))
        for order in ("natural", "alphabetical")
    )
    for one, other in (
        (natural.train, plain.train),
        (natural.validation, plain.validation),
        (natural.test, plain.test),
    ):
        assert [one.name(index) for index in range(len(one))] == [other.name(index) for index in range(len(other))]
        assert [natural.classes[label] for label in one.labels] == [plain.classes[label] for label in other.labels]
    assert natural.classes != plain.classes
    assert natural.test_groups == plain.test_groups


@pytest.mark.parametrize("form", FORMS)
def test_images_keep_their_order_their_names_differ_and_they_travel(tmp_path, form):
    splits = load_splits(form(tmp_path / "form"), None)
    images = pickle.loads(pickle.dumps(splits["train"].images))
    assert [images.read(index) for index in range(24)] == [image for image, _ in SPLITS["train"]]
    names = [images.name(index) for images, _ in splits.values() for index in range(len(images))]
    assert len(set(names)) == len(names) == 32


def one_tar(folder: Path) -> Path:
    return write(folder / "val.tar", tar_bytes(SPLITS["train"]))


def one_compressed(folder: Path) -> Path:
    return write(folder / "x.tar.gz", gzip.compress(tar_bytes(SPLITS["train"])))


def one_parquet(folder: Path) -> Path:
    return write_parquet(folder / "x.parquet", SPLITS["train"])


@pytest.mark.parametrize("form", [one_tar, one_compressed, one_parquet])
def test_one_file_is_not_split(tmp_path, form):
    path = form(tmp_path / "beside")
    (path.parent / "_info.json").write_text('{"splits": {"train": {"filenames": ["other.tar"]}}}')
    (path.parent / "other.tar").touch()
    splits = load_splits(str(path), None)
    assert list(splits) == ["train"]
    assert len(splits["train"].images) == 24
    assert splits["train"].images.name(0).startswith(f"{path.name}:0")


def test_class_label_keeps_its_numbers_and_classes_without_images(tmp_path):
    names = ("zebra", "n2", "ant", "Bee", "n10")
    for split, samples in SPLITS.items():
        write_parquet(tmp_path / f"{split}.parquet", samples, names)
    images, classes = load_splits(str(tmp_path), None)["train"]
    assert classes == names
    assert images.labels.tolist()[:4] == [3, 2, 1, 4]


def test_a_parquet_list_of_paths_stays_one(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.png", png(1))
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "label": ["x", "y"]}), tmp_path / "list.parquet")
    images, classes = load_splits(str(tmp_path / "list.parquet"), None)["train"]
    assert (images.name(1), classes) == (str(tmp_path / "b.png"), ("x", "y"))


def test_of_a_folder_one_kind_is_taken(tmp_path):
    """What a tar file was unpacked from lies beside it; a table beside tar files was never read."""
    write(tmp_path / "x.tar", tar_bytes(SPLITS["train"]))
    write(tmp_path / "x.tar.gz", b"not read")
    write(tmp_path / "metadata.parquet", b"not read")
    assert len(load_splits(str(tmp_path), None)["train"].images) == 24


def test_braces_are_found_from_another_folder(tmp_path, monkeypatch):
    split_folders(tmp_path / "form")
    monkeypatch.chdir(tmp_path)
    located = Data(source="form/{train,val}/{0000..0001}.tar").located()
    monkeypatch.chdir("/")
    assert len(open_splits(located).test) == 8
    assert Data(source="s3://b/{0..1}.tar").located().source == "s3://b/{0..1}.tar"


class TestUnpacked:
    def test_once_and_again_when_the_file_changes(self, tmp_path, home, monkeypatch):
        path = one_compressed(tmp_path)
        load_splits(str(path), None)
        (first,) = home.glob("unpacked/*/*.tar")
        with monkeypatch.context() as patch:
            patch.setattr(unpack, "_unpack_gzip", lambda *_: pytest.fail("unpacked again"))
            load_splits(str(path), None)
        path.write_bytes(gzip.compress(tar_bytes(SPLITS["val"])))
        assert len(load_splits(str(path), None)["train"].images) == 8
        (second,) = home.glob("unpacked/*/*.tar")
        assert first != second
        second.unlink()  # somebody needed the room
        assert load_splits(str(path), None)["train"].images.read(0) == SPLITS["val"][0][0]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("x.tar.gz", lambda whole: gzip.compress(whole)[:-300], "is cut off or damaged .*Compressed file ended"),
            ("x.tar.gz", lambda whole: gzip.compress(whole)[:-8] + bytes(8), "is cut off or damaged .*CRC check"),
            ("x.tgz", lambda whole: b"no gzip", "is cut off or damaged .*Not a gzipped file"),
            ("x.tgz", lambda whole: b"", "x.tgz: is cut off, or no tar file"),
            ("x.tar.gz", lambda whole: gzip.compress(whole[:20_000]), "is cut off, or no tar file"),
            ("x.tar.gz", lambda whole: gzip.compress(gzip.compress(whole)), "is cut off, or no tar file"),
        ],
    )
    def test_damage_is_told_of_the_file_and_nothing_is_kept(self, tmp_path, home, name, content, words):
        path = write(tmp_path / name, content(tar_bytes(SPLITS["train"])))
        with pytest.raises(UserError, match=words) as caught:
            load_splits(str(path), None)
        assert str(caught.value).startswith(f"{path}: ")
        assert not [file for file in home.rglob("*") if file.is_file() and file.name != ".lock"]

    def test_a_bomb_ends_in_a_sentence_and_not_in_a_full_disk(self, tmp_path, home, monkeypatch):
        written = []
        usage = namedtuple("usage", "total used free")

        def disk_usage(folder):
            written.append(sum(file.stat().st_size for file in home.rglob("*.tmp")))
            return usage(0, 0, 10 * 2**20 - written[-1])

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        path = write(tmp_path / "x.tar.gz", gzip.compress(bytes(200 * 2**20), 1))
        with pytest.raises(UserError, match=r"x\.tar\.gz: unpacked it takes more than half of the disk's free room"):
            load_splits(str(path), None)
        assert max(written) <= 6 * 2**20
        assert not [file for file in home.rglob("*") if file.is_file() and file.name != ".lock"]


class TestLabels:
    def test_numbers_and_names_together_are_refused_with_both(self, tmp_path):
        write(tmp_path / "train-0.tar", tar_bytes([(png(1), "cat"), (png(2), "dog")]))
        write(tmp_path / "val-0.tar", tar_bytes([(png(3), 7)]))
        with pytest.raises(
            UserError, match=r"train-0\.tar: 000\.png has 'cat'; .*val-0\.tar: 000\.png has '7': some labels"
        ):
            load_splits(str(tmp_path), None)

    def test_classes_are_those_of_all_splits(self, tmp_path):
        write(tmp_path / "train-0.tar", tar_bytes([(png(1), "n10"), (png(2), "n9")]))
        write(tmp_path / "val-0.tar", tar_bytes([(png(3), "n1"), (png(4), "n10")]))
        splits = load_splits(str(tmp_path), None)
        assert splits["train"].classes == splits["val"].classes == ("n1", "n9", "n10")
        assert [images.labels.tolist() for images, _ in splits.values()] == [[2, 1], [0, 2]]

    def test_a_split_whose_labels_are_withheld_is_no_split(self, tmp_path):
        write(tmp_path / "train-0.tar", tar_bytes([(png(1), "a"), (png(2), "b")]))
        write(tmp_path / "test-0.tar", tar_bytes([(png(3), -1)]))
        assert list(load_splits(str(tmp_path), None)) == ["train"]

    def test_a_caption_is_no_label_where_there_is_one(self, tmp_path):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as file:
            for name, content in (("a.txt", b"a cat on a mat"), ("a.v2.cls", b"cat"), ("a.v2.png", b"")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
        write(tmp_path / "x.tar", tar.getvalue())
        assert load_splits(str(tmp_path), None)["train"].classes == ("cat",)

    @pytest.mark.parametrize("label", ["", "x" * 256, "a\nb", "a\x1b[2J", "1.5", "nan", "9" * 30, "\udcff"])
    def test_what_is_no_name_is_refused(self, tmp_path, label):
        names = tars.ClassNames()
        assert names.number(label, "a.png") is None
        assert not names.as_found
        assert tars.ClassNames().number(True, "a.png") is None

    def test_there_is_a_limit_to_the_number_of_names(self, monkeypatch):
        monkeypatch.setattr(tars, "MOST_CLASSES", 2)
        names = tars.ClassNames()
        assert [names.number(name, "a.png") for name in "abac"] == [0, 1, 0, None]


class TestParquet:
    def refused(self, path: Path, words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            load_splits(str(path), None)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_image_is_unreadable_and_moves_no_other(self, tmp_path):
        path = write_parquet(tmp_path / "x.parquet", [(png(1), "a"), (None, "b"), (png(3), "b")])
        images, _ = load_splits(str(path), None)["train"]
        assert [images.read(0), images.read(2)] == [png(1), png(3)]
        assert images.labels.tolist() == [0, 1, 1]
        with pytest.raises(BadImageError, match=r"x\.parquet:00000001\.png"):
            open_image(images, 1)

    def test_files_without_any_image_are_refused(self, tmp_path):
        self.refused(write_parquet(tmp_path / "x.parquet", [(None, "a"), (None, "b")]), "no row holds the bytes")

    def test_two_columns_of_images_are_refused(self, tmp_path):
        image = pa.array([{"bytes": b"1", "path": None}], IMAGE)
        for names in (("image", "mask", "label"), ("image", "image", "label")):
            table = pa.Table.from_arrays([image, image, pa.array([0])], names=list(names))
            pq.write_table(table, tmp_path / "x.parquet")
            self.refused(tmp_path / "x.parquet", f"looked for one column of images, image.*{names[1]} .struct")

    @pytest.mark.parametrize(
        "columns",
        [
            {"img": [b"1"], "label": [0]},
            {"image": [b"1"]},
            {"image": ["a.png"], "label": [0]},
            {"image": [b"1"], "label": [0.5]},
            {"image": [b"1"], "label": [[0]]},
            {"image": [{"path": "a.png"}], "label": [0]},
        ],
    )
    def test_other_columns_are_refused_with_what_was_looked_for(self, tmp_path, columns):
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        self.refused(
            tmp_path / "x.parquet", "looked for one column of images, image .* columns path and label; its columns are"
        )

    @pytest.mark.parametrize("label", [None, 4])
    def test_labels_of_no_class_are_refused(self, tmp_path, label):
        table = pq.read_table(write_parquet(tmp_path / "x.parquet", SPLITS["train"][:3], CLASSES))
        table = table.set_column(0, "label", pa.array([0, label, 1]))
        pq.write_table(table, tmp_path / "x.parquet")
        self.refused(tmp_path / "x.parquet", f"row 1 has {label} as its label, which is no class")

    def test_files_that_name_classes_otherwise_are_refused(self, tmp_path):
        write_parquet(tmp_path / "train.parquet", SPLITS["train"], CLASSES)
        write_parquet(tmp_path / "val.parquet", SPLITS["val"], CLASSES[::-1])
        self.refused(tmp_path, r"val\.parquet: names its classes twice, or otherwise than .*train\.parquet")

    @pytest.mark.parametrize(
        "metadata", [b"[" * 100_000, b"{", b'{"info": 3}', b'{"info": {"features": {"label": {}}}}']
    )
    def test_damaged_metadata_names_nothing(self, tmp_path, metadata):
        table = pa.table({"image": [b"1", b"2"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, tmp_path / "x.parquet")
        assert load_splits(str(tmp_path), None)["train"].classes == ("0", "1")

    def test_any_damage_is_told_or_shows_in_the_images(self, tmp_path, home):
        path = write_parquet(tmp_path / "form" / "x.parquet", SPLITS["train"][:6], CLASSES)
        whole, refused = path.read_bytes(), 0
        for place in np.linspace(0, len(whole) - 1, 60).astype(int).tolist():
            for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
                path.write_bytes(damaged)
                try:
                    images, classes = load_splits(str(tmp_path / "form"), None)["train"]
                except UserError as error:
                    refused += 1
                    assert str(error).startswith(str(path))  # noqa: PT017
                else:
                    assert all(isinstance(images.read(index), bytes) for index in range(len(images)))
                    assert images.labels.max() < len(classes)
        assert refused > 60

    def test_a_missing_package_is_named(self, tmp_path, monkeypatch):
        write_parquet(tmp_path / "x.parquet", SPLITS["train"])
        monkeypatch.setattr(sources, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"needs the package pyarrow: pip install 'ffvit\[sources\]'"):
            load_splits(str(tmp_path), None)


class TestNames:
    @pytest.mark.parametrize(
        ("braces", "words"),
        [
            ("train/{0000..0003}.tar", r"train/0002\.tar: cannot be read .No such file"),
            ("train/{0000,0000}.tar", "the braces name a file twice"),
            ("train/{0000.tar", "a brace is never closed"),
            ("{train,val}/{0000,0001}.zip", "there is no"),
            ("{train,../elsewhere}/0000.tar", "does not say which split"),
        ],
    )
    def test_wrong_braces_are_told(self, tmp_path, braces, words):
        split_folders(tmp_path / "form")
        write(tmp_path / "elsewhere" / "0000.tar", b"")
        with pytest.raises(UserError, match=words):
            load_splits(str(tmp_path / "form" / braces), None)

    def test_two_folders_of_one_split_are_refused(self, tmp_path):
        split_folders(tmp_path)
        shutil.copytree(tmp_path / "val", tmp_path / "validation")
        with pytest.raises(UserError, match="two of train, val, validation are one split"):
            load_splits(str(tmp_path), None)

    def test_class_folders_with_a_tar_beside_the_images_stay_class_folders(self, tmp_path):
        class_folders(tmp_path)
        for split in SPLITS:
            write(tmp_path / split / "backup.tar", b"")
        write(tmp_path / "test" / "test.tar", b"")
        assert {split: len(images) for split, (images, _) in load_splits(str(tmp_path), None).items()} == {
            "train": 24,
            "val": 8,
        }
