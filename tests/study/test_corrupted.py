"""A study whose runs are also scored on corrupted images: columns of its report, and nothing else changes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import ffvit
from ffvit.errors import RunFolderError
from ffvit.study.corrupted import check_arms, is_scored, read_shares
from study_examples import BODY

CPU = ffvit.Hardware(accelerator="cpu")
ASKED = ("patch_drop", "occlusion")
PLAN = {
    "title": "Small and quick",
    "data": "digits",
    "recipe": {"base": "digits", "epochs": 1, "warmup_epochs": 0},
    "network": BODY,
    "factors": {"mixer": {"feed-forward": {}, "attention": {"network.patches": {"mixer": "attention", "heads": 2}}}},
    "seeds": 2,
    "search": "none",
    "controls": False,
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("plans") / "plan.yaml"
    file.write_text(yaml.safe_dump(PLAN))
    return file


@pytest.fixture(scope="module")
def plain(plan) -> Path:
    """A study of two arms and two seeds that asks for nothing."""
    ffvit.compare(study=plan, out=plan.parent / "study")
    return plan.parent / "study"


@pytest.fixture(scope="module")
def done(plain) -> Path:
    """The same, resumed with corruptions."""
    study = Path(shutil.copytree(plain, plain.parent / "asked"))
    ffvit.compare(study=study, resume=True, corruptions=ASKED)
    return study


def runs(study: Path) -> list[Path]:
    return sorted(path.parent for path in study.glob("runs/*/*/summary.json"))


def verdict(study: Path) -> str:
    """The report up to its first section."""
    return (study / "report.md").read_text().partition("\n## ")[0].replace(str(study), "STUDY")


def test_asking_later_trains_nothing_again_and_changes_no_verdict(plain, done):
    assert len(runs(done)) == 4
    for one, other in zip(runs(plain), runs(done), strict=True):
        for name in ("summary.json", "predictions.csv", "best.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
        assert (is_scored(one, ASKED), is_scored(other, ASKED)) == (False, True)
    before, after = (pd.read_csv(study / "results.csv") for study in (plain, done))
    pd.testing.assert_frame_equal(after.drop(columns="corrupted_top1"), before)
    assert "corrupted" not in (plain / "report.md").read_text()
    assert verdict(plain) == verdict(done)
    assert "xploratory" not in verdict(done)


def test_columns_are_what_evaluate_says_of_each_run(done):
    table = pd.read_csv(done / "results.csv").set_index(["arm", "seed"])["corrupted_top1"]
    folder = runs(done)[0]
    robustness = ffvit.evaluate(folder, corruptions=ASKED, hardware=CPU).robustness
    assert table[folder.parent.name, int(folder.name[-1])] == pytest.approx(robustness.top1(ASKED).value)
    means = table.groupby("arm").mean()
    report = re.sub(r"\s+", " ", (done / "report.md").read_text().replace("\\", ""))
    for mean in means:
        assert f"| {100 * mean:.1f} % (" in report
    assert f"| {100 * (means['feed-forward'] - means['attention']):+.1f} (" in report
    assert "under patch drop and occlusion, at 5 severities each" in report
    assert "no verdict is drawn from it" in report


def test_a_run_that_lost_its_scores_is_scored_again_to_the_same_bytes(done):
    file = runs(done)[0] / "corruptions.csv"
    before, shown = file.read_bytes(), (done / "report.md").read_text()
    file.unlink()
    found = ffvit.report(done)
    assert [line for line in found.missing if "trained, but not scored on corrupted images" in line]
    assert not found.exploratory
    ffvit.compare(study=done, resume=True)
    assert file.read_bytes() == before
    assert (done / "report.md").read_text() == shown


def test_a_damaged_file_is_one_sentence(done, tmp_path):
    run = Path(shutil.copytree(runs(done)[0], tmp_path / "run"))
    images = len(pd.read_csv(run / "predictions.csv"))
    tenths = 10 * read_shares(run, ASKED, images)  # 2 corruptions at 5 severities
    np.testing.assert_allclose(tenths, np.round(tenths), atol=1e-9)
    assert len(set(np.round(tenths))) > 2
    with pytest.raises(
        RunFolderError, match=r"is not of this run's 3 test images; delete it to have the run scored again"
    ):
        read_shares(run, ASKED, 3)
    (run / "corruptions.csv").write_text("patch_drop,occlusion\n1,x\n")
    with pytest.raises(RunFolderError, match=r"corruptions.csv: is damaged .* delete it to have the run scored again"):
        read_shares(run, ASKED, 1)
    assert read_shares(run, ("fog",), images) is None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("fogg", "there is no corruption 'fogg', did you mean 'fog'?"),
        ("fog", "are defined for images of 32 x 32 pixels"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_runs(plan, tmp_path, asked, sentence):
    with pytest.raises(ffvit.UserError, match=re.escape(sentence)):
        ffvit.compare(study=plan, out=tmp_path / "study", corruptions=[asked])
    assert not (tmp_path / "study").exists()


def test_runs_over_several_machines_are_not_scored():
    with pytest.raises(ffvit.UserError, match="runs over several machines are not scored on them"):
        check_arms(ASKED, [], 10, ffvit.Hardware(nodes=2))
    check_arms((), [], 10, ffvit.Hardware(nodes=2))
