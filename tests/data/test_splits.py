from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset
from torchvision.datasets import ImageFolder

from ffvit.config.data import Data
from ffvit.data import folders, sources, timm_datasets
from ffvit.data.decode import open_image
from ffvit.data.holdout import hold_out
from ffvit.data.images import SPLIT_NAMES, ArrayImages, LabeledImages
from ffvit.data.splits import open_images, open_splits
from ffvit.errors import UserError
from ffvit.terminal import track
from photos import write_photos


def names(images) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def classes_in_paths(images, classes) -> bool:
    """Whether each image's label is the class of the folder it lies in."""
    return [classes[label] for label in images.labels] == [Path(name).parent.name for name in names(images)]


def fill(folder: Path, **sizes: int) -> Path:
    """Empty files do where none is opened."""
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(size):
            (folder / name / f"{number}.jpg").touch()
    return folder


def same_photo(image, path):
    np.testing.assert_array_equal(image, PIL.Image.open(path))


@pytest.fixture
def single(photos) -> Path:
    return photos / "train"


class TestDigits:
    def test_three_parts(self):
        splits = open_splits(Data())
        assert splits.classes == tuple("0123456789")
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (1294, 144, 359)
        assert splits.account == (
            "1,797 images of 10 classes from digits: 1,294 for training (72.0 %), 144 for validation (8.0 %), 359 for "
            "test (20.0 %); test and validation drawn at random, class by class, with split seed 0."
        )
        everything = [*names(splits.train), *names(splits.validation), *names(splits.test)]
        assert sorted(everything) == sorted(f"digits[{number}]" for number in range(1797))

    def test_the_test_part_stays_where_it_is(self):
        """Figures of different versions are compared: this split may never move."""
        assert names(open_splits(Data()).test)[:6] == [f"digits[{number}]" for number in [4, 5, 6, 9, 14, 17]]

    def test_pixels_span_eight_bits(self):
        images = open_splits(Data()).train
        assert open_image(images, 0).size == (8, 8)
        assert {0, 128, 255} <= set(np.stack([open_image(images, index) for index in range(20)]).flat)

    def test_another_seed_draws_others(self):
        first, other = (names(open_splits(Data(split_seed=seed)).test) for seed in (0, 1))
        assert first != other
        assert len(first) == len(other)

    def test_without_selection(self):
        splits = open_splits(Data(validation=0))
        assert splits.validation is None
        assert "the last weights are the result" in splits.account


class TestFolders:
    def test_val_is_the_test_part_where_there_is_no_other(self, photos):
        splits = open_splits(Data(source=str(photos)))
        assert splits.classes == ("dahlia", "leaves", "pagoda", "sky")
        assert sorted(names(splits.test)) == sorted(str(path) for path in photos.glob("val/*/*.jpg"))
        assert sorted([*names(splits.train), *names(splits.validation)]) == sorted(
            map(str, photos.glob("train/*/*.jpg"))
        )
        assert np.bincount(splits.validation.labels).max() - np.bincount(splits.validation.labels).min() <= 1
        for split in (splits.train, splits.validation, splits.test):
            assert classes_in_paths(split, splits.classes)
        same_photo(open_image(splits.test, 4), splits.test.name(4))

    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_val_is_for_selection_where_there_is_test(self, photos, tmp_path, val):
        shutil.copytree(photos / "train", tmp_path / "train")
        shutil.copytree(photos / "val", tmp_path / val)
        shutil.copytree(photos / "val", tmp_path / "test")
        splits = open_splits(Data(source=str(tmp_path)))
        assert len(splits.train) == 48
        assert {Path(name).parent.parent.name for name in names(splits.validation)} == {val}
        assert {Path(name).parent.parent.name for name in names(splits.test)} == {"test"}
        assert "all splits as the data brings them" in splits.account

    def test_a_test_part_without_labels_is_none(self, photos, tmp_path):
        shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
        shutil.copytree(photos / "val" / "sky", tmp_path / "test")
        assert {Path(name).parent.parent.name for name in names(open_splits(Data(source=str(tmp_path))).test)} == {
            "val"
        }

    def test_a_single_folder_is_split_in_three(self, single):
        splits = open_splits(Data(source=str(single), test=0.25, validation=0.2))
        assert [np.bincount(split.labels).sum() for split in (splits.train, splits.validation, splits.test)] == [
            29,
            7,
            12,
        ]
        assert np.bincount(splits.test.labels).tolist() == [3, 3, 3, 3]
        assert not set(names(splits.train)) & set(names(splits.test))
        for split in (splits.train, splits.validation, splits.test):
            assert classes_in_paths(split, splits.classes)

    def test_a_class_of_three_is_in_every_part(self, tmp_path):
        splits = open_splits(Data(source=str(fill(tmp_path, rare=3, common=60)), test=0.6))
        for split in (splits.train, splits.validation, splits.test):
            assert (split.labels == 1).sum() == 1

    def test_a_folder_of_nothing_but_train_is_split_like_a_single_one(self, single, tmp_path):
        (tmp_path / "train").symlink_to(single)
        by_link, plain = open_splits(Data(source=str(tmp_path))), open_splits(Data(source=str(single)))
        assert by_link.test.labels.tolist() == plain.test.labels.tolist()

    def test_a_class_may_be_called_train(self, tmp_path):
        fill(tmp_path, train=5, plane=5, car=5)
        assert open_splits(Data(source=str(tmp_path))).classes == ("car", "plane", "train")

    def test_what_is_found(self, tmp_path):
        fill(tmp_path, n2=5, n10=5)
        for name in (
            "n2/DEEP/er/a.JPEG",
            "n2/.hidden.jpg",
            "n2/.ipynb_checkpoints/a.jpg",
            "__MACOSX/n2/a.jpg",
            "a.jpg",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "n2" / "notes.txt").touch()
        (tmp_path / "empty").mkdir()
        images, classes = folders.read_folder(tmp_path)
        assert classes == ("n2", "n10")
        assert np.bincount(images.labels).tolist() == [6, 5]
        assert str(tmp_path / "n2/DEEP/er/a.JPEG") in names(images)

    def test_links_are_followed_but_not_in_circles(self, tmp_path):
        fill(tmp_path / "set", a=4)
        fill(tmp_path / "elsewhere", b=4)
        (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere" / "b")
        (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
        (tmp_path / "set" / "a" / "self").symlink_to(tmp_path / "set" / "a")
        images, classes = folders.read_folder(tmp_path / "set")
        assert classes == ("a", "b")
        assert np.bincount(images.labels).tolist() == [4, 4]

    def test_names_need_not_be_utf_8(self, tmp_path):
        fill(tmp_path, a=3)
        fill(tmp_path, **{"caf\udce9": 3})
        assert len(open_splits(Data(source=str(tmp_path))).classes) == 2


class TestLists:
    @pytest.fixture
    def rows(self, photos) -> pd.DataFrame:
        paths = sorted(path.relative_to(photos) for path in photos.glob("train/*/*.jpg"))
        return pd.DataFrame({"path": map(str, paths), "label": [path.parent.name for path in paths]})

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_a_list_is_split_in_three(self, photos, rows, suffix):
        path = photos / f"list.{suffix}"
        rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path)
        splits = open_splits(Data(source=str(path)))
        assert splits.classes == ("dahlia", "leaves", "pagoda", "sky")
        assert len(splits.train) + len(splits.validation) + len(splits.test) == 48
        for split in (splits.train, splits.validation, splits.test):
            assert classes_in_paths(split, splits.classes)
        same_photo(open_image(splits.test, 0), splits.test.name(0))

    @pytest.mark.parametrize("validation", ["val", "valid", "validation"])
    def test_a_column_names_the_parts(self, photos, rows, validation):
        rows["split"] = ["train", "train", validation, "test"] * 12
        rows.to_csv(photos / "parted.csv", index=False)
        splits = open_splits(Data(source=str(photos / "parted.csv")))
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 12, 12)
        wanted = rows["path"][rows["split"] == "test"]
        assert [str(photos / path) for path in wanted] == names(splits.test)

    def test_labels_may_be_numbers_and_odd_names(self, tmp_path):
        fill(tmp_path, x=16)
        path = tmp_path / "list.csv"
        labels = [2, 10, "NA", "007"] * 4
        pd.DataFrame({"path": [f"x/{n}.jpg" for n in range(16)], "label": labels}).to_csv(path, index=False)
        assert open_splits(Data(source=str(path))).classes == ("2", "007", "10", "NA")
        codes = ["007", "7.0"] * 8
        pd.DataFrame({"path": [f"x/{n}.jpg" for n in range(16)], "label": codes}).to_csv(path, index=False)
        assert open_splits(Data(source=str(path))).classes == ("007", "7.0")
        numbers = tmp_path / "list.parquet"
        pd.DataFrame({"path": [f"x/{n}.jpg" for n in range(16)], "label": [3, 1] * 8}).to_parquet(numbers)
        assert open_splits(Data(source=str(numbers))).classes == ("1", "3")


class TestTimm:
    """No data set is downloaded: torchvision's folder reader and stand-ins for timm's others."""

    def test_a_torchvision_set(self, photos):
        splits = open_splits(Data(source="torch/image_folder", root=photos))
        assert splits.classes == ("dahlia", "leaves", "pagoda", "sky")
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (43, 5, 12)
        assert splits.test.name(3) == "torch/image_folder:validation[3]"
        same_photo(open_image(splits.test, 3), photos / "val" / "leaves" / "0000.jpg")

    class Stream(IterableDataset):
        """Like timm's IterableImageDataset."""

        def __init__(self, reader, count):
            self.reader, self.count = reader, count

        def __iter__(self):
            for number in range(self.count):
                yield PIL.Image.new("L", (4, 3), number), number % 2

    class Reader:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

    @pytest.fixture
    def shards(self, monkeypatch):
        sizes = {"train": 20, "validation": 6}
        made = []

        def create(name, root, split, **options):
            info = {"splits": dict.fromkeys(sizes)}
            made.append(self.Reader(info=info, class_to_idx={}, dist_rank=1, dist_num_replicas=2))
            return self.Stream(made[-1], sizes[split])

        monkeypatch.setattr(timm_datasets, "create_dataset", create)
        monkeypatch.setattr(sources, "find_spec", lambda name: True)
        return made

    def test_a_stream_is_held_in_memory_whole_by_every_process(self, shards, tmp_path):
        splits = open_splits(Data(source="wds/some", root=tmp_path))
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 6)
        assert splits.classes == ("0", "1")
        assert np.asarray(open_image(splits.test, 5)).tolist() == np.full((3, 4, 3), 5).tolist()
        assert splits.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert {(reader.dist_rank, reader.dist_num_replicas) for reader in shards[1:]} == {(0, 1)}

    @pytest.mark.parametrize(
        ("kind", "instead"), [("wds", "unpack it into a folder"), ("hfids", "use hfds/some, which")]
    )
    def test_a_stream_too_large_to_be_held(self, shards, tmp_path, monkeypatch, kind, instead):
        monkeypatch.setattr(timm_datasets, "MEMORY_LIMIT", 300)
        with pytest.raises(UserError, match=f"{kind}/some can only be read in order.* more than .* GiB; {instead}"):
            open_splits(Data(source=f"{kind}/some", root=tmp_path))

    @pytest.fixture
    def hub(self, monkeypatch, photos):
        """Like timm's ImageDataset over a Hugging Face reader; labels of test are withheld."""
        paths = sorted(photos.glob("train/*/*.jpg"))

        class Rows(dict):
            info = self.Reader(splits={"train": 1, "validation": 1, "test": 1})

        class HubReader(self.Reader):
            def __getitem__(self, index):
                return Path(self.files[index]).open("rb"), int(self.dataset["label"][index])

        class Set:
            def __init__(self, reader):
                self.reader = reader

            def __len__(self):
                return len(self.reader.files)

            def __getitem__(self, index):
                raise AssertionError("timm's dataset skips unreadable images")

        def create(name, root, split, **options):
            label = [-1] * 48 if split == "test" else [number // 12 for number in range(48)]
            classes = {"sky": 3, "dahlia": 0, "leaves": 1, "pagoda": 2}
            return Set(HubReader(dataset=Rows(label=label), label_key="label", class_to_idx=classes, files=paths))

        monkeypatch.setattr(timm_datasets, "create_dataset", create)
        monkeypatch.setattr(sources, "find_spec", lambda name: True)
        return paths

    def test_a_hub_set_whose_test_labels_are_withheld(self, hub):
        splits = open_splits(Data(source="hfds/some/photos"))
        assert splits.classes == ("dahlia", "leaves", "pagoda", "sky")
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (43, 5, 48)
        same_photo(open_image(splits.test, 13), hub[13])

    def test_missing_package(self, monkeypatch):
        monkeypatch.setattr(sources, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"hfds/ needs the package datasets: pip install 'ffvit\[sources\]'"):
            open_splits(Data(source="hfds/some/photos"))

    def test_shards_need_a_place(self, monkeypatch):
        monkeypatch.setattr(sources, "find_spec", lambda name: True)
        with pytest.raises(UserError, match=r"data\.root"):
            open_splits(Data(source="wds/some"))

    def test_what_timm_cannot_open(self, tmp_path):
        with pytest.raises(UserError, match=r"timm cannot open 'torch/cifar11'.*Unknown torchvision dataset"):
            open_splits(Data(source="torch/cifar11", root=tmp_path))


def test_alphabetical_order_is_that_of_torchvision(photos, tmp_path):
    names = dict(zip(("dahlia", "leaves", "pagoda", "sky"), ("n10", "n9", "Sky", "ant"), strict=True))
    for split in ("train", "val"):
        for old, new in names.items():
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / new).symlink_to(photos / split / old)
    splits = open_splits(Data(source=str(tmp_path), class_order="alphabetical"))
    theirs = ImageFolder(tmp_path / "val")
    assert splits.classes == tuple(theirs.classes) == ("Sky", "ant", "n10", "n9")
    ours = {splits.test.name(index): label for index, label in enumerate(splits.test.labels.tolist())}
    assert ours == dict(theirs.samples)
    assert open_splits(Data(source=str(tmp_path))).classes == ("ant", "n9", "n10", "Sky")


def test_every_kind_of_source_is_documented():
    documented = (Path(__file__).parents[2] / "docs" / "data.md").read_text().split("## Sources")[1].split("\n## ")[0]
    assert len({source.name for source in sources.SOURCES}) == len(sources.SOURCES) == 12
    for source in sources.SOURCES:
        assert source.name in documented, source.name
    for name in SPLIT_NAMES:
        assert f"`{name}`" in documented


class TestOpenImages:
    def test_the_test_part_is_taken_and_numbered_as_the_network_does(self, photos):
        known = ("sky", "zebra", "dahlia", "pagoda", "leaves")
        images = open_images(str(photos), None, known)
        assert len(images) == 12
        assert classes_in_paths(images, known)
        assert {Path(name).parent.parent.name for name in names(images)} == {"val"}

    def test_a_folder_of_classes_is_taken_whole(self, photos):
        known = ("sky", "dahlia", "pagoda", "leaves")
        images = open_images(str(photos / "val"), None, known)
        assert len(images) == 12
        assert classes_in_paths(images, known)

    def test_unnamed_classes_are_the_folders_in_order(self, photos):
        images = open_images(str(photos / "val"), None, None)
        assert images.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3

    def test_folders_named_by_numbers_are_counted_like_any_others(self, tmp_path):
        fill(tmp_path, **{"10": 1, "1": 1, "2": 1})
        images = open_images(str(tmp_path), None, None)
        assert {Path(images.name(index)).parent.name: images.labels[index] for index in range(3)} == {
            "1": 0,
            "2": 1,
            "10": 2,
        }

    def test_unnamed_classes_are_the_numbers_of_a_list(self, tmp_path):
        fill(tmp_path, x=2)
        pd.DataFrame({"path": ["x/0.jpg", "x/1.jpg"], "label": [30, 7]}).to_csv(tmp_path / "list.csv")
        assert open_images(str(tmp_path / "list.csv"), None, None).labels.tolist() == [30, 7]
        assert open_images(str(tmp_path / "list.csv"), None, ("7", "8", "30")).labels.tolist() == [2, 0]

    def test_digits(self):
        assert names(open_images("digits", None, tuple("0123456789"))) == names(open_splits(Data()).test)

    def test_an_unknown_class(self, photos):
        with pytest.raises(UserError, match="the network does not know 'leaves', 'sky', did you mean 'leave'"):
            open_images(str(photos), None, ("dahlia", "leave", "pagoda"))


class TestErrors:
    def fails(self, message, **data):
        with pytest.raises(UserError, match=message):
            open_splits(Data(**data))

    def test_no_such_path(self, photos, tmp_path):
        self.fails(r"there is no 'trian' in .*, did you mean 'train'\?", source=str(photos / "trian" / "sky"))
        self.fails(r"there is no 'digts' in .*, did you mean 'digits'\?", source="digts")
        self.fails(r"there is no 'abcdef' in [^,]* \(or a name: digits, or torch/\.\.\.", source="abcdef")

    def test_no_such_prefix(self):
        self.fails("nor a kind of data set 'hdfs', did you mean 'hfds'", source="hdfs/cifar10")

    def test_a_file_that_is_no_list(self, photos):
        self.fails("is a file; give a folder", source=str(next(photos.glob("val/sky/*.jpg"))))

    def test_no_images(self, tmp_path):
        self.fails(r"there is no image in it \(looked for \.jpg \.jpeg .*\.ppm\)", source=str(tmp_path))

    def test_no_class_folders(self, photos):
        self.fails("its 3 images .* lie directly in it", source=str(photos / "val" / "sky"))

    def test_one_class(self, tmp_path):
        self.fails("one class only, 'sky'", source=str(fill(tmp_path, sky=9)))

    def test_no_train(self, photos, tmp_path):
        shutil.copytree(photos / "val", tmp_path / "val")
        self.fails("has val but no train", source=str(tmp_path))

    @pytest.mark.parametrize(("one", "two"), [("val", "validation"), ("valid", "validation"), ("train", "training")])
    def test_a_split_twice(self, tmp_path, one, two):
        for split in ("train", one, two):
            (tmp_path / split).mkdir(exist_ok=True)
        self.fails(f"has both {one}/ and {two}/", source=str(tmp_path))

    def test_parts_that_differ_in_their_classes(self, tmp_path):
        fill(tmp_path / "train", a=3, b=3, **{f"t{number}": 3 for number in range(8)})
        fill(tmp_path / "val", a=3, c=3)
        self.fails(
            "'b', 't0', 't1', 't2', 't3' and 4 more in train but not in val; 'c' in val but not in train",
            source=str(tmp_path),
        )

    def test_classes_too_small_to_be_split(self, tmp_path):
        fill(tmp_path, a=9, b=2)
        self.fails(r"too few images in .* of 'b' \(2\): every class needs 3", source=str(tmp_path))
        assert open_splits(Data(source=str(tmp_path), validation=0)).validation is None

    @pytest.mark.parametrize(
        ("shares", "message"),
        [
            ({"test": 0.001}, "data.test: a share of 0.001 of 20 images is none of them; raise it"),
            ({"test": 0.99}, "data.test: a share of 0.99 of 20 images is all of them"),
            ({"validation": 0.02}, "data.validation: a share of 0.02 of 16 images is none"),
            ({"validation": 0.99}, "data.validation: a share of 0.99 of 16 images is all"),
        ],
    )
    def test_shares_that_leave_a_part_empty(self, tmp_path, shares, message):
        self.fails(message, source=str(fill(tmp_path, a=10, b=10)), **shares)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,label\na.jpg,x\n", "has no column 'path'; its columns are: file, label"),
            ("file,class\na.jpg,x\n", "has no column 'path' nor 'label'; its columns are: file, class"),
            ("", "cannot be read as a table"),
            ('path,label\n"a', "cannot be read as a table"),
            ("path,label\n", "lists no image"),
            ("path,label\nx/0.jpg,\nx/1.jpg,b\n", r"1 rows have no label \(first: x/0.jpg\)"),
            ("path,label\nx/0.jpg,a\nx/0.jpg,b\n", "1 images are listed more than once"),
            ("path,label\nx/0.jpg,a\nx/8.jpg,b\nx/9.jpg,b\n", r"2 of its 3 images do not exist \(first: .*x/8.jpg\)"),
            ("path,label,split\nx/0.jpg,a,tran\n", "unknown split 'tran', did you mean 'train'"),
            ("path,label,split\nx/0.jpg,a,test\n", "has test but no train"),
        ],
    )
    def test_lists(self, tmp_path, text, message):
        fill(tmp_path, x=2)
        (tmp_path / "list.csv").write_text(text)
        self.fails(message, source=str(tmp_path / "list.csv"))

    def test_a_parquet_list_that_is_none(self, tmp_path):
        (tmp_path / "list.parquet").write_bytes(b"no")
        self.fails("cannot be read as a table", source=str(tmp_path / "list.parquet"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
    def test_a_folder_that_may_not_be_listed(self, tmp_path):
        fill(tmp_path, a=3, b=3)
        (tmp_path / "b").chmod(0)
        self.fails("b: cannot be listed", source=str(tmp_path))
        (tmp_path / "b").chmod(0o700)


class TestHoldOut:
    @staticmethod
    def images(sizes):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        labels = np.random.default_rng(0).permutation(labels)
        return ArrayImages("some", np.zeros((len(labels), 1, 1), np.uint8), labels)

    @given(
        sizes=st.lists(st.integers(3, 60), min_size=2, max_size=12),
        share=st.floats(0.01, 0.6),
        leave=st.integers(1, 2),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_is_disjoint_complete_stratified_and_repeatable(self, sizes, share, leave, seed):
        images = self.images(sizes)
        count = max(1, round(share * len(images)))
        kept, held = hold_out(images, count, leave, seed)
        assert sorted([*names(kept), *names(held)]) == sorted(names(images))
        in_class = np.bincount(held.labels, minlength=len(sizes))
        fair = np.array(sizes) * count / len(images)
        assert (in_class >= 1).all()
        assert (np.array(sizes) - in_class >= leave).all()
        at_most = np.array(sizes) - leave
        assert (np.abs(in_class - np.minimum(fair, at_most)) < 1 + 1e-9).all()
        if (fair >= 1).all() and (fair + 1 <= at_most).all():
            assert len(held) == count
        assert names(held) == names(hold_out(images, count, leave, seed)[1])

    def test_the_seed_decides(self):
        images = self.images([50, 50])
        assert names(hold_out(images, 20, 1, 0)[1]) != names(hold_out(images, 20, 1, 1)[1])

    def test_is_capped_for_large_sets(self, monkeypatch):
        many = LabeledImages(self.images([60_000, 60_000, 30_000]), ("a", "b", "c"))
        source = sources.DataSource("many", lambda source, _: source == "many", lambda *_: {"train": lambda: many})
        monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, source))
        splits = open_splits(Data(source="many"))
        assert len(splits.validation) == 10_000
        assert np.bincount(splits.validation.labels).tolist() == [4000, 4000, 2000]


def test_what_takes_long_is_counted_aloud_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert list(track(range(3), "looking", after_seconds=60.0)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    assert list(track(range(3), "looking", after_seconds=-1.0)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert "looking" in err
    assert "3/3" in err
    assert not out


def test_photos_are_seeded(tmp_path):
    first, again = (write_photos(tmp_path / name, 2, classes=("sky", "trees")) for name in "ab")
    found = sorted(path.relative_to(first) for path in first.rglob("*.jpg"))
    assert len(found) == 8
    assert all((first / path).read_bytes() == (again / path).read_bytes() for path in found)


def test_folds_test_every_image_once_with_equal_classes():
    splits = [open_splits(Data(folds=5, fold=fold)) for fold in range(5)]
    names = [each.test.name(index) for each in splits for index in range(len(each.test))]
    assert len(names) == len(set(names)) == 1797
    for each in splits:
        sizes = np.bincount(each.test.labels)
        assert sizes.max() - sizes.min() <= 3
        trained = {each.train.name(index) for index in range(len(each.train))}
        assert not trained & {each.test.name(index) for index in range(len(each.test))}


def test_folds_of_data_that_brings_its_test_part_are_refused(photos: Path):
    with pytest.raises(UserError, match="brings its own test split"):
        open_splits(Data(source=str(photos), folds=3, fold=0))


@pytest.mark.parametrize("fields", [{"folds": 3}, {"fold": 0}, {"folds": 3, "fold": 3}])
def test_a_fold_needs_to_be_one_of_the_folds(fields: dict):
    with pytest.raises(ValueError, match="fold"):
        Data(**fields)
