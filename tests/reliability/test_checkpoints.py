"""Checkpoints are whole or absent; a damaged one is noticed, and the one before it is used."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import ffvit
from commands import environment, here
from ffvit.config import recipe as recipes
from ffvit.run_folder import Run
from ffvit.training import checkpoint, train
from ffvit.training.checkpoint import DamagedError, read_checkpoint

QUICK = recipes.RECIPES["digits"].replace(epochs=3, warmup_epochs=1, batch_size=256)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("finished") / "run"
    return ffvit.train(out=out, recipe=QUICK)


@pytest.fixture
def unfinished(finished, tmp_path) -> Run:
    """The same run, stopped after its last checkpoint."""
    run = Run(shutil.copytree(finished.path, tmp_path / "run"))
    for file in (run.summary_file, run.last_file, run.predictions_file):
        file.unlink()
    return run


def resumed(run: Run) -> str:
    console = Console(file=io.StringIO(), width=300)
    train.resume(run.path, console=console)
    return console.file.getvalue()


def assert_same(one: Run, other: Run) -> None:
    without = "seconds", "images_per_second"
    rows = [[{k: v for k, v in row.items() if k not in without} for row in run.metrics()] for run in (one, other)]
    assert rows[0] == rows[1]
    for file in ("best.safetensors", "last.safetensors", "predictions.csv"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file


def test_the_last_two_checkpoints_are_kept(finished):
    epochs = [
        read_checkpoint(file)["progress"]["epoch"]
        for file in (finished.checkpoint_file, finished.previous_checkpoint_file)
    ]
    assert epochs == [3, 2]
    assert {each.name for each in finished.checkpoint_file.parent.iterdir()} == {"state.pt", "state.previous.pt"}


def test_a_checkpoint_is_readable_without_ffvit(finished):
    assert torch.load(finished.checkpoint_file, weights_only=True)["progress"]["epoch"] == 3


def test_a_checkpoint_torn_at_any_kilobyte_is_noticed(finished, tmp_path):
    whole, torn = finished.checkpoint_file.read_bytes(), tmp_path / "state.pt"
    lengths = [len(whole) - 1, *reversed(range(0, len(whole), 1024))]
    torn.write_bytes(whole)
    for length in lengths:
        os.truncate(torn, length)
        with pytest.raises(DamagedError, match="cut off"):
            read_checkpoint(torn)
    assert len(lengths) > 500


def test_any_flipped_bit_is_noticed(finished, tmp_path):
    whole, path = finished.checkpoint_file.read_bytes(), tmp_path / "state.pt"
    draw = random.Random(0)
    places = [*(draw.randrange(len(whole)) for _ in range(400)), *range(len(whole) - 80, len(whole))]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(DamagedError):
            read_checkpoint(path)


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "absent"])
def test_the_one_before_a_damaged_checkpoint_is_used_and_said(finished, unfinished, damage):
    path = unfinished.checkpoint_file
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"torn": content[:-5000], "flipped": content, "empty": b""}.get(damage, b""))
    if damage == "absent":  # as between the two renames of a save
        path.unlink()
    said = resumed(unfinished)
    assert ("state.pt: the checkpoint is damaged" in said) == (damage != "absent")
    assert ("resuming from the one before it" in said) == (damage != "absent")
    assert_same(unfinished, finished)


def test_a_damaged_checkpoint_is_never_kept_as_the_one_before(finished, unfinished, monkeypatch):
    """Else a second fault would find no whole one."""
    unfinished.checkpoint_file.write_bytes(b"torn")
    monkeypatch.setattr(train, "fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train.resume(unfinished.path, console=Console(quiet=True))
    assert read_checkpoint(unfinished.checkpoint_file)["progress"]["epoch"] == 2
    assert not unfinished.previous_checkpoint_file.exists()


def test_with_both_damaged_it_says_what_to_do(unfinished):
    for file in (unfinished.checkpoint_file, unfinished.previous_checkpoint_file):
        file.write_bytes(b"torn")
    done = here("train", "--out", unfinished.path, "--resume")
    assert done.returncode == 2
    assert "state.pt: the checkpoint is damaged (it is cut off); " in done.stderr
    assert "no other is kept: train again with --overwrite" in done.stderr


def test_metrics_are_those_of_the_checkpoint_that_is_used(unfinished, monkeypatch):
    unfinished.checkpoint_file.write_bytes(b"torn")
    rows = []
    monkeypatch.setattr(train, "fit", lambda setup, run, *_: rows.extend(run.metrics()))
    monkeypatch.setattr(train, "evaluate_at_end", lambda *_: "")
    train.resume(unfinished.path, console=Console(quiet=True))
    assert [row["epoch"] for row in rows] == [1, 2]


def test_too_little_space_is_noticed_before_anything_is_written(finished, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=500_000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(checkpoint.torch, "save", lambda *_: pytest.fail("nothing may be written"))
    with pytest.raises(ffvit.RunStoppedError, match=r"state.pt: the disk is full: .* needs 3 MiB, 0 MiB are left"):
        ffvit.train(out=tmp_path / "run", recipe=QUICK)


@pytest.mark.reliability
@pytest.mark.parametrize("kilobytes", [1500, 2600, 3700, 4800])
def test_a_file_system_that_fills_up_loses_nothing(finished, tmp_path, kilobytes):
    """A real one, in a mount namespace of its own; the run goes on once there is room."""
    place = tmp_path / "small"
    place.mkdir()
    arguments = ["--recipe.epochs", "3", "--recipe.warmup-epochs", "1", "--recipe.batch-size", "256"]
    script = f"""
mount -t tmpfs -o size={kilobytes}k none {place} || exit 99
{sys.executable} -m ffvit train --out {place}/run {" ".join(arguments)}
[ $? = 1 ] || exit 98
ls -A {place}/run/checkpoint | grep tmp && exit 97
mount -o remount,size=100m {place}
if [ -e {place}/run/config.yaml ]; then {sys.executable} -m ffvit train --out {place}/run --resume || exit 96
else {sys.executable} -m ffvit train --out {place}/run {" ".join(arguments)} || exit 95; fi
cp -r {place}/run {tmp_path}/run
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=environment(), capture_output=True, text=True)
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("this system lets no one mount a file system")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "the disk is full" in done.stderr
    assert_same(Run(Path(tmp_path / "run")), finished)
