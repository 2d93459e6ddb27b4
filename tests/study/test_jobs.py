from __future__ import annotations

import json
from pathlib import Path

import pytest

from ffvit.errors import UserError
from ffvit.run import Run
from ffvit.study.arms import arms_of
from ffvit.study.jobs import SEARCH_SEED, Job, chosen, differences, runs_of, trials_of
from ffvit.study.plan import Plan

BODY = {
    "width": 16,
    "depth": 1,
    "image": 8,
    "patch": 2,
    "channels": 1,
    "readout": "mean",
    "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
}


def plan(**fields) -> Plan:
    return Plan(**{"network": BODY, "recipe": "digits", "factors": {"width": [16, 32]}, "controls": False, **fields})


def answered(job: Job, top1: float, loss: float) -> None:
    Run.create(job.folder, job.config).write_summary({"selection": {"top1": top1, "loss": loss}})


def test_runs_come_seed_by_seed(tmp_path: Path):
    its = plan(search="none")
    jobs = runs_of(its, arms_of(its), tmp_path, its.seeds, {})
    assert [(job.seed, job.arm) for job in jobs] == [
        (seed, arm) for seed in range(3) for arm in ("width 16", "width 32")
    ]
    assert {job.config.seed for job in jobs} == {0, 1, 2}
    assert len({job.folder for job in jobs}) == 6


def test_arms_of_one_seed_differ_in_nothing_but_the_arm(tmp_path: Path):
    its = plan(search="none")
    one, two, *_ = runs_of(its, arms_of(its), tmp_path, its.seeds, {})
    assert one.config.replace(network=two.config.network) == two.config


def test_folds_are_split_anew_for_every_seed(tmp_path: Path):
    its = plan(search="none", folds=3, seeds=2)
    jobs = runs_of(its, arms_of(its), tmp_path, its.seeds, {})
    assert len(jobs) == 2 * 3 * 2
    assert {(job.config.data.split_seed, job.config.data.fold) for job in jobs} == {
        (s, f) for s in range(2) for f in range(3)
    }


def test_trials_are_alike_for_every_arm_and_no_seed_of_the_study(tmp_path: Path):
    its = plan()
    trials = trials_of(its, arms_of(its), tmp_path, its.seeds)
    assert len(trials) == 2 * 3
    assert {job.config.seed for job in trials} == {SEARCH_SEED}
    assert {job.config.recipe.epochs for job in trials} == {round(25 * 0.34)}
    by_arm = [[job.trial for job in trials if job.arm == arm] for arm in ("width 16", "width 32")]
    assert by_arm[0] == by_arm[1]


def test_with_folds_every_fold_has_its_own_trials(tmp_path: Path):
    """Or a trial would see images that another fold is tested on."""
    its = plan(folds=3, seeds=2)
    trials = trials_of(its, arms_of(its), tmp_path, its.seeds)
    assert len(trials) == 2 * 3 * 2 * 3
    runs = runs_of(its, arms_of(its), tmp_path, its.seeds, chosen(trials))
    assert {job.split for job in runs} == {job.split for job in trials}


def test_the_search_chooses_by_top1_then_loss(tmp_path: Path):
    its = plan(search={"values": [1e-3, 2e-3, 4e-3]})
    trials = trials_of(its, arms_of(its), tmp_path, its.seeds)
    scores = {1e-3: (0.9, 0.5), 2e-3: (0.9, 0.4), 4e-3: (0.8, 0.1)}
    for job in trials:
        answered(job, *scores[job.trial])
    tuned = chosen(trials)
    assert set(tuned.values()) == {2e-3}
    runs = runs_of(its, arms_of(its), tmp_path, its.seeds, tuned)
    assert {job.config.recipe.learning_rate for job in runs} == {2e-3}


def test_a_trial_that_failed_is_out(tmp_path: Path):
    its = plan(search={"values": [1e-3, 2e-3, 4e-3]})
    trials = trials_of(its, arms_of(its), tmp_path, its.seeds)
    for job in trials:
        if job.arm == "width 16" and job.trial == 4e-3:
            answered(job, 0.7, 1.0)
    tuned = chosen(trials)
    assert tuned["width 16", (0, None)] == 4e-3
    assert tuned["width 32", (0, None)] == 2e-3


def test_another_run_in_the_folder_is_refused_with_what_differs(tmp_path: Path):
    its = plan(search="none")
    job = runs_of(its, arms_of(its), tmp_path, its.seeds, {})[0]
    Run.create(job.folder, job.config.replace(recipe=job.config.recipe.replace(drop_path=0.3)))
    with pytest.raises(UserError, match=r"recipe\.drop_path was 0\.3, is 0\.0"):
        job.check()


def test_another_machine_is_the_same_run(tmp_path: Path):
    its = plan(search="none")
    job = runs_of(its, arms_of(its), tmp_path, its.seeds, {})[0]
    Run.create(job.folder, job.config.replace(machine=job.config.machine.replace(micro_batch=8)))
    job.check()
    assert not job.finished()
    (job.folder / "summary.json").write_text(json.dumps({}))
    assert job.finished()


def test_names_that_would_share_a_folder_are_refused(tmp_path: Path):
    its = plan(search="none", factors={"x": {"a b": {"width": 32}, "a-b": {"width": 64}}})
    with pytest.raises(UserError, match="one folder"):
        runs_of(its, arms_of(its), tmp_path, its.seeds, {})


def test_differences_are_told_by_their_path():
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == ["a.b.1 was 2, is 3"]
    assert differences({"a": 1}, {"a": 1}) == []
    assert differences({}, {"a": 1}) == ["a was None, is 1"]
