from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from ffvit.errors import UserError
from ffvit.run_folder import Run
from ffvit.study.arms import make_arms
from ffvit.study.jobs import TRIAL_SEED, Job, Searches, differences, make_runs
from ffvit.study.plan import Plan

BODY = {
    "width": 16,
    "depth": 1,
    "img_size": 8,
    "patch": 2,
    "in_chans": 1,
    "readout": "mean",
    "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
}


def plan(**fields) -> Plan:
    return Plan(
        **{"network": BODY, "recipe": "digits", "factors": {"network.width": [16, 32]}, "controls": False, **fields}
    )


def runs(its: Plan, folder: Path) -> list[Job]:
    return make_runs(its, make_arms(its), folder, its.seeds)


def trained(job: Job, loss: float) -> None:
    """A trial with a validation loss."""
    Run.create(job.folder, job.config).write_summary({"validation": {"top1": 0.5, "loss": loss}})


def search_through(its: Plan, folder: Path, loss) -> Searches:
    """Every search carried out on a loss by (arm, learning rate)."""
    searches = Searches(its, make_arms(its), folder)
    for run in runs(its, folder):
        while (reached := searches.state(run)).chosen is None:
            for values, number in reached.wanted:
                trained(searches.trial(run, values, number), loss(run.arm, values["lr"]))
    return searches


def test_runs_come_seed_by_seed(tmp_path: Path):
    jobs = runs(plan(search="none", seeds=3), tmp_path)
    assert [(job.seed, job.arm) for job in jobs] == [
        (seed, arm) for seed in range(3) for arm in ("width 16", "width 32")
    ]
    assert {job.config.seed for job in jobs} == {0, 1, 2}
    assert len({job.folder for job in jobs}) == 6


def test_arms_of_one_seed_differ_in_nothing_but_the_arm(tmp_path: Path):
    one, two, *_ = runs(plan(search="none"), tmp_path)
    assert one.config.replace(network=two.config.network) == two.config


def test_every_repetition_draws_its_own_split(tmp_path: Path):
    jobs = runs(plan(search="none", seeds=3), tmp_path)
    assert {(job.seed, job.config.data.split_seed) for job in jobs} == {(0, 0), (1, 1), (2, 2)}
    same = runs(plan(search="none", seeds=3, redraw=False), tmp_path)
    assert {job.config.data.split_seed for job in same} == {0}


def test_side_arms_have_fewer_repetitions(tmp_path: Path):
    its = plan(search="none", seeds=4, side_seeds=1, controls=True, factors={"network.width": [16, 32, 48]})
    count = Counter(job.arm for job in runs(its, tmp_path))
    assert count == {"width 16": 4, "width 32": 4, "no mixing": 4, "width 48": 1, "random mixing": 1}


def test_folds_are_split_anew_for_every_seed(tmp_path: Path):
    jobs = runs(plan(search="none", folds=3, seeds=2), tmp_path)
    assert len(jobs) == 2 * 3 * 2
    assert {(job.config.data.split_seed, job.config.data.fold) for job in jobs} == {
        (s, f) for s in range(2) for f in range(3)
    }


@pytest.mark.parametrize("fields", [{}, {"folds": 3}])
def test_a_trial_sees_the_split_of_its_run_and_no_other(tmp_path: Path, fields):
    """Or a trial would see images that a run is tested on."""
    its = plan(seeds=2, **fields)
    searches = Searches(its, make_arms(its), tmp_path)
    for run in runs(its, tmp_path):
        reached = searches.state(run)
        trials = [searches.trial(run, *wanted) for wanted in reached.wanted]
        assert len(trials) == 5
        assert {trial.config.data for trial in trials} == {run.config.data}
        assert all(trial.config.seed >= TRIAL_SEED for trial in trials)
        assert {trial.config.recipe.epochs for trial in trials} == {round(25 * its.search.length)}


def test_no_two_repetitions_share_a_trial(tmp_path: Path):
    its = plan(seeds=3)
    searches = Searches(its, make_arms(its), tmp_path)
    trials = [searches.trial(run, *wanted) for run in runs(its, tmp_path) for wanted in searches.state(run).wanted]
    assert len({trial.folder for trial in trials}) == len(trials) == 2 * 3 * 5
    assert len({(trial.arm, str(trial.trial), trial.config.seed) for trial in trials}) == len(trials)


def test_each_arm_trains_with_what_its_search_chose(tmp_path: Path):
    its, best = plan(seeds=2), {"width 16": 1e-3, "width 32": 4e-3}
    searches = search_through(its, tmp_path, lambda arm, rate: abs(math.log(rate / best[arm])))
    tuned = [searches.tuned(run) for run in runs(its, tmp_path)]
    assert {(job.arm, job.config.recipe.lr) for job in tuned} == set(best.items())


def test_a_trial_that_failed_counts_as_diverged(tmp_path: Path):
    its = plan(seeds=1)
    searches, run = Searches(its, make_arms(its), tmp_path), runs(its, tmp_path)[0]
    first = searches.state(run)
    jobs = [searches.trial(run, *wanted) for wanted in first.wanted]
    for job in jobs[1:]:
        trained(job, 1.0 + job.trial["lr"])
    assert searches.state(run).wanted == first.wanted[:1]
    after = searches.state(run, {jobs[0].folder})
    assert jobs[0].trial not in [values for values, _ in after.wanted]


def test_what_can_begin_is_a_runs_search_and_then_the_run(tmp_path: Path):
    its = plan(seeds=1)
    searches, jobs = Searches(its, make_arms(its), tmp_path), runs(its, tmp_path)
    ready = searches.startable(jobs, set())
    assert [(job.arm, job.trial is None) for job in ready] == [("width 16", False)] * 5 + [("width 32", False)] * 5
    search_through(its, tmp_path, lambda _, rate: abs(math.log(rate / 1e-3)))
    ready = searches.startable(jobs, set())
    assert [(job.arm, job.trial) for job in ready] == [("width 16", None), ("width 32", None)]
    assert {job.config.recipe.lr for job in ready} == {1e-3}


def test_another_run_in_the_folder_is_refused_with_what_differs(tmp_path: Path):
    its = plan(search="none")
    job = make_runs(its, make_arms(its), tmp_path, its.seeds)[0]
    Run.create(job.folder, job.config.replace(recipe=job.config.recipe.replace(drop_path=0.3)))
    with pytest.raises(UserError, match=r"recipe\.drop_path was 0\.3, is 0\.0"):
        job.check()


def test_another_machine_is_the_same_run(tmp_path: Path):
    its = plan(search="none")
    job = make_runs(its, make_arms(its), tmp_path, its.seeds)[0]
    Run.create(job.folder, job.config.replace(hardware=job.config.hardware.replace(micro_batch=8)))
    job.check()
    assert not job.finished()
    (job.folder / "summary.json").write_text(json.dumps({}))
    assert job.finished()


def test_names_that_would_share_a_folder_are_refused(tmp_path: Path):
    its = plan(search="none", factors={"x": {"a b": {"network.width": 32}, "a-b": {"network.width": 64}}})
    with pytest.raises(UserError, match="one folder"):
        make_runs(its, make_arms(its), tmp_path, its.seeds)


def test_differences_are_told_by_their_path():
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}) == ["a.b.1 was 2, is 3"]
    assert differences({"a": 1}, {"a": 1}) == []
    assert differences({}, {"a": 1}) == ["a was None, is 1"]


def test_a_trial_that_failed_before_is_not_tried_again_once_its_run_has_begun(tmp_path: Path):
    """Or the search would choose anew, and the run that lies there would be another than the plan's."""
    its = plan(seeds=1, search={"seeds": 1, "extend": 0})
    (run, *_), searches = runs(its, tmp_path), Searches(its, make_arms(its), tmp_path)
    trials = [searches.trial(run, *wanted) for wanted in searches.state(run).wanted]
    for trial in trials[1:]:
        trained(trial, 1.0 + trial.trial["lr"])
    failed = {trials[0].folder}
    again = searches.startable([run], set(), failed)
    assert [job.folder for job in again] == [trials[0].folder]
    run.folder.mkdir(parents=True)
    (tuned,) = searches.startable([run], set(), failed)
    assert tuned.folder == run.folder
    assert tuned.config.recipe.lr == min(trial.trial["lr"] for trial in trials[1:])
