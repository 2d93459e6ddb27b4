"""Names that are no text, that steer a terminal, that rich takes for markup or a spreadsheet for a formula."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.table import Table
from rich.text import Text

from commands import command, environment, here
from ffvit.cli import main
from ffvit.files.csv_formulas import escape_formula, unescape_formula
from ffvit.terminal import Terminal, printable

CLASSES = (b"caf\xe9", b"=1+1", b"\x1b[31mred")
NETWORK = {
    "width": 16,
    "depth": 1,
    "img_size": 8,
    "patch": 4,
    "in_chans": 3,
    "readout": "mean",
    "position": "vectors",
    "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
}
FAST = ("--recipe.epochs", 1, "--recipe.warmup-epochs", 0, "--recipe.batch-size", 8, "--workers", 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of classes and files whose names are no UTF-8, hold an escape sequence or begin a formula."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        inside = folder / os.fsdecode(name)
        inside.mkdir()
        for image in range(12):
            pixels = draw.normal(60 + 60 * number, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            with (inside / os.fsdecode(b"\xff\x1b[2J-%d.png" % image)).open("wb") as file:
                Image.fromarray(pixels).save(file, "PNG")
    return folder


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = here("train", "ff_micro_patch2_8", "--data", images, "--image-size", 8, "--out", out, *FAST)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert r"caf\xe9" in done.stdout
    return out


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        return list(csv.DictReader(lines))


def harmless(output: str | bytes) -> None:
    """No control characters but line ends, and no traceback."""
    text = output if isinstance(output, str) else output.decode("utf-8", "surrogateescape")
    assert "Traceback" not in text
    assert not [sign for sign in text if ord(sign) < 32 and sign not in "\n\t"], text


def test_predictions_name_images_by_the_bytes_of_their_names(images, run):
    answers = rows(run / "predictions.csv")
    assert answers
    for answer in answers:
        assert Path(unescape_formula(answer["image"])).is_file()
        assert os.fsencode(unescape_formula(answer["label"])) in CLASSES
        assert not answer["label"].startswith("=")


def test_evaluate_predict_and_check_take_any_name(images, run, tmp_path):
    harmless((scored := here("evaluate", run, "--predictions", tmp_path / "p.csv")).stdout)
    assert scored.returncode == 0, scored.stderr
    harmless((seen := here("predict", run, images)).stdout)
    assert seen.returncode == 0, seen.stderr
    harmless((checked := here("check", images, "--out", tmp_path / "check.csv")).stdout)
    assert checked.returncode == 0, checked.stderr
    assert not [row for row in rows(tmp_path / "p.csv") if row["label"].startswith("=")]


def test_predict_writes_the_bytes_of_names_as_csv_and_readable_ones_as_json(images, run):
    done = subprocess.run(
        command("predict", run, images, "--format", "csv"), env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert os.fsencode(next(iter(sorted(images.rglob("*.png"))))) in done.stdout
    as_json = here("predict", run, images, "--format", "json")
    harmless(as_json.stdout)


@pytest.fixture(scope="module")
def study(images, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A study on them whose arms have odd names, too; the runs of one fail."""
    folder = tmp_path_factory.mktemp("study")
    attention = {"network.patches": {"mixer": "attention", "heads": 2}}
    plan = {
        "title": "Odd [/names] \x1b[2J",
        "data": str(images),
        "recipe": {"base": "digits", "epochs": 1, "warmup_epochs": 0, "batch_size": 8},
        "network": NETWORK,
        "factors": {"mixer": {"=cmd": {}, "\x1b[5m": attention, "a [/b]": {**attention, "recipe.lr": 1e30}}},
        "seeds": 2,
        "search": "none",
        "controls": False,
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder / "study", here("compare", "--study", folder / "plan.yaml", "--out", folder / "study")


def test_a_study_whose_arm_looks_like_markup_and_fails_ends_with_its_report(study):
    folder, told = study
    assert told.returncode == 1, told.stdout + told.stderr
    harmless(told.stdout)
    assert "a [/b]" in told.stdout
    assert told.stderr.rstrip().endswith("[E-STOPPED]")
    assert (folder / "report.html").is_file()


def test_a_studys_table_runs_no_formula(study):
    folder, _ = study
    assert {row["arm"] for row in rows(folder / "results.csv")} == {"'=cmd", "\x1b[5m"}


def test_a_report_is_made_again_of_odd_names(study):
    folder, _ = study
    done = here("report", folder)
    assert done.returncode == 0, done.stderr
    harmless(done.stdout)
    assert r"caf" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf_8_gets_no_traceback(encoding, images, run, tmp_path):
    commands = [
        ("--help",),
        ("train", "--help"),
        ("models", "ff_*"),
        ("train", "--dat", "\u00fc\u2192\udcff"),
        ("predict", run, images),
        ("evaluate", run),
        ("check", images, "--out", tmp_path / "check.csv"),
    ]
    for arguments in commands:
        written = io.BytesIO()
        stdout = io.TextIOWrapper(written, encoding=encoding, write_through=True)
        with mock.patch.object(sys, "stdout", stdout):
            assert quietly(arguments) in (0, 2)
        assert written.getvalue() or arguments[1] == "--dat"
        assert b"\x1b" not in written.getvalue()


def quietly(arguments: tuple[object, ...]) -> int:
    """Run `ffvit ...` in this process, to this process's stdout; the exit code."""
    with (
        mock.patch.object(sys, "argv", ["ffvit", *map(str, arguments)]),
        mock.patch.object(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii")),
    ):
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)
    return 0


def test_names_cannot_steer_a_terminal(images, run):
    """On a real terminal, where colours are allowed, none of the escape sequences is one of a name."""
    ours, theirs = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end was closed
            while piece := os.read(ours, 65536):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, mock.patch.object(sys, "stdout", terminal):
        assert quietly(("predict", run, images)) == 0
        assert quietly(("predict", run, images, "--format", "csv")) == 0
        assert quietly(("evaluate", run)) == 0
    reader.join(10)
    output = b"".join(pieces)
    assert b"\x1b[2J" not in output
    assert b"\x1b[31m" not in output
    assert rb"\x1b[2J" in output
    assert b"\x1b[1m" in output  # bold, of ours


def test_a_file_name_that_is_refused_is_shown_escaped(tmp_path):
    done = here("train", "--data", tmp_path / "\x1b[2J\udcff[/b]")
    assert done.returncode == 2
    harmless(done.stderr)
    assert r"\x1b[2J\udcff[" in done.stderr


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "''=1", "'quoted'", "plain", "", "é"])
def test_a_cell_is_read_back_as_it_was(cell):
    safe = escape_formula(cell)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape_formula(safe) == cell


def test_every_control_character_is_escaped():
    text = "".join(map(chr, [*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xDCFF]))
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()


def test_a_table_shows_the_whole_of_an_escaped_name(capsys):
    table = Table(box=None)
    table.add_column("name", overflow="fold")
    table.add_row(Text("caf\udce9\x1b[31m"))
    Terminal(width=40).print(table)
    assert r"caf\xe9\x1b[31m" in capsys.readouterr().out.replace("\n", "").replace(" ", "")
