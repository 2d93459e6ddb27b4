from __future__ import annotations

from pathlib import Path

import pytest

from ffvit.study.arms import make_arms
from ffvit.study.conclude import conclude
from ffvit.study.folder import Study, StudyInputs, fixed_fields
from ffvit.study.jobs import Searches, all_jobs, make_runs
from ffvit.study.matching import MatchedArms
from ffvit.study.plan import Plan
from study_examples import BODY


@pytest.fixture
def study(tmp_path: Path) -> Study:
    search = {"seeds": 1, "extend": 0}
    plan = Plan(
        network=BODY, recipe="digits", factors={"network.width": [16, 24]}, controls=False, search=search, seeds=1
    )
    return Study.create(tmp_path / "study", plan)


def test_a_failure_is_noted_whole_or_not_at_all(study: Study, monkeypatch: pytest.MonkeyPatch):
    """A line that was appended would end in its middle where the disk is full."""
    job = make_runs(study.plan, make_arms(study.plan), study.path, [0])[0]
    study.note_failure(job, "=first")
    before = study.failures_file.read_bytes()

    def broken(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(OSError, match="no room"):
            study.note_failure(job, "second")
    assert study.failures_file.read_bytes() == before
    assert study.failures() == {"runs/width-16/seed-0": "=first"}
    study.note_failure(job, "third\nand more")
    assert study.failures() == {"runs/width-16/seed-0": "third and more"}
    assert study.failures_file.read_bytes().startswith(before)


def test_a_search_whose_trials_all_failed_is_a_warning(study: Study):
    """It kept the recipe's own rate in silence."""
    plan = study.plan
    arms = make_arms(plan)
    searches, (first, _) = Searches(plan, arms, study.path), make_runs(plan, arms, study.path, [0])
    for wanted in searches.state(first).wanted:
        study.note_failure(searches.trial(first, *wanted), "the loss became nan")
    counts = {"classes": 10, "train_images": 80, "validation_images": 10, "test_images": 10, "threads": 1}
    matched = MatchedArms(arms=arms, notes=())
    inputs = StudyInputs(matched=matched, images="", drawn=("test", "validation"), fixed=fixed_fields(plan), **counts)
    findings = conclude(study, inputs, all_jobs(plan, arms, study.path, study.failed()), [])
    (warning,) = findings.warnings
    assert warning == (
        "Width 16 is not tuned: every trial of its search failed in 1 of 1 repetitions, which kept the recipe's own lr."
    )
