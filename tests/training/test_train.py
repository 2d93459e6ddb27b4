from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import ffvit
from commands import ffvit as run_command
from commands import started
from ffvit.config import recipe as recipes
from ffvit.config.architecture import FF_ONLY
from ffvit.models.description import preprocess_of, set_preprocess
from ffvit.run_folder import Run
from ffvit.training import loop, train
from ffvit.training.ema import EMA

QUICK = recipes.RECIPES["digits"].replace(epochs=2, warmup_epochs=1, batch_size=128)
EVERYTHING = {
    "epochs": 2, "warmup-epochs": 1, "mixup": 0.8, "cutmix": 1.0, "mixup-group-size": 16, "aug-repeats": 3, "random-erase-prob": 0.3,
    "auto-augment": "rand-m5", "ema-decay": 0.9, "drop-path": 0.2,
}  # fmt: skip
FINISHED = {
    ".lock",
    "split.csv.gz",
    "config.yaml", "metrics.jsonl", "checkpoint", "best.safetensors", "last.safetensors", "summary.json",
    "predictions.csv", "tensorboard",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def quick(out: Path, **kwargs) -> Run:
    return ffvit.train(out=out, **{"recipe": QUICK, **kwargs})


def flags(fields: dict[str, object]) -> list[str]:
    """In fp32, whatever the processor has units for: in bf16 the order of sums shows."""
    return ["--precision", "fp32"] + [
        word for name, value in fields.items() for word in (f"--recipe.{name}", str(value))
    ]


def without_times(run: Run) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in run.metrics()]


def assert_same(one: Run, other: Run) -> None:
    """To the bit: every epoch's figures, the weights, the answer to every test image."""
    assert without_times(one) == without_times(other)
    for file in ("best.safetensors", "last.safetensors", "predictions.csv"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file


def assert_close(one: Run, other: Run) -> None:
    """Up to the order of sums: losses of every epoch, weights, their moving average."""
    for mine, its in zip(one.metrics(), other.metrics(), strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)
        for name in ("weights", "average"):
            assert mine[name]["loss"] == pytest.approx(its[name]["loss"], rel=1e-5)
    # Not the weights themselves: where a gradient is zero but for rounding, Adam makes whole steps of the rounding.
    answers = [pd.read_csv(run.predictions_file) for run in (one, other)]
    np.testing.assert_allclose(answers[0]["loss"], answers[1]["loss"], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run_command("train", "--out", out, *flags(EVERYTHING))
    assert done.returncode == 0, done.stderr
    return Run(out)


def test_a_run_leaves_its_folder(tmp_path):
    run = quick(tmp_path / "run")
    assert {each.name for each in run.path.iterdir()} == FINISHED
    summary = run.summary()
    assert summary["test"]["images"] == len(pd.read_csv(run.predictions_file)) == 359
    assert [row["epoch"] for row in run.metrics()] == [1, 2]
    assert run.metrics()[-1]["images"] == 2 * (1294 // 128) * 128
    assert {"network", "data", "recipe", "hardware", "seed"} <= run.config.model_fields_set
    assert "torch" in run.config_file.read_text()


def test_what_is_reported_is_what_the_best_weights_answer(tmp_path):
    run = quick(tmp_path / "run")
    again = ffvit.evaluate(run.path)
    assert again.evaluation.to_dict()["top1"] == run.summary()["test"]["top1"]
    assert again.evaluation.temperature == run.summary()["temperature"]
    predictions = pd.read_csv(run.predictions_file)
    assert predictions["correct"].mean() == pytest.approx(run.summary()["test"]["top1"]["value"])
    best = max((row[which]["top1"], -row[which]["loss"]) for row in run.metrics() for which in ("weights", "average"))
    assert (run.summary()["validation"]["top1"], -run.summary()["validation"]["loss"]) == best


def test_same_seed_same_bits_and_another_seed_others(tmp_path):
    one, same, other = quick(tmp_path / "1"), quick(tmp_path / "2"), quick(tmp_path / "3", seed=1)
    assert_same(one, same)
    assert without_times(one) != without_times(other)


def test_memory_is_kept_where_there_is_plenty_and_things_computed_again_where_it_is_short(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("ffvit.training.step.keep_freed_memory", lambda: kept.append(1))
    plenty = quick(tmp_path / "1")
    assert kept == [1]
    monkeypatch.setattr("ffvit.training.auto_tuning.free_memory", lambda _: 1)
    short = quick(tmp_path / "2")
    assert kept == [1]
    assert_same(plenty, short)


def test_the_configuration_of_a_run_runs_it_again(tmp_path, undisturbed):
    done = run_command("train", "--config", undisturbed.config_file, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert_same(undisturbed, Run(tmp_path / "again"))


@pytest.mark.parametrize("hardware", [("--micro-batch", 10), ("--devices", 2), ("--devices", 2, "--strategy", "fsdp")])
def test_parts_of_a_batch_and_processes_move_nothing(tmp_path, undisturbed, hardware):
    done = run_command("train", "--out", tmp_path / "run", *flags(EVERYTHING), *hardware)
    assert done.returncode == 0, done.stderr
    assert_close(undisturbed, Run(tmp_path / "run"))
    assert done.stdout.count("Test part") == 1  # only the first process speaks


def test_killed_and_gone_on_is_as_never_stopped(tmp_path, undisturbed):
    out = tmp_path / "run"
    process = started("train", "--out", out, *flags(EVERYTHING))
    wait_for(lambda: (out / "checkpoint" / "state.pt").exists(), process)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.2))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()  # else the kill came too late to show anything
    done = run_command("train", "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same(undisturbed, Run(out))
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 75)])
def test_interrupted_it_saves_and_says_how_to_go_on(tmp_path, number, code):
    out = tmp_path / "run"
    longer = EVERYTHING | {"epochs": 40}
    process = started("train", "--out", out, *flags(longer))
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped; resume with: ffvit train --out {out} --resume" in said
    at = torch.load(out / "checkpoint" / "state.pt", weights_only=True)["progress"]
    assert 0 < at["images"] < 40 * 1280


def test_going_on_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    undisturbed = quick(tmp_path / "one")
    monkeypatch.setattr(loop, "CHECK_EVERY", 0.0)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    steps = iter(range(100))

    def power_cut(*_):
        if next(steps) == 14:  # the fifth step of the second epoch
            raise ZeroDivisionError

    monkeypatch.setattr(EMA, "update", cut_off(EMA.update, power_cut))
    with pytest.raises(ZeroDivisionError):
        quick(tmp_path / "two")
    monkeypatch.undo()
    assert torch.load(tmp_path / "two/checkpoint/state.pt", weights_only=True)["progress"]["step"] == 4
    assert_same(undisturbed, train.resume(tmp_path / "two", console=Console(quiet=True)))


def test_stopped_at_the_very_end_of_an_epoch(tmp_path, monkeypatch):
    undisturbed = quick(tmp_path / "one")
    steps = iter(range(1, 100))

    def interrupt(*_):
        if next(steps) == 10:  # the last step of the first epoch
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(EMA, "update", cut_off(EMA.update, interrupt))
    with pytest.raises(ffvit.RunStoppedError, match="stopped; resume with"):
        quick(tmp_path / "two")
    monkeypatch.undo()
    assert torch.load(tmp_path / "two/checkpoint/state.pt", weights_only=True)["progress"]["step"] == 10
    assert_same(undisturbed, train.resume(tmp_path / "two", console=Console(quiet=True)))


def test_the_average_counts_steps_through_the_whole_run(tmp_path, monkeypatch):
    """Its warm-up goes by them; a run that went on would else begin it anew."""
    steps, update = [], EMA.update

    def noting(self, network, step):
        steps.append(step)
        update(self, network, step)

    monkeypatch.setattr(EMA, "update", noting)
    quick(tmp_path / "run")
    assert steps == list(range(20))


def test_the_average_of_a_short_run_is_no_longer_at_chance(tmp_path):
    """At the decay of `small`, a run of 100 steps would else end with 98 % of its initial weights."""
    recipe = QUICK.replace(epochs=5, batch_size=64, ema_decay=0.9998)
    last = quick(tmp_path / "run", recipe=recipe).metrics()[-1]
    assert last["average"]["top1"] > 0.9 * last["weights"]["top1"] > 0.5


@pytest.mark.parametrize(("seed", "said"), [(-1, "greater than or equal to 0"), (2**64, "less")])
def test_a_seed_that_is_none_is_said(seed, said):
    with pytest.raises(ffvit.UserError, match=f"^seed: input should be .*{said}.*; got {seed}$"):
        train.configure(seed=seed)


def cut_off(do, first):
    def both(*arguments):
        first(*arguments)
        do(*arguments)

    return both


def wait_for(there, process, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_full_disk_keeps_the_checkpoint_and_leaves_nothing_behind(tmp_path, monkeypatch):
    save, calls = torch.save, iter(range(10))

    def full(content, path):
        if next(calls) == 1:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ffvit.RunStoppedError, match=r"state.pt: the disk is full .*what was there before is untouched"):
        quick(tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    assert_same(quick(tmp_path / "other"), train.resume(tmp_path / "run", console=Console(quiet=True)))


def test_a_disk_that_fills_while_an_epoch_is_written_down_leaves_whole_lines(tmp_path, monkeypatch):
    write = Path.write_text

    def full(path, text):
        if "metrics" in path.name and text.count("\n") == 2:
            write(path, text[:-20])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ffvit.RunStoppedError, match=r"metrics\.jsonl: the disk is full"):
        quick(tmp_path / "run")
    monkeypatch.undo()
    assert [row["epoch"] for row in Run(tmp_path / "run").metrics()] == [1]
    assert_same(quick(tmp_path / "other"), train.resume(tmp_path / "run", console=Console(quiet=True)))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path, monkeypatch):
    rate = loop.lr_at
    monkeypatch.setattr(loop, "lr_at", lambda recipe, done: rate(recipe, done) if done < 1.25 else 1e30)
    with pytest.raises(
        ffvit.RunStoppedError,
        match=r"the loss became (nan|inf) at step [4-9] of epoch 2 \(after 1,\d+ images\), and .*; the last good",
    ):
        quick(tmp_path / "run", recipe=QUICK.replace(clip_grad_norm=None))
    monkeypatch.undo()
    kept = torch.load(tmp_path / "run/checkpoint/state.pt", weights_only=True)
    assert kept["progress"]["epoch"] == 1
    assert all(torch.isfinite(each).all() for each in kept["network"].values())


def test_bad_images_are_passed_over_counted_and_listed(tmp_path, photos):
    folder = shutil.copytree(photos, tmp_path / "photos")
    broken = sorted((folder / "train").rglob("*.jpg"))[::9][:3]
    broken.append(folder / "val" / "sky" / "0001.jpg")
    broken[0].write_bytes(broken[0].read_bytes()[:500])
    broken[1].write_bytes(b"")
    broken[2].write_text("no image")
    broken[3].write_text("no image")
    recipe = QUICK.replace(batch_size=8, mixup=0.5, epochs=3)
    console = Console(record=True, file=io.StringIO())
    data = ffvit.Data(source=str(folder), bad_images=4)
    run = quick(tmp_path / "run", data=data, model=SMALL, recipe=recipe, verbose=console)
    listed = pd.read_csv(run.bad_images_file)
    assert sorted(listed["image"]) == [str(path) for path in broken]
    assert run.summary()["bad_images"] == 4
    said = " ".join(console.export_text().split())
    assert "4 of 60 images could not be read: they are listed in" in said
    assert re.search(r"\d of 60 images could not be read so far, and are left out \(the last: ", said)
    assert re.search(r"epoch 3/3 .* \d unreadable", said)
    assert "on 11 test images (1 more could not be read)" in said
    assert "Warning: 1 of 12 test images could not be read." in said
    with pytest.raises(ffvit.RunStoppedError, match=r"3 images could not be read, more than --data.bad-images 2"):
        quick(tmp_path / "less", data=ffvit.Data(source=str(folder), bad_images=2), model=SMALL, recipe=recipe)


def test_predictions_tell_the_group_of_each_test_image_that_could_be_read(tmp_path, photos):
    folder = shutil.copytree(photos, tmp_path / "photos")
    broken = folder / "val" / "dahlia" / "0001.jpg"
    broken.write_bytes(b"")
    data = ffvit.Data(source=str(folder), groups=r"re:(\w+)/\d\d(\d\d)")
    with pytest.raises(ffvit.UserError, match="lie in both train and val"):
        quick(tmp_path / "run", data=data, model=SMALL)
    for path in (folder / "val").rglob("*.jpg"):
        path.rename(path.with_name(f"val{path.name}"))
    data = data.replace(groups=r"re:(\w+)/(\w+)\.jpg")
    run = quick(tmp_path / "run", data=data, model=SMALL, recipe=QUICK.replace(batch_size=8, epochs=2))
    table = pd.read_csv(run.predictions_file)
    assert len(table) == 11
    assert table["group"].tolist() == [f"{Path(name).parent.name}/{Path(name).stem}" for name in table["image"]]


SMALL = ffvit.Architecture(width=12, depth=2, block=FF_ONLY, img_size=(24, 16), patch=(4, 8))


def test_an_architecture_of_ones_own_on_photographs_with_workers(tmp_path, photos):
    recipe = QUICK.replace(batch_size=8, aug_repeats=3, mixup=0.8, mixup_group_size=4, drop_path=0.3, dropout=0.1)
    machines = [ffvit.Hardware(workers=0), ffvit.Hardware(workers=2)]
    runs = [
        quick(tmp_path / str(i), data=photos, model=SMALL, recipe=recipe, hardware=m) for i, m in enumerate(machines)
    ]
    assert_same(*runs)
    assert ffvit.load(runs[0].path).class_names == ("dahlia", "leaves", "pagoda", "sky")
    assert ffvit.load(runs[0].path).architecture == SMALL.replace(num_classes=4)


def test_without_a_selection_part_the_last_weights_are_the_result(tmp_path):
    run = quick(tmp_path / "run", data=ffvit.Data(validation=0))
    assert not run.best_file.exists()
    assert run.summary()["weights"] == "the last weights"
    assert run.summary()["temperature"] is None
    assert ffvit.evaluate(run.path).evaluation.to_dict()["top1"] == run.summary()["test"]["top1"]


def test_a_budget_in_minutes_fits_the_schedule_to_the_clock(tmp_path):
    run = quick(tmp_path / "run", recipe=QUICK.replace(minutes=0.05, epochs=50, warmup_epochs=5))
    rates = [row["lr"] for row in run.metrics()]
    assert 2 < run.summary()["seconds"] < 30  # the time is a budget of training, not a promise about the machine
    assert rates[-1] < 0.1 * QUICK.peak_lr


def test_starting_from_weights_with_other_classes_makes_a_new_head(tmp_path, photos):
    first = quick(tmp_path / "first", data=photos, model=SMALL, recipe=QUICK.replace(batch_size=8))
    console = Console(record=True, quiet=False, file=open(os.devnull, "w"), width=200)  # noqa: PTH123, SIM115
    labels = pd.DataFrame(
        {"path": sorted(map(str, (photos / "train").rglob("*.jpg"))), "label": ["nature"] * 24 + ["city"] * 24}
    )
    labels.to_csv(tmp_path / "list.csv", index=False)
    run = ffvit.train(
        SMALL, tmp_path / "list.csv", QUICK.replace(batch_size=8), start_from=first.path, out=tmp_path / "second",
        verbose=console,
    )  # fmt: skip
    console.file.close()
    assert "with a new head for 2 classes" in console.export_text()
    assert ffvit.load(run.path).class_names == ("city", "nature")


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "bce"},
        {"balance": "weights"},
        {"balance": "sampler"},
        {"optimizer": "lion", "lr": 1e-4},
        {"schedule": "constant", "ema_decay": None},
        {"clip_grad_norm": None, "mixup": 0.2, "cutmix": 0.0},
    ],
)
def test_recipes_learn_otherwise_than_without_their_fields(tmp_path, four_epochs, fields):
    run = quick(tmp_path / "run", recipe=QUICK.replace(epochs=4, **fields))
    assert run.metrics()[-1]["loss"] < run.metrics()[0]["loss"]
    assert_other_weights(run, four_epochs)


@pytest.fixture(scope="module")
def four_epochs(tmp_path_factory) -> Run:
    return quick(tmp_path_factory.mktemp("four") / "run", recipe=QUICK.replace(epochs=4))


def assert_other_weights(one: Run, other: Run) -> None:
    weights = [load_file(run.last_file) for run in (one, other)]
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_distilling_a_teacher(tmp_path, undisturbed, four_epochs):
    def distilled(kind: str) -> Run:
        fields = {"teacher": str(undisturbed.path), "distillation": kind, "distillation_weight": 0.9}
        return quick(tmp_path / kind, recipe=QUICK.replace(epochs=4, **fields))

    soft, hard = distilled("soft"), distilled("hard")
    assert_other_weights(soft, hard)
    for run in (soft, hard):
        assert run.metrics()[-1]["loss"] < run.metrics()[0]["loss"]
        assert_other_weights(run, four_epochs)


def test_a_teacher_of_other_classes_is_refused(tmp_path, undisturbed, photos):
    recipe = QUICK.replace(teacher=str(undisturbed.path), batch_size=8)
    with pytest.raises(ffvit.UserError, match="predicts 10 classes, the data has 4"):
        quick(tmp_path / "run", data=photos, model=SMALL, recipe=recipe)
    colour = ffvit.NAMED["ff_micro_patch2_8"].replace(in_chans=3)
    with pytest.raises(ffvit.UserError, match="takes images of 1 channels, the network of 3"):
        quick(tmp_path / "run", model=colour, recipe=QUICK.replace(teacher=str(undisturbed.path)))


def test_compiled_learns_the_same(tmp_path, undisturbed):
    done = run_command("train", "--out", tmp_path / "run", "--compile", "always", *flags(EVERYTHING))
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "run").metrics()[-1]["loss"] == pytest.approx(undisturbed.metrics()[-1]["loss"], rel=1e-3)


def test_bf16_learns_nearly_the_same_and_is_scored_in_fp32(tmp_path, photos):
    def trained(precision: str) -> Run:
        hardware = ffvit.Hardware(precision=precision)
        return quick(
            tmp_path / precision, data=photos, model=SMALL, recipe=QUICK.replace(batch_size=8), hardware=hardware
        )

    half, full = trained("bf16"), trained("fp32")
    assert half.metrics()[-1]["loss"] == pytest.approx(full.metrics()[-1]["loss"], rel=0.05)
    assert_other_weights(half, full)
    written = pd.read_csv(half.predictions_file)["loss"]
    in_fp32 = ffvit.evaluate(half.path, hardware=ffvit.Hardware(accelerator="cpu", precision="fp32"))
    np.testing.assert_allclose(written, in_fp32.predictions.loss, atol=1e-6)


def test_micro_batches_beyond_the_devices_memory_are_cut(tmp_path, monkeypatch):
    """A stand-in for a small GPU: more than 20 images at once do not fit."""
    in_fp32 = ffvit.Hardware(precision="fp32")
    whole = quick(tmp_path / "whole", hardware=in_fp32)
    forward = ffvit.create_model("ff_micro_patch2_8").__class__.forward

    def short_of_memory(self, images):
        if len(images) > 20 and self.training:
            raise torch.OutOfMemoryError
        return forward(self, images)

    monkeypatch.setattr(ffvit.models.backbone.Backbone, "forward", short_of_memory)
    cut = quick(tmp_path / "cut", hardware=in_fp32)
    for mine, its in zip(whole.metrics(), cut.metrics(), strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"recipe": QUICK.replace(batch_size=2000)},
            r"batch_size 2000 is more than the 1294 training images; try --batch-size 128",
        ),
        ({"recipe": "digit"}, r"none is called 'digit', did you mean 'digits'\?"),
        (
            {"model": "ff_mikro_patch2_8"},
            r"no network is called 'ff_mikro_patch2_8', did you mean 'ff_micro_patch2_8'\?",
        ),
        ({"recipe": QUICK.replace(optimizer="adamv")}, r"timm has none called 'adamv', did you mean 'adam"),
        ({"start_from": "nowhere.pth"}, r"nowhere.pth: there is no such file"),
        ({"model": SMALL, "start_from": "pretrained"}, r"an architecture of your own has no published weights"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, given, sentence):
    with pytest.raises(ffvit.UserError, match=sentence):
        quick(tmp_path / "run", **given)


def test_a_folder_that_exists_is_never_overwritten_unasked(tmp_path):
    run = quick(tmp_path / "run")
    before = run.summary_file.read_bytes()
    with pytest.raises(ffvit.UserError, match=r"run exists: resume it \(--resume\), replace it \(--overwrite\)"):
        quick(run.path, seed=1)
    assert run.summary_file.read_bytes() == before
    quick(run.path, seed=1, overwrite=True)
    assert run.summary_file.read_bytes() != before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("dear to me")
    with pytest.raises(ffvit.UserError, match="is no run folder, so --overwrite does not delete it"):
        quick(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "mine.jpg").exists()


def test_stopped_before_the_first_checkpoint_it_starts_anew(tmp_path):
    undisturbed = quick(tmp_path / "one")
    stopped = quick(tmp_path / "two")
    stopped.summary_file.unlink()
    for file in (stopped.checkpoint_file, stopped.previous_checkpoint_file):
        file.unlink()  # as between an epoch's figures and its checkpoint
    assert_same(undisturbed, train.resume(stopped.path, console=Console(quiet=True)))
    assert [row["epoch"] for row in stopped.metrics()] == [row["epoch"] for row in undisturbed.metrics()]


def test_the_temperature_is_in_the_file_it_was_fitted_for(tmp_path):
    run = quick(tmp_path / "run")
    assert run.summary()["temperature"] is not None
    assert ffvit.load(run.best_file).temperature == run.summary()["temperature"]
    assert ffvit.load(run.last_file).temperature is None
    before = {file: file.read_bytes() for file in (run.best_file, run.last_file)}
    run.summary_file.unlink()  # as if killed between the weights and the figures
    train.resume(run.path, console=Console(quiet=True))
    assert {file: file.read_bytes() for file in before} == before


def test_a_resumed_run_prepares_images_as_the_weights_it_started_from(tmp_path):
    """Its start weights are normalized otherwise than their network is by default, and are gone by then."""
    start = ffvit.create_model("ff_micro_patch2_8")
    set_preprocess(start, preprocess_of(start).replace(mean=(0.2,), std=(0.7,)))
    ffvit.save_weights(tmp_path / "start.safetensors", start, tuple("0123456789"), temperature=3.0)
    recipe = QUICK.replace(epochs=1, warmup_epochs=0)
    undisturbed = quick(tmp_path / "one", recipe=recipe, start_from=tmp_path / "start.safetensors")
    trained = preprocess_of(ffvit.load(undisturbed.path))
    assert (trained.mean, trained.std) == ((0.2,), (0.7,))
    assert (trained.crop_pct, trained.interpolation) == (recipe.evaluation_crop, recipe.interpolation)
    assert ffvit.load(undisturbed.last_file).temperature is None
    stopped = quick(tmp_path / "two", recipe=recipe, start_from=tmp_path / "start.safetensors")
    (tmp_path / "start.safetensors").unlink()
    stopped.summary_file.unlink()
    assert_same(undisturbed, train.resume(stopped.path, console=Console(quiet=True)))


def test_what_is_not_to_be_gone_on_with(tmp_path):
    run = quick(tmp_path / "run")
    with pytest.raises(ffvit.UserError, match="this run is finished"):
        train.resume(run.path)
    run.summary_file.unlink()
    for file in (run.checkpoint_file, run.previous_checkpoint_file):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ffvit.UserError, match="the checkpoint is damaged"):
        train.resume(run.path, console=Console(quiet=True))
    with pytest.raises(ffvit.UserError, match="not a run folder: it does not exist"):
        train.resume(tmp_path / "nowhere")


def test_the_weights_file_tells_what_it_holds(tmp_path):
    run = quick(tmp_path / "run")
    network = ffvit.load(run.best_file)
    assert network.class_names == tuple("0123456789")
    assert network.architecture == ffvit.NAMED["ff_micro_patch2_8"]
    assert set(load_file(run.last_file)) == set(network.state_dict())
    assert json.loads(run.summary_file.read_text())["parameters"] == sum(each.numel() for each in network.parameters())
    assert np.isfinite([each.sum().item() for each in network.parameters()]).all()
