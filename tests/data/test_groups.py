from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.datasets import load_sample_image

from ffvit.config.data import Data
from ffvit.data.check import near_duplicates as search_module
from ffvit.data.holdout import hold_out_groups
from ffvit.data.prepare.prepare import prepare
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import UserError

CLASSES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A home of its own, where near-duplicates are kept."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def touched(folder: Path, paths) -> Path:
    """Empty files: nothing opens them."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.fixture
def patients(tmp_path) -> pd.DataFrame:
    """180 images of 30 patients (10 of each class, of 2 to 10 images), with a list of them."""
    rows = [
        (f"img/{patient}_{number}.jpg", CLASSES[patient % 3], f"{patient:03d}")
        for patient in range(30)
        for number in range(2 + 2 * (patient // 3 % 5))
    ]
    table = pd.DataFrame(rows, columns=["path", "label", "patient"])
    touched(tmp_path, table["path"])
    return table


def write(table: pd.DataFrame, folder: Path) -> str:
    table.to_csv(folder / "list.csv", index=False)
    return str(folder / "list.csv")


def names(images) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def in_part(splits: Splits) -> dict[str, str]:
    """The split of each image, by the image's file name."""
    return {
        Path(name).name: split
        for split in ("train", "validation", "test")
        if getattr(splits, split) is not None
        for name in names(getattr(splits, split))
    }


def are_whole(splits: Splits, group_of) -> bool:
    """Whether every group lies in one split; `group_of` tells the group of a file name."""
    found: dict[object, set[str]] = {}
    for name, split in in_part(splits).items():
        found.setdefault(group_of(name), set()).add(split)
    return all(len(each) == 1 for each in found.values())


def by_file(table: pd.DataFrame, column: str = "patient"):
    return dict(zip(table["path"].map(lambda path: Path(path).name), table[column], strict=True)).__getitem__


def number_of(name: str) -> int:
    return int(Path(name).stem.split("_")[0])


class TestColumn:
    @pytest.mark.parametrize("seed", range(10))
    def test_no_split_cuts_a_group(self, patients, tmp_path, seed):
        splits = open_splits(Data(source=write(patients, tmp_path), groups="patient", split_seed=seed))
        assert are_whole(splits, by_file(patients))
        for split in (splits.train, splits.validation, splits.test):
            assert set(split.labels) == {0, 1, 2}
        assert (len(splits.train) + len(splits.validation) + len(splits.test)) == 180
        assert 0.1 <= len(splits.test) / 180 <= 0.3
        assert splits.test_ratio == len(splits.test) / (180 - len(splits.test))
        assert (splits.drawn, splits.official_test, splits.groups) == (("test", "validation"), False, 30)
        assert list(splits.test_groups) == [by_file(patients)(Path(name).name) for name in names(splits.test)]
        assert "180 images of 3 classes in 30 groups from " in splits.account
        assert "test and validation drawn at random, in whole groups (by 'patient'), class by class" in splits.account

    def test_the_same_seed_draws_the_same(self, patients, tmp_path):
        data = Data(source=write(patients, tmp_path), groups="patient", split_seed=3)
        assert names(open_splits(data).test) == names(open_splits(data).test)

    def test_groups_of_several_classes(self, patients, tmp_path):
        patients["patient"] = [f"{number % 25}" for number in range(180)]
        splits = open_splits(Data(source=write(patients, tmp_path), groups="patient"))
        assert are_whole(splits, by_file(patients))
        for split in (splits.train, splits.validation, splits.test):
            assert set(split.labels) == {0, 1, 2}

    def test_folds_test_every_group_once(self, patients, tmp_path):
        data = Data(source=write(patients, tmp_path), groups="patient", folds=5, fold=0)
        splits = [open_splits(data.replace(fold=fold)) for fold in range(5)]
        tested = [set(each.test_groups) for each in splits]
        assert sorted(name for each in tested for name in each) == sorted(patients["patient"].unique())
        for each in splits:
            assert set(each.test.labels) == {0, 1, 2}
            assert are_whole(each, by_file(patients))

    def test_an_official_test_part_is_kept(self, patients, tmp_path):
        patients["split"] = np.where(patients["patient"] < "006", "test", "train")
        splits = open_splits(Data(source=write(patients, tmp_path), groups="patient"))
        assert (splits.drawn, splits.official_test) == (("validation",), True)
        assert set(splits.test_groups) == {f"{patient:03d}" for patient in range(6)}
        assert are_whole(splits, by_file(patients))

    def test_groups_of_one_image_change_nothing_and_the_account_says_so(self, patients, tmp_path):
        patients["patient"] = [f"{number}" for number in range(180)]
        source = write(patients, tmp_path)
        splits = open_splits(Data(source=source, groups="patient"))
        assert in_part(splits) == in_part(open_splits(Data(source=source)))
        assert "Groups have no effect: by 'patient', every image is one of its own." in splits.account

    def test_without_groups_there_are_none(self, patients, tmp_path):
        splits = open_splits(Data(source=write(patients, tmp_path)))
        assert (splits.groups, splits.test_groups) == (None, None)
        assert "180 images of 3 classes from " in splits.account


@pytest.mark.parametrize("groups", [None, "patient"])
def test_another_split_seed_redraws_what_is_drawn_and_nothing_else(patients, tmp_path, groups):
    source = write(patients, tmp_path)
    one, other = (open_splits(Data(source=source, groups=groups, split_seed=seed)) for seed in (0, 1))
    assert set(names(one.test)) != set(names(other.test))
    assert set(names(one.validation)) != set(names(other.validation))
    folds = [open_splits(Data(source=source, groups=groups, split_seed=seed, folds=5, fold=0)) for seed in (0, 1)]
    assert set(names(folds[0].test)) != set(names(folds[1].test))

    patients["split"] = np.where(patients["patient"] < "006", "test", "train")
    write(patients, tmp_path)
    one, other = (open_splits(Data(source=source, groups=groups, split_seed=seed)) for seed in (0, 1))
    assert names(one.test) == names(other.test)
    assert set(names(one.validation)) != set(names(other.validation))

    patients["split"] = np.select([patients["patient"] < "006", patients["patient"] < "012"], ["test", "val"], "train")
    write(patients, tmp_path)
    one, other = (open_splits(Data(source=source, groups=groups, split_seed=seed)) for seed in (0, 1))
    assert in_part(one) == in_part(other)
    assert (one.drawn, one.official_test) == ((), True)


class TestPaths:
    @pytest.fixture
    def bursts(self, tmp_path) -> Path:
        return touched(
            tmp_path / "set",
            (
                f"{name}/{burst}/deep/{burst}_{number}.jpg"
                for name in CLASSES
                for burst in range(8)
                for number in range(3)
            ),
        )

    @pytest.mark.parametrize("groups", ["folder", r"re:/(\d+)/", r"re:(\d+)_\d+\.jpg$"])
    def test_a_folder_below_the_class_or_a_pattern_makes_a_group(self, bursts, groups):
        splits = open_splits(Data(source=str(bursts), groups=groups))
        assert splits.groups == 8  # of all classes: a patient may have images in several
        assert [str(number_of(name)) for name in names(splits.test)] == list(splits.test_groups)
        assert are_whole(splits, number_of)

    def test_all_brackets_or_the_whole_match(self, bursts):
        assert open_splits(Data(source=str(bursts), groups=r"re:^(\w)/(\d+)/")).groups == 24
        assert open_splits(Data(source=str(bursts), groups=r"re:^\w/\d+/")).groups == 24

    @pytest.mark.parametrize("parted", [False, True])
    def test_shards_have_the_groups_of_the_folder_they_were_made_of(self, tmp_path, parted):
        folder = tmp_path / "set"
        for split in ("train", "val") if parted else ("",):
            for name in CLASSES:
                for burst in range(4):
                    path = folder / split / name / f"{split}{burst}"
                    path.mkdir(parents=True)
                    for number in range(2):
                        PIL.Image.new("RGB", (4, 4)).save(path / f"{number}.png")
        prepare(folder, tmp_path / "shards", workers=1, console=Console(quiet=True))
        for groups in ("folder", r"re:^\w/(\w+)/"):
            of_folder, of_shards = (
                open_splits(Data(source=str(source), groups=groups)) for source in (folder, tmp_path / "shards")
            )
            assert of_folder.groups == of_shards.groups == (8 if parted else 4)
            assert list(of_shards.test_groups) == [Path(name).parent.name for name in names(of_shards.test)]


BOXES = [(left, top, left + 160, top + 140) for left in (0, 160, 320, 480) for top in (0, 140, 280)]


@pytest.fixture(scope="module")
def regions() -> list[PIL.Image.Image]:
    """24 photographs with nothing in common."""
    photos = [PIL.Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [photo.crop(box) for photo in photos for box in BOXES]


class TestNearDuplicates:
    @pytest.fixture
    def folder(self, tmp_path, regions) -> Path:
        """24 photographs in two classes, each three times: as it is, smaller, and of a poorer quality."""
        for number, region in enumerate(regions):
            path = tmp_path / "set" / "ab"[number % 2]
            path.mkdir(parents=True, exist_ok=True)
            region.save(path / f"{number}_first.jpg", quality=92)
            region.save(path / f"{number}_poor.jpg", quality=70)
            region.resize((100, 88)).save(path / f"{number}_small.png")
        return tmp_path / "set"

    def test_copies_stay_together(self, folder):
        for seed in range(3):
            splits = open_splits(Data(source=str(folder), groups="near-duplicates", split_seed=seed))
            assert splits.groups == 24
            assert are_whole(splits, number_of)
            assert "in whole groups (by near-duplicates)" in splits.account
            assert list(map(number_of, splits.test_groups)) == list(map(number_of, names(splits.test)))

    def test_together_with_a_column_both_count(self, folder, tmp_path):
        paths = sorted(str(path.relative_to(tmp_path)) for path in folder.glob("*/*"))
        table = pd.DataFrame({"path": paths, "label": [Path(path).parent.name for path in paths]})
        # The column knows of the first photographs only; that their copies belong with them is found.
        table["patient"] = [str(number_of(path) % 12) if "first" in path else path for path in paths]
        source = write(table, tmp_path)
        assert open_splits(Data(source=source, groups="patient")).groups == 12 + 48
        splits = open_splits(Data(source=source, groups="patient+near-duplicates"))
        assert splits.groups == 12
        assert "in whole groups (by 'patient' and near-duplicates)" in splits.account
        assert are_whole(splits, lambda name: number_of(name) % 12)

    def test_a_list_may_name_its_parts_in_any_order(self, folder, tmp_path):
        paths = [
            str(path.relative_to(tmp_path))
            for kind in ("first", "poor", "small")
            for path in sorted(folder.glob(f"*/*{kind}*"), key=number_of)
        ]
        table = pd.DataFrame({"path": paths, "label": [Path(path).parent.name for path in paths]})
        table["split"] = ["test" if number_of(path) < 6 else "train" for path in paths]
        splits = open_splits(Data(source=write(table, tmp_path), groups="near-duplicates"))
        assert are_whole(splits, number_of)
        assert list(map(number_of, splits.test_groups)) == list(map(number_of, names(splits.test)))

    def test_small_images_are_grouped_if_they_are_the_same_to_the_byte(self, tmp_path, regions):
        for number, region in enumerate(regions):
            path = tmp_path / "set" / "ab"[number % 2]
            path.mkdir(parents=True, exist_ok=True)
            small = region.resize((24, 24))
            for copy in range(2):
                small.save(path / f"{number}_{copy}.png")
            small.resize((25, 25)).save(path / f"{number}_other.png")
        splits = open_splits(Data(source=str(tmp_path / "set"), groups="near-duplicates"))
        assert splits.groups == 48

    def test_blank_and_unreadable_images_belong_with_no_other(self, folder):
        for number in range(3):
            PIL.Image.new("RGB", (90, 90)).save(folder / "a" / f"blank{number}.png")
            (folder / "a" / f"bad{number}.png").touch()
        assert open_splits(Data(source=str(folder), groups="near-duplicates")).groups == 24 + 6

    def test_they_are_searched_for_again_only_if_a_file_has_changed(self, folder, monkeypatch):
        data = Data(source=str(folder), groups="near-duplicates")
        searches = []
        search = search_module.near_duplicates
        monkeypatch.setattr(search_module, "near_duplicates", lambda whole: searches.append(1) or search(whole))
        first, again = open_splits(data), open_splits(data)
        assert len(searches) == 1
        assert in_part(first) == in_part(again)
        for name in ("0_poor.jpg", "0_first.jpg", "0_small.png"):
            (folder / "a" / name).write_bytes((folder / "a" / "2_poor.jpg").read_bytes())
        assert open_splits(data).groups == 23
        assert len(searches) == 2

    def test_those_in_shards_are_kept_too(self, folder, tmp_path, monkeypatch):
        prepare(folder, tmp_path / "shards", workers=1, console=Console(quiet=True))
        data = Data(source=str(tmp_path / "shards"), groups="near-duplicates")
        assert open_splits(data).groups == 24
        monkeypatch.setattr(search_module, "near_duplicates", None)
        assert open_splits(data).groups == 24

    def test_a_home_that_cannot_be_written_to_is_no_obstacle(self, folder, home):
        home.touch()
        assert open_splits(Data(source=str(folder), groups="near-duplicates")).groups == 24

    def test_too_many_alike(self, folder, monkeypatch):
        monkeypatch.setattr(search_module, "near_duplicates", lambda whole: (np.arange(len(whole)), True))
        with pytest.raises(
            UserError, match=r"so many images of .* look alike that not all near-duplicates can be found"
        ):
            open_splits(Data(source=str(folder), groups="near-duplicates"))

    def test_copies_in_an_official_test_part(self, folder, tmp_path):
        (tmp_path / "parted").mkdir()
        folder.rename(tmp_path / "parted" / "train")
        for name in "ab":
            path = tmp_path / "parted" / "test" / name
            path.mkdir(parents=True)
            for number in range(2):
                original = next((tmp_path / "parted" / "train" / name).glob(f"{2 * number + (name == 'b')}_small.png"))
                original.rename(path / original.name)
        with pytest.raises(
            UserError,
            match=r"4 of 24 groups by near-duplicates lie in both train and test of .*_first\.jpg \(2 and 1 images\)",
        ):
            open_splits(Data(source=str(tmp_path / "parted"), groups="near-duplicates"))


class TestBadInput:
    def fails(self, message: str, **data):
        with pytest.raises(UserError, match=message):
            open_splits(Data(**data))

    def test_no_such_column(self, patients, tmp_path):
        self.fails(
            r"list\.csv has no column 'pateint', did you mean 'patient'\?; its columns are: label, patient",
            source=write(patients, tmp_path), groups="pateint",
        )  # fmt: skip

    def test_a_column_with_gaps(self, patients, tmp_path):
        patients.loc[:3, "patient"] = ""
        self.fails(
            r"4 rows have nothing in the column 'patient' \(first: img/0_0.jpg\); an image that belongs with no other needs "
            "a value of its own",
            source=write(patients, tmp_path), groups="patient",
        )  # fmt: skip

    @pytest.mark.parametrize("groups", ["patient", "re:img"])
    def test_a_constant(self, patients, tmp_path, groups):
        patients["patient"] = "x"
        self.fails(
            rf"data.groups: by '{groups}', all 180 images of .* are one group \((x|img)\), and no group is ever split",
            source=write(patients, tmp_path), groups=groups,
        )  # fmt: skip

    def test_no_list(self, photos):
        self.fails(
            "is no list, so it has no column 'patient'; group its images by", source=str(photos), groups="patient"
        )
        self.fails(
            "no column 'near-duplicate', did you mean 'near-duplicates'?", source=str(photos), groups="near-duplicate"
        )

    def test_no_paths(self):
        self.fails("the images of digits have no paths, so 'folder' tells nothing", source="digits", groups="folder")

    def test_no_folder_below_the_class(self, photos):
        self.fails(
            r"48 of 48 images of .* lie in no folder below that of their class \(first: dahlia/0000.jpg\)",
            source=str(photos), groups="folder",
        )  # fmt: skip

    def test_a_pattern_that_does_not_match(self, photos):
        self.fails(
            r"36 of 48 images of .* do not match 're:\^dahlia' \(first: leaves/0000.jpg\)",
            source=str(photos), groups="re:^dahlia",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("groups", "message"), [("re:(", "is no regular expression"), ("re:", "names nothing"), ("", "names nothing")]
    )
    def test_what_says_nothing(self, groups, message):
        with pytest.raises(UserError, match=message):
            Data().replace(groups=groups)

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_groups_in_train_and_in_an_official_part(self, patients, tmp_path, split):
        is_first = patients["path"].str.endswith("_0.jpg")
        patients["split"] = np.where(is_first & (patients["patient"] < "004"), split, "train")
        self.fails(
            rf"4 of 30 groups by 'patient' lie in both train and {split} of .*: 000 \(1 and 1 images\), 001 \(1 and 1 images\), "
            r"002 \(1 and 1 images\) and 1 more; leave their images out of train, or give all images unsplit",
            source=write(patients, tmp_path), groups="patient",
        )  # fmt: skip

    def test_too_few_groups_of_a_class(self, patients, tmp_path):
        few = patients[(patients["label"] != "b") | patients["patient"].isin(["001", "004"])]
        self.fails(
            r"too few groups \(by 'patient'\) in .* of 'b' \(2\): every class needs 3, one for each split",
            source=write(few, tmp_path), groups="patient",
        )  # fmt: skip
        assert open_splits(Data(source=str(tmp_path / "list.csv"), groups="patient", validation=0)).groups == 22
        self.fails("'b' .2.: every class needs 4", source=str(tmp_path / "list.csv"), groups="patient", folds=4, fold=0)

    def test_groups_of_several_classes_that_allow_no_split(self, tmp_path):
        """Whichever group is held out, or left: one class is missing."""
        rows = [("0.jpg", "a", "x"), ("1.jpg", "c", "x"), ("2.jpg", "a", "y"), ("3.jpg", "b", "y")]
        table = pd.DataFrame([*rows, ("4.jpg", "b", "z"), ("5.jpg", "c", "z")], columns=["path", "label", "patient"])
        touched(tmp_path, table["path"])
        source = write(table, tmp_path)
        self.fails(
            "no split by whole groups was found that leaves images of '[abc]' in every split: its 2 groups also hold other "
            "classes.*; it takes more groups with '[abc]'",
            source=source, groups="patient", validation=0, test=0.4,
        )  # fmt: skip
        self.fails(
            "with whole groups, one of 2 folds holds no image of '[abc]', or all of them; take fewer folds, or add groups",
            source=source, groups="patient", folds=2, fold=0,
        )  # fmt: skip


@given(
    contents=st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3).filter(any), min_size=3, max_size=40),
    share=st.floats(0.05, 0.5),
    leave=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_holding_out_groups_keeps_them_whole_and_every_class_on_both_sides(contents, share, leave, seed):
    table = np.array(contents)
    labels = np.concatenate([np.repeat(np.arange(3), row) for row in table])
    groups = np.repeat(np.arange(len(table)), table.sum(1))
    sizes = table.sum(0)
    wanted = np.minimum(np.maximum(np.round(share * sizes).astype(np.int64), 1), np.maximum(sizes - leave, 0))
    try:
        held = hold_out_groups(labels, groups, wanted, leave, seed, CLASSES)
    except UserError:
        # It takes more than leave groups of each class, and not all of a class in groups that others need too.
        assert ((table > 0).sum(0) <= leave).any() or ((table > 0).sum(1) > 1).any()
        return
    taken = np.array([held[groups == group].all() for group in range(len(table))])
    assert [held[groups == group].any() for group in range(len(table))] == taken.tolist()
    assert ((table[taken] > 0).sum(0) >= 1).all()
    assert ((table[~taken] > 0).sum(0) >= leave).all()
    assert (held == hold_out_groups(labels, groups, wanted, leave, seed, CLASSES)).all()


def test_groups_of_one_size_meet_the_numbers_wanted():
    labels, groups = np.repeat([0, 1, 2], [100, 50, 30]), np.arange(180) // 5
    held = hold_out_groups(labels, groups, np.array([20, 10, 5]), 1, 0, CLASSES)
    assert np.bincount(labels[held]).tolist() == [20, 10, 5]


def test_every_group_is_drawn_as_often_as_another():
    labels, groups = np.zeros(60, dtype=np.int64), np.arange(60) // 3
    drawn = sum(
        hold_out_groups(labels, groups, np.array([12]), 1, seed, CLASSES)[::3].astype(int) for seed in range(500)
    )
    assert drawn.sum() == 500 * 4
    assert 65 <= drawn.min() <= drawn.max() <= 140


def test_a_group_that_overshoots_is_balanced_by_putting_smaller_ones_back():
    sizes = np.array([30, 1, 1, 1, 30, 30, 30])
    labels, groups = np.zeros(sizes.sum(), dtype=np.int64), np.repeat(np.arange(7), sizes)
    for seed in range(20):
        held = hold_out_groups(labels, groups, np.array([30]), 1, seed, CLASSES)
        assert held.sum() in (30, 31)
