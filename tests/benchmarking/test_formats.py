"""`ffvit benchmark RUN --formats`; no test asserts a time."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ffvit
from commands import here
from ffvit.benchmarking import formats as table
from ffvit.benchmarking.formats import RUN, FormatRow, FormatsBenchmark, print_formats
from ffvit.data.splits import open_images
from ffvit.exporting import command as exporting
from ffvit.exporting.formats import FORMATS
from ffvit.exporting.proof import Proof
from ffvit.run_folder import read_config
from ffvit.terminal import Terminal

QUICK = ("--rounds", 2, "--seconds", 0.01)


@pytest.fixture(scope="module")
def digits(tmp_path_factory, one_thread) -> Path:
    recipe = {"base": "digits", "epochs": 1, "warmup_epochs": 0}
    cpu = ffvit.Hardware(accelerator="cpu", precision="fp32", workers=0)
    out = tmp_path_factory.mktemp("runs") / "digits"
    return ffvit.train("ff_micro_patch2_8", recipe=recipe, hardware=cpu, out=out).path


def test_each_format_is_proven_timed_or_listed_with_its_reason(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "BATCHES", (1, 4))
    written = []
    own = exporting.export

    def noted(*args, out, **options):
        written.append(out)
        return own(*args, out=out, **options)

    monkeypatch.setattr(table, "export", noted)
    done = here("benchmark", digits, *QUICK, "--formats", "timm,paper", "--json", "b.json")
    assert done.returncode == 0, done.stderr
    assert "not measured: paper: this network has no counterpart in the paper's class" in " ".join(done.stdout.split())
    figures = json.loads((tmp_path / "b.json").read_text())
    assert [row["format"] for row in figures["rows"]] == [RUN, "timm"]
    assert list(figures["skipped"]) == ["paper"]
    for row in figures["rows"]:
        assert row["batch"] in (1, 4)
        assert (len(row["single_seconds"]), len(row["batch_seconds"])) == (2, 2)
    for row in figures["rows"][1:]:
        assert row["proof"]["same_class"] == row["proof"]["images"] > 100
        assert row["size"] > 10_000
    assert len(written) == 2  # elsewhere, and gone
    assert not any(path.exists() or path.parent.exists() for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    again = here("benchmark", digits, *QUICK, "--formats", "timm", "--batch-size", 3, "--json", "b.json")
    assert again.returncode == 0, again.stderr
    assert [row["batch"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["RUN", "--formats", "onyx"], "--formats: there is no 'onyx', did you mean 'onnx'?"),
        (["RUN", "--formats", ","], "--formats: name one at least, or all"),
        (["RUN", "--formats", "paper"], "none of these formats can be had here: paper: this network has no"),
        (["RUN", "--formats", "all", "--roofline"], "--formats measures the formats of one run folder"),
        (["--formats", "all"], "--formats measures the formats of one run folder"),
        (["ff_micro_patch2_8", "--formats", "all"], "is no run folder"),
    ],
)
def test_a_users_mistake_gets_one_sentence(arguments, sentence, digits):
    done = here("benchmark", *(digits if word == "RUN" else word for word in arguments))
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())


def test_a_run_without_validation_images_has_nothing_to_prove_formats_on(digits, tmp_path):
    run = shutil.copytree(digits, tmp_path / "run")
    config = read_config(run / "config.yaml")
    without = config.replace(data=config.data.replace(validation=0.0))
    (run / "config.yaml").write_text(without.to_yaml())
    (run / "split.csv.gz").unlink()  # of a run with validation images
    done = here("benchmark", run, "--formats", "timm")
    assert done.returncode == 2
    assert f"--formats: {run} has no validation split to prove the formats on" in " ".join(done.stderr.split())


def test_validation_images_of_which_none_can_be_read_are_said(digits, tmp_path):
    for number in range(3):
        (tmp_path / "0").mkdir(exist_ok=True)
        (tmp_path / "0" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ffvit.UserError, match="none of the 2 validation images could be read"):
        table._prepared(ffvit.Predictor(digits), open_images(str(tmp_path), None, None), 2)


def test_the_smallest_batch_near_the_best_is_taken(monkeypatch):
    seconds = iter([1.0, 1.0, 1.55, 4.0])  # 1, 2, 2.58 and 2 images per second
    monkeypatch.setattr(table, "time_calls", lambda *_: [next(seconds)])
    assert table._best_batch(lambda count: lambda: None, (1, 2, 4, 8), 1.0) == 4
    seconds = iter([1.0, 1.0, 1.98, 4.0])
    assert table._best_batch(lambda count: lambda: None, (1, 2, 4, 8), 1.0) == 2


def test_tables_fit_80_columns_with_every_number_whole():
    page = io.StringIO()
    proof = Proof(np.arange(10), np.eye(10, dtype=np.float32), np.eye(10, dtype=np.float32), 1, 0.0, 1, 0.0)
    rows = [FormatRow(RUN, "PyTorch", None, None)]
    rows += [FormatRow(name, row.engine, proof, 3 * 2**30) for name, row in FORMATS.items()]
    for row in rows:
        row.batch, row.single_seconds, row.batch_seconds = 64, [0.1234, 0.1111, 0.1999], [0.0012, 0.0011, 0.0019]
    print_formats(FormatsBenchmark("runs/photos", 3, rows, {}), Terminal(file=page, width=80))
    printed = page.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    for number in ("123 (111-200)", "53,333 (33,684-58,182)", "3,072.0", "10 of 10", "With 75 % confidence"):
        assert number in printed, number
