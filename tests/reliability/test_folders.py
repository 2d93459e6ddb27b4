"""Output folders and files: nothing is deleted or replaced that the command did not write itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from commands import here
from ffvit.config.recipe import RECIPES
from ffvit.run_folder import Config, Run
from ffvit.study.folder import Study
from ffvit.study.plan import read_plan
from photos import write_photos
from reliability_cases import FAST, contents, plan_file, unprivileged


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def refused(*arguments: object, keeps: Path, code: int = 2, cwd: Path | None = None) -> str:
    """What is said of a command that is refused in one sentence, with every file below `keeps` as it was."""
    before = contents(keeps)
    done = here(*arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert contents(keeps) == before
    return done.stderr


class TestOverwrite:
    def test_train_refuses_a_project_that_has_a_config_yaml_of_its_own(self, tmp_path):
        project = tmp_path / "project"
        (project / "photos" / "cat").mkdir(parents=True)
        (project / "photos" / "cat" / "1.jpg").write_bytes(b"an image")
        (project / "thesis.tex").write_text("years of work")
        (project / "config.yaml").write_text("model: resnet\nlr: 0.1\n")
        said = refused("train", "--out", project, "--overwrite", *FAST, keeps=project)
        assert "is no run folder, so --overwrite does not delete it" in said

    def test_train_refuses_a_config_yaml_that_was_written_by_hand(self, tmp_path, trained):
        fields = yaml.safe_load((trained / "config.yaml").read_text())
        del fields["environment"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
        assert "is no run folder" in refused("train", "--out", tmp_path, "--overwrite", *FAST, keeps=tmp_path)

    def test_compare_refuses_a_folder_that_has_a_study_yaml_of_its_own(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "study.yaml").write_text("participants: 12\n")
        (tmp_path / "mine" / "interviews.txt").write_text("not to be had again")
        said = refused(
            "compare", "--study", plan_file(tmp_path), "--out", tmp_path / "mine", "--overwrite", keeps=tmp_path
        )
        assert "is no study folder, so --overwrite does not delete it" in said

    @pytest.mark.parametrize("place", ["notes.txt", "checkpoint/my.bin", "tensorboard/mine/events.txt", "photos/a.jpg"])
    def test_train_refuses_a_run_folder_with_foreign_files(self, run, place):
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / place).write_text("mine")
        said = refused("train", "--out", run, "--overwrite", *FAST, keeps=run)
        assert f"1 file that ffvit did not write lies in it ({place})" in said

    @pytest.mark.parametrize("place", ["notes.txt", "figures/mine.tex", "runs/attention/seed-0/notes.txt"])
    def test_compare_refuses_a_study_folder_with_foreign_files(self, study, tmp_path, place):
        (study / place).write_text("mine")
        said = refused("compare", "--study", plan_file(tmp_path), "--out", study, "--overwrite", keeps=study)
        assert f"1 file that ffvit did not write lies in it ({place})" in said

    def test_a_link_to_a_folder_within_a_run_is_not_followed(self, run, tmp_path):
        shutil.rmtree(run / "tensorboard")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "events.out.tfevents.1").write_text("kept")
        (run / "tensorboard").symlink_to(tmp_path / "elsewhere")
        said = refused("train", "--out", run, "--overwrite", *FAST, keeps=tmp_path)
        assert "1 file that ffvit did not write lies in it (tensorboard)" in said

    def test_the_working_folder_is_refused(self, run):
        for out in (".", run.parent, "../run"):
            said = refused("train", "--out", out, "--overwrite", *FAST, keeps=run, cwd=run)
            assert "is the working folder" in said

    def test_home_and_root_are_refused(self, run, monkeypatch):
        monkeypatch.setenv("HOME", str(run / "me"))
        assert "your home folder" in refused("train", "--out", run, "--overwrite", *FAST, keeps=run)
        assert "/ is the working folder" in refused("train", "--out", "/", "--overwrite", *FAST, keeps=run)

    def test_a_folder_that_holds_the_images_is_refused(self, run, study, tmp_path):
        write_photos(run / "photos", per_class=2)
        said = refused("train", "--data", run / "photos", "--out", run, "--overwrite", *FAST, keeps=run)
        assert "is the data or holds it" in said
        shutil.copytree(run / "photos", study / "photos")
        said = refused(
            "compare", "resnet18", "resnet34", "--data", study / "photos", "--out", study, "--overwrite", keeps=study
        )
        assert "is the data or holds it" in said

    def test_a_run_folder_that_holds_the_weights_to_start_from_is_refused(self, run):
        said = refused("train", "--start-from", run, "--out", run, "--overwrite", *FAST, keeps=run)
        assert "is the file of weights to start from or holds it" in said

    def test_what_ffvit_wrote_is_replaced_and_the_folder_itself_stays(self, run):
        (run / ".DS_Store").write_bytes(b"")
        (run / ".config.yaml.123.tmp").write_text("left by a process that was killed")
        folder = run.stat().st_ino
        old = (run / "summary.json").stat().st_mtime_ns
        done = here("train", "--out", run, "--overwrite", "--seed", 1, *FAST)
        assert done.returncode == 0, done.stderr
        assert run.stat().st_ino == folder  # a mounted folder cannot be made anew
        assert not (run / ".config.yaml.123.tmp").exists()
        assert (run / "summary.json").stat().st_mtime_ns != old
        assert Run(run).config.seed == 1
        assert len(list((run / "tensorboard").iterdir())) == 1

    def test_a_study_is_replaced(self, study, tmp_path):
        another = read_plan(plan_file(tmp_path, title="Another"))
        Study.check_writable(study, another, overwrite=True)
        assert Study.create(study, another, overwrite=True).plan.title == "Another"
        assert sorted(path.name for path in study.iterdir()) == [".lock", "ledger.jsonl", "study.yaml"]


class TestEvaluateWritesOnlyItsOwn:
    def test_an_image_list_is_not_replaced_by_predictions(self, run, tmp_path):
        (tmp_path / "images.csv").write_text("path,label\na.jpg,cat\n")
        said = refused("evaluate", run, "--predictions", tmp_path / "images.csv", keeps=tmp_path)
        assert "images.csv: is there, and is no list of predictions; give another name" in said

    def test_another_json_file_is_not_replaced_by_figures(self, run, tmp_path):
        for text in ('{"name": "mine"}', "[1, 2]", "not JSON", ""):
            (tmp_path / "mine.json").write_text(text)
            said = refused("evaluate", run, "--json", tmp_path / "mine.json", keeps=tmp_path)
            assert "mine.json: is there, and is no file with figures of an evaluation; give another name" in said

    def test_its_own_files_are_replaced(self, run, tmp_path):
        given = ("evaluate", run, "--json", tmp_path / "f.json", "--predictions", tmp_path / "p.csv")
        for _ in range(2):
            assert here(*given).returncode == 0
        assert json.loads((tmp_path / "f.json").read_text())["images"] == 359
        assert len((tmp_path / "p.csv").read_text().splitlines()) == 360

    def test_a_place_that_cannot_be_written_is_found_before_scoring(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr("ffvit.inference.evaluate.Evaluator", None)  # scoring would fail
        (tmp_path / "folder").mkdir()
        for option in ("--json", "--predictions"):
            said = refused("evaluate", run, option, tmp_path / "nowhere" / "x.csv", keeps=tmp_path)
            assert f"{option} {tmp_path}/nowhere/x.csv: there is no folder {tmp_path}/nowhere; make it" in said
            said = refused("evaluate", run, option, tmp_path / "folder", keeps=tmp_path)
            assert "is a folder; give the name of a file" in said
            said = refused("evaluate", run, option, tmp_path / ("x" * 256), keeps=tmp_path)
            assert "File name too long" in said

    def test_a_run_in_a_read_only_folder_is_scored_all_the_same(self, run):
        with unprivileged(run):
            done = here("evaluate", run)
            assert done.returncode == 0, done.stderr
            assert "evaluation.json is not written" in done.stdout
            said = refused("evaluate", run, "--json", run / "f.json", keeps=run)
            assert "no permission to write in" in said


class TestPlacesThatCannotBeUsed:
    """Each is one sentence, before any work is done."""

    @pytest.fixture(autouse=True)
    def _no_work(self, monkeypatch):
        def work(*_: object, **__: object) -> None:
            raise AssertionError("work was begun")

        monkeypatch.setattr("ffvit.training.train.open_splits", work)
        monkeypatch.setattr("ffvit.study.forecast.open_splits", work)

    def commands(self, tmp_path: Path, out: Path) -> list[tuple[object, ...]]:
        return [("train", "--out", out, *FAST), ("compare", "--study", plan_file(tmp_path), "--out", out)]

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_name_that_is_too_long(self, tmp_path, number):
        for out in (tmp_path / ("x" * 256), tmp_path / ("x" * 256) / "y", tmp_path / ("é" * 128)):
            said = refused(*self.commands(tmp_path, out)[number], keeps=tmp_path / "no")
            assert "File name too long" in said

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_link_to_itself(self, tmp_path, number):
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        for out in (tmp_path / "loop", tmp_path / "loop" / "run"):
            said = refused(*self.commands(tmp_path, out)[number], keeps=tmp_path / "no")
            assert "cannot be used" in said
            assert "symbolic links" in said

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_file_above_it(self, tmp_path, number):
        (tmp_path / "file").touch()
        said = refused(*self.commands(tmp_path, tmp_path / "file" / "run")[number], keeps=tmp_path / "no")
        assert f"{tmp_path}/file/run: cannot be made: {tmp_path}/file is no folder" in said

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_folder_above_it_that_cannot_be_written(self, tmp_path, number):
        command = self.commands(tmp_path, tmp_path / "new" / "run")[number]
        with unprivileged(tmp_path):
            assert "cannot be made: no permission to write in" in refused(*command, keeps=tmp_path / "no")

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_folder_above_it_that_cannot_be_read(self, tmp_path, number):
        (tmp_path / "closed").mkdir(mode=0)
        command = self.commands(tmp_path, tmp_path / "closed" / "a" / "run")[number]
        with unprivileged(tmp_path):
            assert "cannot be used: Permission denied" in refused(*command, keeps=tmp_path / "no")


def test_an_empty_folder_takes_a_run_or_a_study(tmp_path):
    plan = read_plan(plan_file(tmp_path))
    for name in ("run", "study"):
        (tmp_path / name).mkdir()
    Study.check_writable(tmp_path / "study", plan)
    assert Study.create(tmp_path / "study", plan).plan == plan
    assert here("train", "--out", tmp_path / "run", *FAST).returncode == 0


def test_a_run_folder_that_was_killed_before_its_config_was_written_counts_as_empty(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("")
    (tmp_path / "run" / ".config.yaml.77.tmp").write_text("half")
    config = Config(network={"name": "ff_micro_patch2_8"}, recipe=RECIPES["digits"])
    assert Run.create(tmp_path / "run", config).config == config
