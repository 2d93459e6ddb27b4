"""Whatever kills `compare`, `prepare`, `check` or `predict`: given again, it ends as if it had never been killed."""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import shutil
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import kills
from ffvit.run_folder import Run
from ffvit.study.folder import Study
from ffvit.study.ledger import Ledger
from ffvit.study.plan import read_plan
from ffvit.training.run_speed import _temporary_folder
from reliability_cases import contents, plan_file

PICTURES, SLOWLY = 150, 0.01
"""How many images there are, and the seconds that each takes to be read, so that kills fall into the work."""

TRIES = {"fields": {"lr": [0.001, 0.004]}, "length": 1.0, "seeds": 1, "extend": 0}
"""A search of two trials an arm and repetition."""


def few_and_many(many: int, few: int = 1) -> pytest.MarkDecorator:
    """So many seeds in every run of the tests, and so many in the long one."""
    marked = (pytest.param(seed, marks=pytest.mark.reliability) for seed in range(few, many))
    return pytest.mark.parametrize("seed", [*range(few), *marked])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of two classes, with what `check` warns of: two duplicates and one of a single colour."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(PICTURES):
        kind = folder / "ab"[number % 2]
        kind.mkdir(exist_ok=True)
        coarse = PIL.Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((64, 48), PIL.Image.Resampling.BICUBIC).save(kind / f"{number:03d}.jpg")
    for number in range(2):
        shutil.copy(folder / "a" / "000.jpg", folder / "a" / f"copy-{number}.jpg")
    PIL.Image.new("RGB", (64, 48), "red").save(folder / "b" / "red.jpg")
    return folder


@pytest.fixture(scope="module")
def spoilt(pictures, tmp_path_factory) -> Path:
    """The same with two files that are no images."""
    folder = Path(shutil.copytree(pictures, tmp_path_factory.mktemp("spoilt") / "pictures"))
    for number in (1, 2):
        (folder / "a" / f"bad-{number}.jpg").write_bytes(b"no image")
    return folder


def change(folder: Path, out: str | None = None) -> None:
    """Work in a folder, with temporary files below it, and read images slowly.

    With output to a file, as a shell does it for `>`, they are read by none to two loading processes.
    """
    from ffvit.data.check import scan
    from ffvit.data.images import FileImages
    from ffvit.inference import predictor

    read, workers = FileImages.read, os.getpid() % 3 if out is not None else 1

    def slowly(*arguments):
        time.sleep(SLOWLY * max(1, workers))  # as long in all, by however many
        return read(*arguments)

    FileImages.read = slowly  # type: ignore[method-assign]
    scan.available_cores = lambda: workers
    predictor.worker_count = lambda *_: workers
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder / "tmp"), None
    os.chdir(folder)
    if out is not None:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)


def assert_nothing_is_left(folder: Path) -> None:
    assert not list(folder.rglob("*.tmp"))
    assert not list((folder / "tmp").iterdir())


def undisturbed(arguments: list[object], folder: Path, changed=change, **options) -> float:
    """Give a command once, and hand back the seconds it took, the server's start aside."""
    kills.run(["models", "ff_micro*"], folder / "start.log")
    return kills.run(arguments, folder / "log", partial(changed, folder, **options))


@pytest.fixture(scope="module")
def prepared(spoilt, tmp_path_factory) -> tuple[dict[str, bytes], float]:
    folder = tmp_path_factory.mktemp("prepared")
    seconds = undisturbed(prepare(spoilt, folder / "shards", 1), folder)
    return contents(folder / "shards"), seconds


def prepare(source: Path, out: Path, workers: int) -> list[object]:
    return ["prepare", source, out, "--max-side", 40, "--shard-size", 0.05, "--workers", workers]


@few_and_many(8)
def test_prepare_killed_anywhere_leaves_the_same_bytes(tmp_path, spoilt, prepared, seed, record_property):
    """With one to three processes, each time anew."""
    whole, seconds = prepared
    draw, out = random.Random(seed), tmp_path / "shards"

    def go_on() -> list[object]:
        return prepare(spoilt, out, draw.randint(1, 3))

    killed = kills.killed_until_done(go_on(), go_on, tmp_path / "log", seconds, draw, partial(change, tmp_path))
    record_property("kills", killed)
    assert {"bad_images.csv", "train-000000.tar", "train-000004.tar", "train.index"} <= set(whole)
    assert contents(out) == whole
    assert_nothing_is_left(tmp_path)


@pytest.fixture(scope="module")
def checked(pictures, tmp_path_factory) -> tuple[bytes, bytes, float]:
    folder = tmp_path_factory.mktemp("checked")
    seconds = undisturbed(["check", pictures, "--out", "check.csv"], folder, out="said.txt")
    return (folder / "check.csv").read_bytes(), (folder / "said.txt").read_bytes(), seconds


@few_and_many(6)
def test_check_killed_anywhere_finds_the_same(tmp_path, pictures, checked, seed, record_property):
    """Its list is there whole or not at all."""
    found, said, seconds = checked
    draw, out = random.Random(seed), tmp_path / "check.csv"
    arguments = ["check", pictures, "--out", "check.csv"]

    def go_on() -> list[object]:
        assert not out.exists() or out.read_bytes() == found
        return arguments

    killed = kills.killed_until_done(
        arguments, go_on, tmp_path / "log", seconds, draw, partial(change, tmp_path, out="said.txt"), latest=1.0
    )
    record_property("kills", killed)
    assert found.count(b",duplicate,") == 2
    assert out.read_bytes() == found
    assert (tmp_path / "said.txt").read_bytes() == said
    assert_nothing_is_left(tmp_path)


@pytest.fixture(scope="module")
def predicted(trained, spoilt, tmp_path_factory) -> tuple[bytes, float]:
    folder = tmp_path_factory.mktemp("predicted")
    seconds = undisturbed(["predict", trained, spoilt, "--format", "csv"], folder, out="predictions.csv")
    return (folder / "predictions.csv").read_bytes(), seconds


@few_and_many(6)
def test_predict_killed_anywhere_predicts_the_same(tmp_path, trained, spoilt, predicted, seed, record_property):
    """What it wrote before it was killed is a beginning of what it writes undisturbed."""
    whole, seconds = predicted
    draw, out = random.Random(seed), tmp_path / "predictions.csv"
    arguments = ["predict", trained, spoilt, "--format", "csv"]

    def go_on() -> list[object]:
        assert not out.exists() or whole.startswith(out.read_bytes())
        return arguments

    killed = kills.killed_until_done(
        arguments, go_on, tmp_path / "log", seconds, draw, partial(change, tmp_path, out="predictions.csv"), latest=1.0
    )
    record_property("kills", killed)
    assert whole.count(b"\n") == 1 + 5 * (PICTURES + 3)
    assert out.read_bytes() == whole
    assert "2 of 155 images could not be read" in (tmp_path / "log").read_text()
    assert_nothing_is_left(tmp_path)


def quickly(folder: Path, server: bool = False) -> None:
    """Measure in no time what a study's runs take, and fork its processes, if not `server`, with all imported."""
    from ffvit.study import costs, executor
    from ffvit.training import run_speed

    change(folder)
    costs.ROUNDS, run_speed.TIMED = 1, 0.05
    if server:
        return
    context, begin = multiprocessing.get_context, executor.process_main

    def begin_as_off_a_server(*arguments) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        begin(*arguments)

    executor.process_main = begin_as_off_a_server
    multiprocessing.get_context = lambda method=None: context("fork" if method == "forkserver" else method)


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> tuple[Path, float]:
    """A study that nothing disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("studied")
    plan = plan_file(folder, seeds=2)
    return folder / "study", undisturbed(["compare", "--study", plan, "--out", folder / "study"], folder, quickly)


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Path, float]:
    """The same with a search of the learning rate before each run."""
    folder = tmp_path_factory.mktemp("searched")
    plan = plan_file(folder, seeds=2, search=TRIES)
    return folder / "study", undisturbed(["compare", "--study", plan, "--out", folder / "study"], folder, quickly)


def compare_killed(folder: Path, whole: Path, seconds: float, seed: int, server: bool = False, **fields) -> int:
    draw, study = random.Random(seed), folder / "study"
    plan = plan_file(folder, seeds=2, **fields)

    def go_on() -> list[object]:
        workers = ["--jobs", draw.choice([1, 2])]
        if (study / "study.yaml").exists():
            return ["compare", "--study", study, "--resume", *workers]
        return ["compare", "--study", plan, "--out", study, *workers]

    killed = kills.killed_until_done(
        go_on(), go_on, folder / "log", seconds, draw, partial(quickly, folder, server=server), most=8 if seed else 2
    )
    assert_same_study(study, whole)
    assert_nothing_is_left(folder)
    return killed


def assert_same_study(one: Path, other: Path) -> None:
    assert not (one / "failures.csv").exists(), (one / "failures.csv").read_text()
    for name in ("results.csv", "arms.yaml", "split.csv.gz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    folders = [sorted(file.parent.relative_to(study) for file in study.rglob("summary.json")) for study in (one, other)]
    assert folders[0] == folders[1]
    assert len(folders[0]) >= 4
    for folder in folders[0]:
        kills.assert_same_run(Run(one / folder), Run(other / folder))


@few_and_many(6)
def test_a_study_killed_anywhere_ends_with_the_same_bytes(tmp_path, studied, seed, record_property):
    """With one run or two at once, each time anew."""
    record_property("kills", compare_killed(tmp_path, *studied, seed))


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_search_killed_anywhere_ends_with_the_same_bytes(tmp_path, searched, seed, record_property):
    record_property("kills", compare_killed(tmp_path, *searched, seed, search=TRIES))


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(1, 3))
def test_a_study_off_a_fork_server_killed_anywhere_ends_with_the_same_bytes(tmp_path, studied, seed, record_property):
    """As users have it; each start takes as long as the whole study else does."""
    whole, seconds = studied
    record_property("kills", compare_killed(tmp_path, whole, 2 * seconds, seed, server=True))


def measure_for_ever(folder: Path) -> None:
    from ffvit.training import run_speed

    quickly(folder)
    run_speed.TIMED = 600.0


@pytest.mark.parametrize(
    ("number", "group", "code"), [(signal.SIGKILL, False, -9), (signal.SIGTERM, True, 75)], ids=["kill", "term"]
)
def test_killed_while_it_plans_a_study_leaves_no_process_and_no_folder(tmp_path, number, group, code):
    """The process that timed a few steps waited for more to do for ever, and kept its temporary run folder."""
    command = kills.Command(
        ["compare", "--study", plan_file(tmp_path), "--out", tmp_path / "study"],
        tmp_path / "log",
        partial(measure_for_ever, tmp_path),
    )
    while not list(tmp_path.glob("tmp/ffvit-*/*/config.yaml")):
        assert command.alive, command.said()
        time.sleep(0.02)
    command.kill(number, group)
    assert command.wait() == code, command.said()
    kills.wait_until_gone([command])
    assert_nothing_is_left(tmp_path)
    if code == 75:
        assert "--resume, or with the same command if there is no study folder yet [E-REQUEUE]" in command.said()
    assert not (tmp_path / "study").exists()


def test_what_processes_left_that_were_killed_while_they_timed_a_few_steps_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own, other = f"ffvit-{platform.node()}-", tmp_path / f"ffvit-elsewhere-{2**30}-a"
    for left in (f"{own}{2**30}-a", f"{own}{os.getpid()}-b"):
        (tmp_path / left / "run").mkdir(parents=True)
    other.mkdir()
    with _temporary_folder() as folder:
        assert folder.is_dir()
        assert not (tmp_path / f"{own}{2**30}-a").exists()
    assert {each.name for each in tmp_path.iterdir()} == {f"{own}{os.getpid()}-b", other.name}


def test_killed_between_the_first_two_files_of_a_study_it_can_be_resumed(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    plan = read_plan(plan_file(tmp_path))
    monkeypatch.setattr(Ledger, "note_plan", killed)
    with pytest.raises(KeyboardInterrupt):
        Study.create(tmp_path / "study", plan)
    monkeypatch.undo()
    study = Study(tmp_path / "study")
    study.check(plan)
    study.replan(plan)
    assert study.plan == plan
    assert study.ledger.intact()


def interrupt_the_end(folder: Path) -> None:
    """Ctrl-C comes while loading processes end."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Batches

    from ffvit.inference import predictor

    change(folder, "predictions.csv")
    predictor.worker_count = lambda *_: 1
    end = Batches._shutdown_workers

    def interrupted(self) -> None:
        ended = self._shutdown
        end(self)
        if not ended:
            raise KeyboardInterrupt

    Batches._shutdown_workers = interrupted  # type: ignore[method-assign]


def test_ctrl_c_while_the_loading_processes_of_predict_end_is_heard(tmp_path, trained, spoilt):
    """It was lost, with a traceback."""
    command = kills.Command(["predict", trained, spoilt], tmp_path / "log", partial(interrupt_the_end, tmp_path))
    assert command.wait() == 130, command.said()
    assert "Traceback" not in command.said()
    assert "ffvit: interrupted" in command.said()
