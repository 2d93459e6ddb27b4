from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest

from ffvit import RunStoppedError
from ffvit.files.atomic_write import atomic_path, is_disk_full, remove_leftovers


def test_what_stood_there_stands_until_the_new_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044  # not only for its owner


def half_written(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.EACCES, "no")])
def test_what_goes_wrong_leaves_the_old_and_no_rest(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)):
        half_written(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EFBIG, "File too large"),
    RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0"),  # torch.save's word for it
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_said(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(
        RunStoppedError, match=r"file: the disk is full \([\d,]+ MiB left\); what was there before is untouched"
    ):
        half_written(path, error)
    assert path.read_text() == "old"


def test_other_errors_are_no_full_disk():
    assert not is_disk_full(OSError(errno.ENOENT, "No such file"))
    assert not is_disk_full(ValueError("full"))


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = process.pid, os.getppid()
    names = [
        f".a.json.{dead}.tmp",
        f".b.json.{dead}.tmp",
        f".a.json.{alive}.tmp",
        ".a.json.mine.tmp",
        f"a.json.{dead}.tmp",
    ]
    for name in names:
        (tmp_path / name).write_text("half of")
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *names[1:]}
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *names[2:]}
    remove_leftovers(tmp_path / "no such folder")


def test_what_a_killed_process_left_is_removed_before_its_end_was_asked_for(tmp_path):
    """It keeps its number until then: its parent may be busy, or have been killed too."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    left = tmp_path / f".a.txt.{process.pid}.tmp"
    left.touch()
    remove_leftovers(tmp_path)
    assert left.exists()  # it may still write
    os.kill(process.pid, signal.SIGKILL)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    remove_leftovers(tmp_path)
    assert not left.exists()
    process.wait()
