"""What a run is trained and tested on stays what it was, or the next command refuses and says what changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ffvit
from commands import asked, here
from ffvit.config.data import Data
from ffvit.data import split_record
from ffvit.data.split_record import check_split, read_record, record_split, write_record
from ffvit.data.splits import open_splits
from ffvit.run_folder import Run
from ffvit.study.folder import Study
from ffvit.study.plan import read_plan
from reliability_cases import plan_file

QUICK = ("--recipe.epochs", 2, "--recipe.warmup-epochs", 0, "--recipe.batch-size", 8, "--workers", 0, "--image-size", 8)
NETWORK = "ff_micro_patch2_8"


def write_images(folder: Path, per_class: int = 20, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.fixture
def begun(tmp_path: Path, images: Path) -> Path:
    """A run that was killed after its first epoch."""
    from ffvit.training import loop

    with pytest.MonkeyPatch.context() as patch:
        end_epoch = loop.Trainer.end_epoch

        def stop(self, *given):
            end_epoch(self, *given)
            raise KeyboardInterrupt

        patch.setattr(loop.Trainer, "end_epoch", stop)
        done = here("train", NETWORK, "--data", images, "--out", tmp_path / "run", *QUICK)
        assert (tmp_path / "run" / "checkpoint" / "state.pt").exists(), done.stderr
    return tmp_path / "run"


def refused(*arguments: object, cwd: Path | None = None) -> str:
    done = here(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def add(images: Path) -> None:
    Image.new("L", (8, 8)).save(images / "cat" / "00a.png")


def remove(images: Path) -> None:
    (images / "dog" / "07.png").unlink()


def change(images: Path) -> None:
    """Another picture in a file of the same size."""
    file = images / "dog" / "07.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def rename(images: Path) -> None:
    (images / "dog" / "07.png").rename(images / "dog" / "07b.png")


def move(images: Path) -> None:
    (images / "dog" / "07.png").rename(images / "cat" / "07x.png")


CHANGES = [
    (add, "1 added (first: cat/00a.png)"),
    (remove, "1 removed (first: dog/07.png)"),
    (change, "1 changed in content (first: dog/07.png)"),
    (rename, "1 added (first: dog/07b.png); 1 removed (first: dog/07.png)"),
    (move, "1 added (first: cat/07x.png); 1 removed (first: dog/07.png)"),
]


@pytest.mark.parametrize(("edit", "words"), CHANGES, ids=[edit.__name__ for edit, _ in CHANGES])
def test_a_run_is_not_resumed_on_other_images(begun, images, edit, words):
    edit(images)
    said = refused("train", "--out", begun, "--resume")
    assert f"the images are not those of {begun}: {words}" in said
    assert Run(begun).summary() is None


def test_a_run_is_resumed_on_the_same_images_wherever_it_is_resumed_from(begun, images, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.utime(images / "cat" / "00.png", (0, 0))  # as copying would
    assert here("train", "--out", begun, "--resume", cwd=tmp_path / "elsewhere").returncode == 0


def test_a_run_is_not_scored_on_a_test_split_that_moved(begun, images):
    assert here("train", "--out", begun, "--resume").returncode == 0
    assert here("evaluate", begun).returncode == 0
    remove(images)
    said = refused("evaluate", begun)
    assert "1 removed (first: dog/07.png)" in said
    assert "Its test split now holds images that it was trained on" in said


def test_one_image_fewer_would_have_moved_training_images_into_the_test_split(images):
    """Why all this: the split is drawn from the list of images."""
    before = record_split(open_splits(Data(source=str(images))), str(images))
    remove(images)
    after = record_split(open_splits(Data(source=str(images))), str(images))
    trained_on = set(before["image"][before["split"] == "train"])
    assert len(trained_on & set(after["image"][after["split"] == "test"])) > 0


def test_a_relative_path_is_kept_as_an_absolute_one(tmp_path, images):
    assert asked(NETWORK, "--data", "images", *QUICK, cwd=tmp_path).data.source == str(images)
    (tmp_path / "link").symlink_to(images)
    assert asked(NETWORK, "--data", "link", *QUICK, cwd=tmp_path).data.source == str(images)


def test_a_list_that_is_a_link_keeps_the_folder_that_its_paths_begin_in(tmp_path, images):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "all.csv").write_text("path,label\n")
    (images / "all.csv").symlink_to(tmp_path / "lists" / "all.csv")
    assert asked(NETWORK, "--data", "images/all.csv", *QUICK, cwd=tmp_path).data.source == str(images / "all.csv")


def test_a_study_keeps_a_record_of_its_images(compared):
    table = read_record(compared / "split.csv.gz")
    assert len(table) == 1797
    assert all(len(read_record(file)) == 1797 for file in compared.glob("runs/*/*/split.csv.gz"))


@pytest.mark.parametrize("edit", [add, remove])
def test_a_study_is_not_resumed_on_other_images(tmp_path, images, edit):
    plan = read_plan(plan_file(tmp_path, data=str(images)))
    study = Study.create(tmp_path / "study", plan)
    write_record(record_split(open_splits(plan.data), str(images)), study.split_file)
    edit(images)
    before = study.plan_file.read_bytes()
    said = refused("compare", "--study", study.path, "--resume", "--seeds", 2)
    assert f"the images are not those of {study.path}: 1 {edit.__name__.rstrip('e')}ed" in said
    assert study.plan_file.read_bytes() == before


def test_a_run_of_a_study_begins_on_the_images_of_the_study_alone(tmp_path, images):
    """Images that come while a study runs would make its arms incomparable."""
    study = Study.create(tmp_path / "study", read_plan(plan_file(tmp_path, data=str(images))))
    write_record(record_split(open_splits(Data(source=str(images), split_seed=3)), str(images)), study.split_file)
    given = (NETWORK, "--data", images, *QUICK, "--out")
    assert here("train", *given, study.path / "runs" / "arm" / "seed-0").returncode == 0
    add(images)
    said = refused("train", *given, study.path / "runs" / "arm" / "seed-1")
    assert "All runs of a study need the same" in said
    assert "1 added (first: cat/00a.png)" in said


class TestRecord:
    def test_says_of_each_image_where_it_is(self, images, tmp_path):
        splits = open_splits(Data(source=str(images)))
        table = record_split(splits, str(images))
        assert table["split"].value_counts().to_dict() == {"train": 29, "validation": 3, "test": 8}
        first = table.set_index("image").loc["cat/00.png"]
        assert first["label"] == "cat"
        assert int(first["bytes"]) == (images / "cat" / "00.png").stat().st_size

    def test_is_read_back_equal_whatever_files_are_called(self, tmp_path):
        images = write_images(tmp_path / "images")
        odd = [b"\xff\xfe.png", b"a,b.png", b'a"b.png', b"a\nb.png", b"a\rb.png", b"=1+1.png", b"NA.png", b" .png"]
        for name in odd:
            shutil.copy(images / "cat" / "00.png", os.fsencode(images / "cat") + b"/" + name)
        splits = open_splits(Data(source=str(images)))
        table = record_split(splits, str(images))
        for number in (1, 2):
            write_record(table, tmp_path / f"{number}.csv.gz")
        assert (tmp_path / "1.csv.gz").read_bytes() == (tmp_path / "2.csv.gz").read_bytes()
        pd.testing.assert_frame_equal(read_record(tmp_path / "1.csv.gz"), table, check_dtype=False)
        check_split(tmp_path / "1.csv.gz", splits, str(images), "")

    def test_of_a_large_set_reads_a_sample_of_bounded_size(self, images, tmp_path, monkeypatch):
        sizes = [path.stat().st_size for path in images.rglob("*.png")]
        monkeypatch.setattr(split_record, "READ", 20 * np.mean(sizes))
        table = record_split(open_splits(Data(source=str(images))), str(images))
        assert 18 <= (table["crc32"] != "").sum() <= 22
        write_record(table, tmp_path / "r.csv.gz")
        check_split(tmp_path / "r.csv.gz", open_splits(Data(source=str(images))), str(images), "")
        hashed = table["image"][table["crc32"] != ""].iloc[0]
        file = images / hashed
        file.write_bytes(file.read_bytes()[:-20] + bytes(20))
        with pytest.raises(ffvit.UserError, match=f"1 changed in content \\(first: {hashed}\\)"):
            check_split(tmp_path / "r.csv.gz", open_splits(Data(source=str(images))), str(images), "")

    @pytest.mark.parametrize("source", ["digits", "shards", "list"])
    def test_of_every_kind_of_source_holds(self, source, images, tmp_path):
        if source == "shards":
            assert here("prepare", images, tmp_path / "shards", "--workers", 1).returncode == 0
            source = str(tmp_path / "shards")
        if source == "list":
            rows = [f"images/{path.parent.name}/{path.name},{path.parent.name}" for path in images.rglob("*.png")]
            (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]) + "\n")
            source = str(tmp_path / "all.csv")
        splits = open_splits(Data(source=source))
        table = record_split(splits, source)
        assert (table["crc32"] != "").all()
        assert table["image"].is_unique
        write_record(table, tmp_path / "r.csv.gz")
        check_split(tmp_path / "r.csv.gz", splits, source, "")
        with pytest.raises(ffvit.UserError, match="in another split"):
            check_split(tmp_path / "r.csv.gz", open_splits(Data(source=source, split_seed=1)), source, "")

    def test_of_another_order_is_refused(self, images, tmp_path):
        """The draws of an image depend on its place."""
        rows = [
            f"images/{path.parent.name}/{path.name},{path.parent.name},train" for path in sorted(images.rglob("*.png"))
        ]
        rows += [row.replace("train", "test") for row in rows[::5]]
        rows = list({row.split(",")[0]: row for row in rows}.values())
        for order in (rows, rows[::-1]):
            (tmp_path / "all.csv").write_text("\n".join(["path,label,split", *order]) + "\n")
            splits = open_splits(Data(source=str(tmp_path / "all.csv"), validation=0))
            if order is rows:
                write_record(record_split(splits, str(tmp_path / "all.csv")), tmp_path / "r.csv.gz")
        with pytest.raises(ffvit.UserError, match="their order changed"):
            check_split(tmp_path / "r.csv.gz", splits, str(tmp_path / "all.csv"), "")

    @pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b\x08\x00"])
    def test_that_is_damaged_is_one_sentence(self, begun, content):
        whole = Run(begun).split_file.read_bytes()
        for damaged in (content, whole[: len(whole) // 2]):
            Run(begun).split_file.write_bytes(damaged)
            assert "split.csv.gz: cannot be read, so whether the images are still the same cannot be told" in refused(
                "train", "--out", begun, "--resume"
            )


class TestOutputWithinTheData:
    def test_runs_and_studies_are_no_classes(self, images, compared, trained):
        before = open_splits(Data(source=str(images))).account
        shutil.copytree(compared, images / "studies" / "digits")
        shutil.copytree(trained, images / "runs" / "one")
        shutil.copytree(compared, images / "cat" / "study")
        assert any(images.rglob("figures/*.png"))
        assert open_splits(Data(source=str(images))).account == before

    def test_a_study_beside_a_lone_train_folder_makes_it_no_class(self, tmp_path, compared):
        images = write_images(tmp_path / "all" / "train").parent
        shutil.copytree(compared, images / "studies" / "digits")
        assert open_splits(Data(source=str(images))).classes == ("cat", "dog")

    def test_a_run_in_the_default_place_leaves_the_data_as_they_were(self, images):
        for _ in range(2):
            done = here("train", NETWORK, "--data", ".", *QUICK, cwd=images)
            assert done.returncode == 0, done.stderr
            assert "40 images of 2 classes" in done.stdout
        assert len(list((images / "runs").iterdir())) == 2

    @pytest.mark.parametrize("place", ["cat/run", "cat/deep/run", "dog"])
    def test_an_out_within_a_class_is_refused(self, images, tmp_path, place):
        for command in (("train", NETWORK, *QUICK), ("compare", "--study", plan_file(tmp_path))):
            said = refused(*command, "--data", images, "--out", images / place)
            assert "the images of a class; name an --out outside of them" in said or "exists: " in said
            assert not (images / "cat" / "run").exists()


class TestOneFileTwice:
    def test_two_spellings_of_one_path_are_refused(self, images, tmp_path):
        for other in ("./images/cat/00.png", "images/../images/cat/00.png", f"{images}/cat/00.png", "link.png"):
            (tmp_path / "link.png").unlink(missing_ok=True)
            (tmp_path / "link.png").symlink_to(images / "cat" / "00.png")
            (tmp_path / "all.csv").write_text(
                f"path,label,split\nimages/cat/00.png,cat,train\nimages/dog/00.png,dog,train\n{other},cat,test\n"
            )
            said = refused("train", NETWORK, "--data", tmp_path / "all.csv", *QUICK)
            assert f"images/cat/00.png and {other} are the same file" in said

    def test_hard_links_are_two_images(self, images, tmp_path):
        os.link(images / "cat" / "00.png", images / "cat" / "copy.png")
        rows = [f"images/{path.parent.name}/{path.name},{path.parent.name}" for path in images.rglob("*.png")]
        (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        assert "41 images" in open_splits(Data(source=str(tmp_path / "all.csv"))).account


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--seed", 1.5], "--seed: must be a whole number; got '1.5'"),
        (["train", "--image-size", 32.7], "--image-size: must be a whole number; got '32.7'"),
        (["train", "--data", ""], "--data: is empty; give a folder"),
        (["train", "--data", " "], "--data: is empty; give a folder"),
        (["check", ""], "data.source: is empty; give a folder"),
        (["prepare", "", "shards"], "data.source: is empty; give a folder"),
        (["train", "--recipe.minutes", "inf"], "minutes: input should be a finite number"),
        (["train", "--data", "~nobody-here/x"], "there is no"),
        (["compare", "--folds", 2.5], "--folds: must be a whole number; got '2.5'"),
        (["check", "digits", "--near", 2.5], "--near: must be a whole number; got '2.5'"),
    ],
)
def test_a_value_that_would_have_become_another_is_refused(arguments, sentence, tmp_path):
    assert sentence in refused(*arguments, cwd=tmp_path)


@pytest.mark.parametrize("crop", ["0", "nan", "inf", "-1", "1e9", "1.01"])
def test_a_crop_that_is_no_share_is_refused(trained, crop):
    assert "--crop: input should be " in refused("evaluate", trained, "--crop", crop)


def test_data_given_empty_are_not_the_runs_own(trained):
    assert "source: is empty" in refused("evaluate", trained, "--data", "")
    assert "must be a whole number; got '2.5'" in refused("evaluate", trained, "--batch-size", 2.5)


class TestPlacesThatCannotBeRead:
    """Of every command that reads images or weights."""

    @pytest.fixture(params=["train", "evaluate", "predict", "check", "prepare", "predict weights", "evaluate weights"])
    def command(self, request, trained, tmp_path):
        images = write_images(tmp_path / "images", per_class=1)
        return {
            "train": lambda place: ("train", "--data", place),
            "evaluate": lambda place: ("evaluate", trained, "--data", place),
            "predict": lambda place: ("predict", trained, place),
            "check": lambda place: ("check", place, "--out", tmp_path / "check.csv"),
            "prepare": lambda place: ("prepare", place, tmp_path / "shards"),
            "predict weights": lambda place: ("predict", place, images),
            "evaluate weights": lambda place: ("evaluate", place),
        }[request.param]

    def test_a_name_that_is_too_long(self, command, tmp_path):
        assert "File name too long" in refused(*command(tmp_path / ("x" * 256)))

    def test_a_link_to_itself(self, command, tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        assert "symbolic links" in refused(*command(tmp_path / "loop"))


def test_a_list_with_a_name_that_is_too_long_is_one_sentence(tmp_path, images):
    (tmp_path / "all.csv").write_text(f"path,label\nimages/cat/00.png,cat\n{'x' * 300}.png,dog\n")
    assert "1 of its 2 images do not exist" in refused("train", "--data", tmp_path / "all.csv")
