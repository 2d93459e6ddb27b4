"""A dry run: the checks and the steps of a run, without its folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml

import ffvit
from commands import here
from ffvit.config import recipe as recipes
from ffvit.config.hardware import Hardware
from ffvit.training import dry_run, run_speed
from ffvit.training.dry_run import forecast_run
from ffvit.training.train import configure

QUICK = recipes.RECIPES["digits"].replace(epochs=2, warmup_epochs=1, batch_size=128)
CPU = Hardware(accelerator="cpu", workers=0)


@pytest.fixture
def here_measured(monkeypatch):
    """Steps are timed in this process: a fork server takes seconds to start."""

    def measure(processes, config, splits, threads):
        with tempfile.TemporaryDirectory() as folder:
            return [run_speed._measure(config, splits, threads, Path(folder)) for _ in range(processes)]

    monkeypatch.setattr(run_speed, "TIMED", 0.05)
    monkeypatch.setattr(run_speed, "_measure_at_once", measure)


def test_it_foresees_the_steps_that_the_run_then_makes(tmp_path, here_measured):
    forecast = forecast_run(configure(recipe=QUICK, hardware=CPU), tmp_path / "run")
    assert not list(tmp_path.iterdir())
    run = ffvit.train(recipe=QUICK, hardware=CPU, out=tmp_path / "run")
    assert forecast.steps == run.summary()["images_seen"] // 128 == 20
    assert forecast.seconds > 0
    assert forecast.rows["network"].startswith(
        "ff_micro_patch2_8, 0.14 M parameters, random initial weights (seed 0); 0.00565 G"
    )
    assert forecast.rows["steps"] == "20 in all, 10 an epoch; 128 images at once on a device"
    digits = ", ".join(f"'{digit}'" for digit in range(10))
    assert forecast.rows["classes"] == f"10: {digits} (numbered from 0, natural order)"


SPEED = run_speed.Speed(1.0, 0.01, 0.002, 0.001, 0.1, activations=2.0**20, state=2.0**21)


def test_memory_is_that_of_the_images_on_one_device_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: SPEED)
    monkeypatch.setattr(dry_run, "_held_memory", lambda _: 2**29)
    whole = forecast_run(configure(recipe=QUICK, hardware=CPU), tmp_path / "run")
    parts = forecast_run(configure(recipe=QUICK, hardware=CPU.replace(micro_batch=32)), tmp_path / "run")
    assert whole.memory == 512 + 2 + 128
    assert parts.memory == 512 + 2 + 32
    assert "32 images at once" in parts.rows["steps"]


def test_a_run_of_so_many_minutes_makes_the_steps_that_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: SPEED)
    forecast = forecast_run(configure(recipe=QUICK.replace(minutes=2), hardware=CPU), tmp_path / "run")
    assert forecast.steps == 93  # of 1.28 s
    assert forecast.seconds > 120


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch-size", 5000], "recipe.batch_size 5000 is more than the 1294 training images"),
        (["ff_tinny_patch16_224"], "no network is called 'ff_tinny_patch16_224'"),
        (["--out", "taken"], "taken exists: resume it"),
        (["--devices", 64, "--device", "cpu"], "--devices 64: this machine has"),
        (["--data", "nowhere"], "there is no 'nowhere' in"),
        (["--resume", "--out", "taken"], "--dry-run checks a run that is to begin: leave out --resume"),
    ],
)
def test_what_a_run_refuses_is_refused_before_anything_is_timed(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: pytest.fail("timed"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    done = here("train", *arguments, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_command_prints_the_forecast_and_the_whole_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: SPEED)
    done = here(
        "train", "--recipe", "deit", "--recipe.ema-decay", "none", "--batch-size", 64, "--dry-run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    forecast, _, config = done.stdout.partition("\nnetwork:\n")
    shown = yaml.safe_load("network:\n" + config)
    assert shown["recipe"]["epochs"] == 300
    assert shown["recipe"]["ema_decay"] is None
    assert "time" in forecast
    assert "about 1 h 5 min, from a few steps that were timed on these images" in forecast
    assert "6,000 in all, 20 an epoch" in forecast
    assert not list(tmp_path.iterdir())
