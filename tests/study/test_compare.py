from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import commands
from ffvit.files.lock import FolderLock

PLAN = {
    "title": "Small and quick",
    "data": "digits",
    "recipe": {"base": "digits", "epochs": 2, "warmup_epochs": 0},
    "network": {
        "width": 16,
        "depth": 1,
        "img_size": 8,
        "patch": 4,
        "in_chans": 1,
        "readout": "mean",
        "position": "vectors",
        "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
    },
    "factors": {"mixer": {"feed-forward": {}, "attention": {"network.patches": {"mixer": "attention", "heads": 2}}}},
    "seeds": 2,
    "search": "none",
    "controls": False,
}


def plan_file(folder: Path, **fields) -> Path:
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump({**PLAN, **fields}, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A study that is done."""
    folder = tmp_path_factory.mktemp("done")
    told = commands.here("compare", "--study", plan_file(folder), "--out", folder / "study")
    assert told.returncode == 0, told.stderr
    (folder / "told.txt").write_text(told.stdout)
    return folder / "study"


@pytest.fixture
def study(done: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(done, tmp_path / "study"))


def test_a_study_tells_plan_runs_verdict_and_report(done: Path):
    told = (done.parent / "told.txt").read_text()
    order = [
        "Small and quick",
        "1,797 images",
        "What this plan can show",
        "4 runs: about",
        "4/4  ",
        "report:",
        "Difference",
        "What next",
    ]
    at = 0
    for words in order:
        at = told.index(words, at)
    for name in (
        "study.yaml",
        "arms.yaml",
        "results.csv",
        "report.html",
        "report.md",
        "costs.json",
        "figures/verdict.svg",
    ):
        assert (done / name).is_file(), name


def test_results_hold_a_row_a_run_and_nothing_of_the_clock(done: Path):
    table = pd.read_csv(done / "results.csv")
    assert list(zip(table["arm"], table["seed"], strict=True)) == [
        (arm, seed) for arm in ("feed-forward", "attention") for seed in (0, 1)
    ]
    assert not any("second" in name or "time" in name or "memory" in name for name in table)


def unfolded(text: str, study: Path) -> str:
    """A report without its folder's name, whose length decides where commands are folded."""
    return " ".join(text.replace("\\\n", " ").replace("\\_", "_").replace(str(study), "STUDY").split())


def test_the_report_is_made_anew_from_the_runs_alone(study: Path, done: Path):
    results, markdown = (study / "results.csv").read_bytes(), (study / "report.md").read_text()
    for name in ("report.html", "report.md", "results.csv"):
        (study / name).unlink()
    told = commands.here("report", study)
    assert told.returncode == 0
    assert (study / "results.csv").read_bytes() == results
    assert unfolded((study / "report.md").read_text(), study) == unfolded(markdown, done)
    assert "1,797 images" in (study / "report.html").read_text()


def test_going_on_with_a_finished_study_does_nothing_again(study: Path):
    before = {file: file.stat().st_mtime_ns for file in study.glob("runs/*/*/summary.json")}
    told = commands.here("compare", "--study", study, "--resume")
    assert told.returncode == 0
    assert "4 of them done before" in told.stdout
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_more_seeds_are_added_to_what_is_there(study: Path):
    before = (study / "runs/attention/seed-0/summary.json").read_text()
    told = commands.here("compare", "--study", study, "--resume", "--seeds", 3)
    assert told.returncode == 0
    assert len(pd.read_csv(study / "results.csv")) == 6
    assert (study / "runs/attention/seed-0/summary.json").read_text() == before


def test_half_of_the_runs_missing_is_reported_as_such(study: Path):
    shutil.rmtree(study / "runs/attention/seed-1")
    told = commands.here("report", study)
    assert told.returncode == 0
    assert "attention, seed 1: not done" in told.stdout
    alone = "one repetition: test images alone; the accuracies are means of 2 and 1 runs"
    assert alone in " ".join(told.stdout.split())
    assert "One repetition says nothing about architectures" in " ".join(told.stdout.split())
    page = (study / "report.html").read_text()
    assert "One pair of runs: its intervals come from the test images alone" in page
    assert "account for both sources" not in page
    assert "attention, seed 1: not done" in (study / "report.html").read_text()
    shutil.rmtree(study / "runs/attention")
    told = commands.here("report", study)
    assert told.returncode == 0
    assert "No verdict" in told.stdout


def test_a_plan_that_was_changed_under_its_runs_is_refused(study: Path, tmp_path: Path):
    changed = plan_file(tmp_path, recipe={"base": "digits", "epochs": 3, "warmup_epochs": 0})
    told = commands.here("compare", "--study", changed, "--out", study, "--resume")
    assert told.returncode == 2
    assert "recipe.epochs was 2, is 3" in told.stderr
    shutil.copy(changed, study / "study.yaml")
    told = commands.here("compare", "--study", study, "--resume")
    assert told.returncode == 2
    assert "recipe.epochs was 2, is 3" in told.stderr


def told_of(study: Path) -> str:
    """What the terminal and the page say of a study, in one line; what the page says comes first."""
    told = commands.here("report", study)
    assert told.returncode == 0, told.stderr
    return " ".join(((study / "report.html").read_text() + told.stdout).split())


def test_a_study_as_planned_is_not_exploratory(study: Path):
    assert "Exploratory" not in told_of(study)
    assert yaml.safe_load((study / "study.yaml").read_text())["frozen"]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--margin", "30"], "margin was changed"),
        (["--sequential", "--max-seeds", "2"], "sequential was changed"),
    ],
)
def test_a_rule_changed_after_results_makes_the_report_exploratory(study: Path, arguments: list[str], words: str):
    told = commands.here("compare", "--study", study, "--resume", *arguments)
    assert told.returncode == 0, told.stderr
    said = " ".join(told.stdout.split())
    assert said.index("Exploratory") < said.index(words) < said.index("Difference")
    page = (study / "report.html").read_text()
    assert page.index("Exploratory") < page.index("Difference ")
    told = commands.here("compare", "--study", study, "--resume", "--margin", "1", "--no-sequential")
    assert "Exploratory" in told.stdout  # putting it back does not undo it


def test_a_plan_edited_by_hand_after_results_makes_the_report_exploratory(study: Path):
    file = study / "study.yaml"
    fields = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**fields, "comparisons": [["attention", "feed-forward"]]}))
    assert "comparisons was changed" in told_of(study)


def test_seeds_added_by_hand_are_looks_with_wider_intervals(study: Path):
    assert "97.5 % interval" in told_of(study)
    commands.here("compare", "--study", study, "--resume", "--seeds", 3)
    said = told_of(study)
    assert "look 2" in said
    assert "98.75 % interval" in said
    assert "Exploratory" not in said


def test_a_run_that_was_deleted_shows(study: Path):
    told_of(study)
    shutil.rmtree(study / "runs/attention/seed-1")
    said = told_of(study)
    assert "1 finished run was deleted: runs/attention/seed-1" in said
    assert commands.here("compare", "--study", study, "--resume").returncode == 0
    assert "was deleted" not in told_of(study)  # done again, to the same bits


def test_arms_are_added_without_running_anything_again(study: Path, tmp_path: Path):
    before = {file: file.stat().st_mtime_ns for file in study.glob("runs/*/*/summary.json")}
    mixers = PLAN["factors"]["mixer"] | {"linear": {"network.patches": {"mixer": "linear"}}}
    plan = plan_file(tmp_path, factors={"mixer": mixers})
    told = commands.here("compare", "--study", plan, "--out", study, "--resume")
    assert told.returncode == 0, told.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(list(study.glob("runs/*/*/summary.json"))) == 6
    assert "factors was changed" in told_of(study)


def test_an_arm_that_has_runs_cannot_be_changed(study: Path, tmp_path: Path):
    mixers = PLAN["factors"]["mixer"] | {"attention": {"network.patches": {"mixer": "attention", "heads": 4}}}
    for added in ({}, {"linear": {"network.patches": {"mixer": "linear"}}}):
        plan = plan_file(tmp_path, factors={"mixer": mixers | added})
        told = commands.here("compare", "--study", plan, "--out", study, "--resume")
        assert told.returncode == 2
        assert "arms may be added to a study, not changed: 'attention'" in told.stderr
        assert "heads" in told.stderr


def test_a_study_of_an_older_version_is_refused_with_what_differs(study: Path):
    file = study / "arms.yaml"
    fields = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**fields, "format": 1}))
    told = commands.here("compare", "--study", study, "--resume")
    assert told.returncode == 2
    assert "begun by another version of ffvit" in told.stderr
    assert "report.html" in told.stderr


def test_the_search_of_every_repetition_is_its_own(tmp_path: Path):
    plan = plan_file(tmp_path, seeds=2, search={"seeds": 1, "length": 0.5, "extend": 0})
    told = commands.here("compare", "--study", plan, "--out", tmp_path / "study")
    assert told.returncode == 0, told.stderr
    trials = list((tmp_path / "study/search").glob("*/*/*/config.yaml"))
    assert len(trials) == 2 * 2 * 5
    splits = {yaml.safe_load(file.read_text())["data"]["split_seed"] for file in trials}
    assert splits == {0, 1}
    table = pd.read_csv(tmp_path / "study/results.csv")
    assert table["lr"].notna().all()


def test_a_run_that_was_exchanged_is_refused(study: Path):
    file = study / "runs/attention/seed-0/config.yaml"
    file.write_text(file.read_text().replace("lr: 0.002", "lr: 0.003"))
    for arguments in (("report", study), ("compare", "--study", study, "--resume")):
        told = commands.here(*arguments)
        assert told.returncode == 2
        assert "recipe.lr was 0.003, is 0.002" in told.stderr


def test_two_at_one_study_are_one_too_many(study: Path):
    with FolderLock(study, "study"):
        told = commands.here("compare", "--study", study, "--resume")
    assert told.returncode == 2
    assert f"process {os.getpid()} on" in told.stderr
    assert "has been writing to this study since" in told.stderr


def test_a_study_is_never_overwritten_unasked(study: Path, tmp_path: Path):
    told = commands.here("compare", "--study", plan_file(tmp_path), "--out", study)
    assert told.returncode == 2
    assert "--resume" in told.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    told = commands.here("compare", "--study", plan_file(tmp_path), "--out", tmp_path / "other", "--overwrite")
    assert told.returncode == 2
    assert "is no study folder" in told.stderr
    assert (tmp_path / "other" / "letter.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ff_tiny_patch16_224"], "at least two different networks"),
        (["ff_tiny_patch16_224", "deit_tny_patch16_224"], "did you mean 'deit_tiny_patch16_224'"),
        (["--resume"], "--study FOLDER"),
        (["--study", "nowhere"], "cannot be read"),
        (["--data", "nowhere"], "there is no 'nowhere'"),
        (["--match", "flop"], "flop"),
        (["--match", "time"], "recipe.minutes"),
        (["--study", "{plan}", "ff_tiny_patch16_224", "vit_tiny_patch16_224"], "not both"),
        (["--study", "{plan}", "--cluster", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--study", "{plan}", "--folds", "1"], "folds"),
    ],
)
def test_faults_are_one_clear_message(tmp_path: Path, arguments: list[str], words: str):
    plan = plan_file(tmp_path)
    told = commands.here("compare", *(each.format(plan=plan) for each in arguments), cwd=tmp_path)
    assert told.returncode == 2
    assert words in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "studies").exists()


def test_dry_run_tells_the_plan_and_makes_nothing(tmp_path: Path):
    told = commands.here("compare", "--study", plan_file(tmp_path), "--dry-run", cwd=tmp_path)
    assert told.returncode == 0
    assert "time a run" in told.stdout
    assert "MiB" in told.stdout
    assert "about" in told.stdout
    assert not (tmp_path / "studies").exists()


def test_a_run_that_fails_is_told_and_the_others_are_reported(tmp_path: Path):
    factors = {
        "rate": {"sane": {}, "mad": {"recipe.lr": 1e30, "recipe.clip_grad_norm": None}, "low": {"recipe.lr": 1e-4}}
    }
    told = commands.here(
        "compare", "--study", plan_file(tmp_path, factors=factors, seeds=1), "--out", tmp_path / "study"
    )
    assert told.returncode == 1
    assert "1 run failed" in told.stderr
    assert "1 of 1 run of mad diverged or failed" in " ".join(told.stdout.split())
    assert "the loss became" in told.stdout
    assert set(pd.read_csv(tmp_path / "study/results.csv")["arm"]) == {"sane", "low"}
    assert "No verdict yet" in told.stdout  # the next comparison does not take the place of the main one
    assert "the loss became" in (tmp_path / "study/report.html").read_text()


def test_minutes_leave_out_rounds_that_would_not_fit(tmp_path: Path):
    plan = plan_file(tmp_path, seeds=40, minutes=0.04)
    told = commands.here("compare", "--study", plan, "--out", tmp_path / "study")
    assert told.returncode == 0, told.stderr
    assert "leave no time for seed" in told.stdout, told.stdout
    rounds = pd.read_csv(tmp_path / "study/results.csv").groupby("seed").size()
    assert len(rounds) < 40
    assert set(rounds) == {2}  # only whole rounds


def test_cross_validation_tests_every_image_once_a_repeat(tmp_path: Path):
    told = commands.here("compare", "--study", plan_file(tmp_path, folds=3, seeds=1), "--out", tmp_path / "study")
    assert told.returncode == 0, told.stderr
    table = pd.read_csv(tmp_path / "study/results.csv")
    assert set(table.groupby("arm")["test_images"].sum()) == {1797}
    names = [pd.read_csv(file)["image"] for file in (tmp_path / "study/runs/attention").glob("*/predictions.csv")]
    assert pd.concat(names).is_unique
    assert "3-fold cross-validation" in (tmp_path / "study/report.html").read_text()


def test_until_settled_adds_seeds_and_stops(tmp_path: Path):
    plan = plan_file(tmp_path, sequential=True, max_seeds=3, margin=0.0)
    told = commands.here("compare", "--study", plan, "--out", tmp_path / "study")
    assert told.returncode == 0, told.stderr
    seeds = pd.read_csv(tmp_path / "study/results.csv")["seed"].nunique()
    assert seeds in (2, 3)
    assert (seeds == 2) == ("conclusive with 2 seeds" in told.stdout)
    assert (seeds == 3) == ("2 seeds: 1 comparison inconclusive" in told.stdout)
    assert "2 planned looks" in (tmp_path / "study/report.html").read_text()
    again = commands.here("report", tmp_path / "study")
    assert f"{seeds} repetitions, paired" in " ".join(again.stdout.split())


def test_runs_end_with_the_study_that_started_them(tmp_path: Path):
    """Or a study gone on would work beside them on the same folders."""
    recipe = {"base": "digits", "epochs": 400}
    process = commands.started("compare", "--study", plan_file(tmp_path, recipe=recipe), "--out", tmp_path / "study")
    while not list((tmp_path / "study").glob("runs/*/*/checkpoint/state.pt")):
        assert process.poll() is None
        time.sleep(0.1)
    children = tree(process.pid)[1:]
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while alive := [
        pid for pid in children if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
    ]:
        assert time.monotonic() < until, f"still there: {alive}"
        time.sleep(0.1)


def tree(pid: int) -> list[int]:
    """A process and all that came of it."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    of: dict[int, list[int]] = {}
    for line in listed.splitlines()[1:]:
        child, parent = map(int, line.split())
        of.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += of.get(each, [])
    return found


def test_groups_are_counted_by_the_interval(tmp_path: Path):
    pictures, labels = load_digits(n_class=2, return_X_y=True)
    rows = []
    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        name = f"{number}.png"
        Image.fromarray((pixels.reshape(8, 8) * 15.9).astype(np.uint8)).save(tmp_path / name)
        rows.append((name, f"digit {label}", f"writer {number // 8}"))
    pd.DataFrame(rows, columns=["path", "label", "writer"]).to_csv(tmp_path / "digits.csv", index=False)
    data = {"source": str(tmp_path / "digits.csv"), "groups": "writer"}
    told = commands.here("compare", "--study", plan_file(tmp_path, data=data), "--out", tmp_path / "study")
    assert told.returncode == 0, told.stderr
    assert "The images lie in 45 groups; no split cuts one" in (tmp_path / "study/report.html").read_text()
    answers = pd.read_csv(tmp_path / "study/runs/attention/seed-0/predictions.csv")
    assert answers["group"].nunique() < len(answers)
    missing = commands.here(
        "compare", "--study", plan_file(tmp_path, data={**data, "groups": "writr"}), "--out", tmp_path / "other"
    )
    assert missing.returncode == 2
    assert "did you mean 'writer'" in missing.stderr


def test_the_commands_that_a_report_ends_with_work(study: Path, tmp_path: Path):
    best = max(study.glob("runs/*/*"), key=lambda run: (run / "summary.json").exists())
    told = commands.here("train", "--config", best / "config.yaml", "--recipe.epochs", 6, "--out", tmp_path / "longer")
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "longer/summary.json").is_file()
    told = commands.here("compare", "--study", study / "ablation.yaml", "--dry-run")
    assert told.returncode == 0, told.stderr
    for piece in ("as it is", "no position", "no norm", "half the width"):
        assert piece in told.stdout
    said = (study / "report.md").read_text()
    for command in ("--resume --seeds 4", "config.yaml --epochs 6", "ffvit predict", "ablation.yaml"):
        assert command in said
