"""One folder, one process that writes: the second is refused, and what a crash leaves behind holds nobody up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from commands import here
from reliability_cases import FAST, contents, plan_file

HOLD = """
import os, sys, time
from pathlib import Path
from ffvit.files.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), sys.argv[2])
lock.acquire()
if sys.argv[3] == "fork" and os.fork() == 0:
    time.sleep(600)
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def held(folder: Path, what: str, how: str = "plain"):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), what, how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def refused(*arguments: object) -> str:
    done = here(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run of two epochs that stopped after the first."""
    from ffvit.training import loop

    out = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        end_epoch = loop.Trainer.end_epoch

        def stop(self, *given):
            end_epoch(self, *given)
            raise KeyboardInterrupt

        patch.setattr(loop.Trainer, "end_epoch", stop)
        assert here("train", "--out", out, "--recipe.epochs", 2, *FAST[2:]).returncode == 130
    return out


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def test_a_second_train_is_refused_beside_a_live_run(run):
    before = contents(run)
    with held(run, "run") as holder:
        for given in (("--resume",), ("--overwrite", *FAST)):
            said = refused("train", "--out", run, *given)
            assert f"{run}: process {holder.pid} on " in said
            assert "has been writing to this run since" in said
            assert contents(run) == before
    assert here("train", "--out", run, "--resume").returncode == 0


def test_a_lock_that_a_kill_left_holds_nobody_up(run):
    with held(run, "run") as holder:
        holder.kill()
        holder.wait()
        assert (run / ".lock").exists()
        assert here("train", "--out", run, "--resume").returncode == 0


def test_a_lock_goes_with_its_process_although_its_children_live_on(run):
    """A loading process may outlive a killed run by seconds."""
    with held(run, "run", "fork") as holder:
        assert "has been writing" in refused("train", "--out", run, "--resume")
        holder.kill()
        holder.wait()
        assert here("train", "--out", run, "--resume").returncode == 0


def test_a_lock_file_with_anything_in_it_holds_nobody_up(run):
    for left in (b"", b"\xff\x00", b'{"pid": 1}', b"[]"):
        (run / ".lock").write_bytes(left)
        from ffvit.files.lock import FolderLock

        with FolderLock(run, "run"):
            pass
    assert here("train", "--out", run, "--resume").returncode == 0


def test_a_run_that_ends_or_fails_lets_go(run):
    assert here("train", "--out", run, "--overwrite", *FAST, "--recipe.lr", 1e30).returncode in (0, 1)
    assert here("train", "--out", run, "--overwrite", *FAST).returncode == 0
    assert "this run is finished" in refused("train", "--out", run, "--resume")


def test_a_new_run_is_refused_where_another_was_made_meanwhile(tmp_path, monkeypatch):
    """Two trainings with one --out, both past the first look at it."""
    from ffvit.training import train

    open_parts = train.open_splits

    def meanwhile(data):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text("of another")
        return open_parts(data)

    monkeypatch.setattr(train, "open_splits", meanwhile)
    assert "exists: resume it" in refused("train", "--out", tmp_path / "run", *FAST)
    assert (tmp_path / "run" / "config.yaml").read_text() == "of another"


def test_a_refused_resume_leaves_a_running_study_as_it_is(study, tmp_path):
    before = contents(study)
    with held(study, "study") as holder:
        for given in (
            ("--study", study, "--resume", "--seeds", 5),
            ("--study", plan_file(tmp_path), "--out", study, "--resume"),
            ("--study", plan_file(tmp_path), "--out", study, "--overwrite"),
        ):
            began = time.monotonic()
            said = refused("compare", *given)
            assert f"{study}: process {holder.pid} on " in said
            assert "has been writing to this study since" in said
            assert time.monotonic() - began < 3  # before anything is measured
            assert contents(study) == before


def test_a_refused_resume_leaves_the_plan_as_it_is(study):
    """A run that lies there with another plan is found before the plan is replaced."""
    config = study / "runs" / "attention" / "seed-0" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 7"))
    before = contents(study)
    assert "was run with another plan" in refused("compare", "--study", study, "--resume", "--seeds", 5)
    assert contents(study) == before


def test_a_folder_that_cannot_be_locked_is_said(tmp_path, monkeypatch, capsys):
    import errno
    import fcntl

    from ffvit.files.lock import FolderLock

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with FolderLock(tmp_path, "run"):
        pass
    assert (
        "cannot be locked (No locks available): make sure that no other process writes to it" in capsys.readouterr().err
    )
