"""`ffvit doctor`, the log file, and what goes to a pipe."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import platform
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from commands import here
from ffvit import doctor
from ffvit.doctor import Finding, examine
from ffvit.terminal import Terminal

FAST = ("--recipe.epochs", 1, "--recipe.warmup-epochs", 0, "--recipe.batch-size", 256, "--workers", 0)
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d rank (\d+)  ?(.*)")


def test_a_healthy_machine(tmp_path):
    done = here("doctor", tmp_path)
    assert done.returncode == 0, done.stdout
    for name in ("device", "libraries", "shared memory", "disk", "processes", "threads"):
        assert name in done.stdout
    assert "0 broken" in done.stdout or "Everything is fine." in done.stdout


def test_the_report_fits_80_columns(tmp_path):
    page = io.StringIO()
    Terminal(file=page, width=80).print(
        doctor.Checkup({"a check": Finding("broken", "word " * 40, "do " * 60)}).report()
    )
    assert max(map(len, page.getvalue().splitlines())) <= 80
    assert page.getvalue().count("do ") >= 59


def test_a_library_that_does_not_load_is_broken(tmp_path, monkeypatch):
    load = importlib.import_module

    def without_opencv(name, *more):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return load(name, *more)

    monkeypatch.setattr(importlib, "import_module", without_opencv)
    done = here("doctor", tmp_path)
    assert done.returncode == 1
    assert "cv2: libGL.so.1: cannot open shared object file" in done.stdout
    assert "1 broken" in done.stdout


def test_versions_that_do_not_fit_are_broken(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["torch>=99", "no-such-package", "numpy; extra == 'x'"]
    )
    finding = doctor._run(doctor._versions)
    assert finding.status == "broken"
    assert "ffvit needs >=99" in finding.words
    assert "no-such-package is not installed" in finding.words


def test_a_system_that_is_not_supported_is_broken(monkeypatch):
    assert doctor._run(doctor._system).status == "ok"
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    finding = doctor._run(doctor._system)
    assert finding.status == "broken"
    assert "Linux and macOS" in finding.advice


def test_little_shared_memory_is_told_with_the_way_out(monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=64 * 2**20))
    finding = doctor._run(doctor._shared_memory)
    assert finding.status == "warning"
    assert "64 MiB free in /dev/shm" in finding.words
    assert "--shm-size" in finding.advice
    assert doctor._disk(Path("/tmp")).status == "warning"


def test_a_disk_that_cannot_be_written_is_broken(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert examine(tmp_path).findings["disk"].status == "broken"


def test_a_process_that_does_not_answer_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "START_TIMEOUT", 0.0)
    finding = doctor._run(doctor._processes)
    assert finding.status == "broken"
    assert "does not answer" in finding.words


def logged(file: Path) -> list[tuple[str, str]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(match[1], match[2]) for match in found]


def test_the_log_file_holds_all_that_was_printed(tmp_path):
    log = tmp_path / "log.txt"
    done = here("train", "--out", tmp_path / "run", "--log-file", log, *FAST)
    assert done.returncode == 0, done.stderr
    lines = logged(log)
    assert {rank for rank, _ in lines} == {"0"}
    text = "\n".join(line for _, line in lines)
    for words in ("network", "epoch 1/1", "top-1 accuracy", "everything is in"):
        assert words in text


def test_the_log_file_is_added_to_and_holds_errors(tmp_path):
    log = tmp_path / "log.txt"
    for _ in range(2):
        done = here("train", "no_such_network", "--out", tmp_path / "run", "--log-file", log)
        assert done.returncode == 2
    assert [line for _, line in logged(log)] == 2 * [done.stderr.rstrip()]


def test_a_bug_leaves_its_traceback_in_the_log_file(tmp_path, monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("ffvit.training.train.run_config", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        here("train", "--log-file", tmp_path / "log.txt")
    assert "RuntimeError: a bug" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("name", ["photo.jpg", "folder", "no/such/folder/log.txt"])
def test_a_log_file_replaces_and_appends_to_nothing_else(tmp_path, name):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8 pixels of a photograph")
    (tmp_path / "folder").mkdir()
    done = here("train", "--log-file", tmp_path / name, *FAST)
    assert done.returncode == 2
    assert "give another --log-file [E-OUTPUT]" in done.stderr
    assert (tmp_path / "photo.jpg").read_bytes() == b"\xff\xd8 pixels of a photograph"


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}])
def test_nothing_moves_the_cursor_of_a_pipe(tmp_path, monkeypatch, forced):
    for name, value in forced.items():
        monkeypatch.setenv(name, value)
    output = ""
    for arguments in (("train", "--out", tmp_path / "run", *FAST), ("models", "ff_*"), ("doctor", tmp_path)):
        done = here(*arguments)
        assert done.returncode == 0, done.stderr
        output += done.stdout + done.stderr
    without_colours = re.sub(r"\x1b\[[\d;]*m", "", output)
    assert not [sign for sign in without_colours if ord(sign) < 32 and sign != "\n"]
    if "FORCE_COLOR" not in forced:
        assert without_colours == output
