"""Whatever kills a command, at whatever moment: given again, it ends as if it had never been killed."""

from __future__ import annotations

import random
import signal
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

import kills
from ffvit.run_folder import Run
from ffvit.training.checkpoint import read_checkpoint

TRAIN_FOR = (
    "train", "--precision", "fp32", "--recipe.warmup-epochs", 0.5, "--recipe.mixup", 0.8,
    "--recipe.cutmix", 1.0, "--recipe.mixup-group-size", 16, "--recipe.aug-repeats", 3, "--recipe.random-erase-prob", 0.3,
    "--recipe.auto-augment", "rand-m5", "--recipe.ema-decay", 0.9, "--recipe.drop-path", 0.2, "--recipe.epochs",
)  # fmt: skip
TRAIN = (*TRAIN_FOR, 4)

FEW_AND_MANY = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.reliability) for seed in range(1, 20))]
)


def often(seconds: float) -> None:
    """Checkpoints within an epoch, too."""
    from ffvit.training import loop

    loop.SAVE_EVERY, loop.CHECK_EVERY = seconds, 0.0


def change(steps: Path, seconds: float) -> None:
    kills.listen_to_steps(steps)
    often(seconds)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, float]:
    """A run that nothing disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    kills.run(["models", "ff_micro*"], folder / "log")  # the server's start
    seconds = kills.run([*TRAIN, "--out", folder / "run"], folder / "log", partial(change, folder / "steps", 600.0))
    return folder, seconds


@FEW_AND_MANY
def test_a_training_killed_anywhere_ends_with_the_same_bits(tmp_path, undisturbed, seed, record_property):
    """SIGKILL, SIGTERM, Ctrl-C, SLURM's warning, to one process or to the group; other numbers of loading processes."""
    whole, seconds = undisturbed
    draw, out = random.Random(seed), tmp_path / "run"

    def workers() -> list[object]:
        return ["--workers", draw.choice([0, 1, 2])]

    def go_on() -> list[object]:
        if (out / "config.yaml").exists():
            return ["train", "--out", out, "--resume", *workers()]
        return [*TRAIN, "--out", out, *workers()]

    killed = kills.killed_until_done(
        [*TRAIN, "--out", out, *workers()], go_on, tmp_path / "log", seconds, draw,
        partial(change, tmp_path / "steps", draw.choice([0.0, 0.2, 600.0])), (out / "summary.json").exists,
    )  # fmt: skip
    record_property("kills", killed)
    kills.assert_same_run(Run(out), Run(whole / "run"))
    assert kills.steps_of(tmp_path / "steps") == kills.steps_of(whole / "steps")
    assert not list(out.rglob("*.tmp"))


def test_sigterm_to_the_group_saves_before_anything_ends(tmp_path):
    """`kill -- -PGID`, `scancel` and `timeout` reach the loading processes, too."""
    out = tmp_path / "run"
    command = kills.Command([*TRAIN_FOR, 500, "--out", out, "--workers", 2], tmp_path / "log")
    wait_for(lambda: (out / "metrics.jsonl").exists(), command)
    command.kill(signal.SIGTERM, group=True)
    assert command.wait() == 75
    assert f"stopped; resume with: ffvit train --out {out} --resume [E-REQUEUE]" in command.said()
    assert "Traceback" not in command.said()
    assert read_checkpoint(Run(out).checkpoint_file)["progress"]["images"] > 0


def slow_steps() -> None:
    from ffvit.training import loop
    from ffvit.training.step import TrainStep

    step = TrainStep.__call__

    def slow(*arguments):
        time.sleep(0.3)
        return step(*arguments)

    loop.CHECK_EVERY = 100.0  # the losses are looked at every 50 steps
    loop.Trainer.check_after = property(lambda _: 50, lambda *_: None)
    TrainStep.__call__ = slow


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_schedulers_warning_is_heeded_within_a_step(tmp_path, number):
    out = tmp_path / "run"
    command = kills.Command([*TRAIN, "--out", out], tmp_path / "log", slow_steps)
    wait_for(lambda: (out / "tensorboard").exists(), command)
    time.sleep(1.0)
    command.kill(number, group=False)
    told = time.monotonic()
    assert command.wait() == 75
    assert time.monotonic() - told < 2.0
    assert read_checkpoint(Run(out).checkpoint_file)["progress"]["step"] < 10


def test_a_warning_before_there_is_anything_to_save_asks_to_be_run_again(tmp_path):
    command = kills.Command([*TRAIN, "--out", tmp_path / "run"], tmp_path / "log", wait_while_opening)
    wait_for(lambda: "opening" in command.said(), command)
    command.kill(signal.SIGUSR1, group=True)
    assert command.wait() == 75, command.said()
    assert "stopped while nothing had to be saved" in command.said()
    assert not (tmp_path / "run").exists()


def wait_while_opening() -> None:
    from ffvit.training import train

    def slow(_: object) -> None:
        print("opening")
        time.sleep(60)

    train.open_splits = slow  # type: ignore[assignment]


def wait_while_scoring() -> None:
    from ffvit.inference import evaluator

    def slow(self, network, advance=lambda _: None):
        print("scoring")
        for _ in range(100):
            time.sleep(0.2)
            advance(1)

    evaluator.Evaluator.__call__ = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("epochs", [1, 4])
def test_stopped_while_it_scores_an_epoch_it_saves_at_once(tmp_path, undisturbed, epochs):
    """Also the last one, whose figures were lost if it was killed right after its last step."""
    out = tmp_path / "run"
    arguments = [*TRAIN_FOR, epochs, "--out", out]
    command = kills.Command(arguments, tmp_path / "log", wait_while_scoring)
    wait_for(lambda: "scoring" in command.said(), command)
    command.kill(signal.SIGTERM, group=False)
    assert command.wait(10) == 75, command.said()
    progress = read_checkpoint(Run(out).checkpoint_file)["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 20)
    kills.run(["train", "--out", out, "--resume"], tmp_path / "log")
    assert len(Run(out).metrics()) == epochs
    if epochs == 4:
        kills.assert_same_run(Run(out), Run(undisturbed[0] / "run"))


def test_loading_processes_end_with_the_one_they_load_for(tmp_path):
    out = tmp_path / "run"
    command = kills.Command([*TRAIN_FOR, 500, "--out", out, "--workers", 2], tmp_path / "log")
    wait_for(lambda: (out / "metrics.jsonl").exists(), command)
    workers = psutil.Process(command.process.pid).children(recursive=True)
    assert len(workers) >= 2
    command.kill(signal.SIGKILL, group=False)
    command.wait()
    # One that was forked a moment before sees at its first step that its parent is gone.
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not [each for each in alive if "resource_tracker" not in " ".join(each.cmdline())]


def test_a_reader_that_goes_away_ends_no_training(tmp_path, undisturbed):
    """As in `ffvit train | head -1`."""
    import subprocess

    from commands import command, environment

    out = tmp_path / "run"
    process = subprocess.Popen(
        command(*TRAIN, "--out", out), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert (out / "summary.json").exists()


def wait_for(there, command: kills.Command, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert command.alive, command.said()
        assert time.monotonic() < until, command.said()
        time.sleep(0.02)
