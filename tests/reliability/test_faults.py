"""What goes wrong inside a training is noticed, said, and survived if it can be."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.resource_sharer import _ResourceSharer
from pathlib import Path

import psutil
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

import ffvit
from commands import environment
from ffvit.config import recipe as recipes
from ffvit.config.architecture import FF_ONLY
from ffvit.data import loader, resilient_loader
from ffvit.data.images import FileImages
from ffvit.hardware.devices import is_out_of_memory
from ffvit.run_folder import Run
from ffvit.training.losses import Criterion
from ffvit.training.nonfinite import NonfiniteGuard
from ffvit.training.step import TrainStep

QUICK = recipes.RECIPES["digits"].replace(epochs=2, warmup_epochs=1, batch_size=128)
PHOTOS = QUICK.replace(batch_size=8)
SMALL = ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=(16, 16), patch=(8, 8))


pytestmark = pytest.mark.usefixtures("one_thread")


def trained(out: Path, **options) -> tuple[Run, str]:
    """A run, and what it said."""
    console = Console(file=io.StringIO(), width=300)
    options = {"recipe": QUICK, "hardware": ffvit.Hardware(precision="fp32")} | options
    return ffvit.train(out=out, verbose=console, **options), console.file.getvalue()


def on_photos(out: Path, photos: Path, workers: int, **options) -> tuple[Run, str]:
    hardware = ffvit.Hardware(workers=workers, precision="fp32")
    return trained(out, model=SMALL, data=photos, recipe=PHOTOS, hardware=hardware, **options)


def assert_same(one: Run, other: Run) -> None:
    for file in ("best.safetensors", "last.safetensors", "predictions.csv"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file


# Steps that are not finite


def spoil(monkeypatch, steps, factor=float("nan")) -> None:
    """Make the loss of some steps (counted through the run) something else."""
    forward, count = Criterion.forward, iter(range(10_000))

    def spoiled(self, *arguments):
        losses = forward(self, *arguments)
        return losses * factor if next(count) in steps else losses

    monkeypatch.setattr(Criterion, "forward", spoiled)


def test_a_step_that_is_not_finite_is_left_out_counted_and_said(tmp_path, monkeypatch):
    weights = []
    step = TrainStep.__call__

    def noting(self, *arguments):
        result = step(self, *arguments)
        weights.append(torch.cat([each.detach().flatten().clone() for each in self.plain.parameters()]))
        return result

    monkeypatch.setattr(TrainStep, "__call__", noting)
    spoil(monkeypatch, {4, 13, 14})
    run, said = trained(tmp_path / "run")
    unchanged = [number for number in range(1, 20) if torch.equal(weights[number], weights[number - 1])]
    assert unchanged == [4, 13, 14]
    assert "the loss became nan at step 5 of epoch 1 (after 640 images): the step is left out, 1 so far" in said
    assert "the loss became nan at step 4 of epoch 2 (after 1,792 images): the step is left out, 2 so far" in said
    assert "3 steps of the training were not finite and were left out" in said
    assert run.summary()["skipped_steps"] == 3
    assert run.metrics()[0]["loss"] > 0


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_ten_in_a_row_stop_the_run_with_the_checkpoint_before_untouched(tmp_path, monkeypatch, factor):
    spoil(monkeypatch, range(15, 100), factor)
    with pytest.raises(ffvit.RunStoppedError, match=r"the loss became \w+ at step 6 of epoch 2 .* stayed so for 10 steps; "
                                                    r"the last good checkpoint is kept"):  # fmt: skip
        trained(tmp_path / "run", recipe=QUICK.replace(epochs=4))
    progress = torch.load(tmp_path / "run/checkpoint/state.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["skipped"]) == (1, 0)


@pytest.mark.parametrize("clip", [None, pytest.param(1.0, marks=pytest.mark.reliability)])
def test_gradients_that_are_not_finite_are_noticed_too(tmp_path, monkeypatch, clip):
    def spoiled(self, *arguments, gradients=TrainStep._gradients):
        loss = gradients(self, *arguments)
        if arguments[1] == 3:
            next(self.plain.parameters()).grad.view(-1)[0] = float("inf")
        return loss

    monkeypatch.setattr(TrainStep, "_gradients", spoiled)
    run, said = trained(tmp_path / "run", recipe=QUICK.replace(clip_grad_norm=clip))
    assert "the gradients were no longer finite at step 4 of epoch 1" in said
    assert run.summary()["skipped_steps"] == 2


@pytest.mark.parametrize("waits", [True, False])
def test_a_step_left_out_changes_neither_weights_nor_state_nor_statistics(waits):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    steps = NonfiniteGuard(Fabric(accelerator="cpu", devices=1), network, optimizer, waits=waits)

    def step(images: torch.Tensor) -> bool:
        steps.begin()
        loss = network(images).square().sum()
        loss.backward()
        made = steps.finite(loss.detach(), None)
        steps.step(optimizer, made)
        optimizer.zero_grad()
        return bool(made)

    def all_of_it() -> list[torch.Tensor]:
        states = [value for state in optimizer.state.values() for value in state.values()]
        return [each.detach().clone() for each in (*network.state_dict().values(), *states)]

    assert step(torch.randn(8, 4))
    before = all_of_it()
    assert not step(torch.full((8, 4), float("nan")))
    assert all(torch.equal(now, then) for now, then in zip(all_of_it(), before, strict=True))
    assert step(torch.randn(8, 4))
    assert not all(torch.equal(now, then) for now, then in zip(all_of_it(), before, strict=True))


# Memory


def test_every_kind_of_want_of_memory_is_known():
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("std::bad_alloc"),
        RuntimeError("bad_alloc"),
    ):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_batch_too_large_for_the_memory_is_computed_in_parts(tmp_path, monkeypatch):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
    whole, _ = trained(tmp_path / "whole")
    forward = ffvit.models.backbone.Backbone.forward

    def short_of_memory(self, images):
        if len(images) > 40 and self.training:
            raise error
        return forward(self, images)

    monkeypatch.setattr(ffvit.models.backbone.Backbone, "forward", short_of_memory)
    cut, said = trained(tmp_path / "cut")
    assert "memory is short: computing each batch in 4 parts (the result stays the same)" in said
    for mine, its in zip(whole.metrics(), cut.metrics(), strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)


@pytest.mark.reliability
def test_a_limit_on_real_memory_is_survived(tmp_path):
    script = f"""
import resource, sys
import ffvit.training.train, psutil, torch
from ffvit.cli import main
from ffvit.training import step, train
fit = train.fit
def limited(*arguments):
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + 450 * 2**20,) * 2)
    fit(*arguments)
train.fit = limited
step.keep_freed_memory = lambda: None
sys.argv = ["ffvit", "train", "ff_tiny_patch16_224", "--image-size", "64", "--data", "{tmp_path}/photos", "--workers", "0", "--out",
            "{tmp_path}/run", "--recipe.epochs", "1", "--recipe.warmup-epochs", "0.1", "--recipe.batch-size", "128",
            "--recipe.aug-repeats", "3", "--precision", "fp32"]
main()
"""
    from photos import write_photos

    write_photos(tmp_path / "photos", per_class=70)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory is short: computing each batch in" in done.stdout


# Loading processes


def once(flag: Path) -> bool:
    """True the first time, in whatever process."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def at_image(monkeypatch, number: int, do) -> None:
    """Do something where an image is read by a loading process."""
    read, parent = FileImages.read, os.getpid()

    def reading(self, index):
        if os.getpid() != parent and self.name(index).endswith(f"{number:04d}.jpg"):
            do()
        return read(self, index)

    monkeypatch.setattr(FileImages, "read", reading)


def test_a_loading_process_that_is_killed_is_replaced_and_no_bit_moves(tmp_path, photos, monkeypatch, capfd):
    whole, _ = on_photos(tmp_path / "whole", photos, workers=0)
    at_image(monkeypatch, 7, lambda: once(tmp_path / "killed") and os.kill(os.getpid(), signal.SIGKILL))
    run, _ = on_photos(tmp_path / "run", photos, workers=2)
    assert_same(run, whole)
    said = capfd.readouterr().err
    assert "was killed by SIGKILL, as the system does when memory runs out at " in said
    assert "0007.jpg: loading goes on with new processes" in said


def test_loading_processes_killed_again_and_again_stop_the_run_in_words(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(resilient_loader, "TICK", 1.0)
    at_image(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        ffvit.errors.WorkerError, match=r"killed by SIGKILL.*0007\.jpg, 4 times in a row; fewer --workers"
    ):
        on_photos(tmp_path / "run", photos, workers=1)


def test_a_loading_process_that_hangs_is_named_and_replaced_within_a_minute(tmp_path, photos, monkeypatch, capfd):
    whole, _ = on_photos(tmp_path / "whole", photos, workers=0)
    assert resilient_loader.PATIENCE + 2 * resilient_loader.TICK <= 60
    monkeypatch.setattr(resilient_loader, "TICK", 0.5)
    monkeypatch.setattr(resilient_loader, "PATIENCE", 2.0)
    at_image(monkeypatch, 7, lambda: once(tmp_path / "hung") and time.sleep(100))
    began = time.monotonic()
    run, _ = on_photos(tmp_path / "run", photos, workers=2)
    assert time.monotonic() - began < 60
    assert_same(run, whole)
    said = capfd.readouterr().err
    assert "hangs at " in said
    assert "0007.jpg: loading goes on with new processes" in said


def test_a_loading_process_killed_while_it_hands_over_a_batch_is_replaced(tmp_path, photos, monkeypatch, capfd):
    """The batch lies in its memory, which is asked of it by a socket."""
    whole, _ = on_photos(tmp_path / "whole", photos, workers=0)
    connect = _ResourceSharer.get_connection

    def killed_before(place):
        if once(tmp_path / "killed"):  # what a process has open is closed before it is seen to be gone
            for process in psutil.Process().children():
                if "pt_data" in process.name():
                    threading.Timer(0.3, process.kill).start()
            raise EOFError
        return connect(place)

    monkeypatch.setattr(_ResourceSharer, "get_connection", staticmethod(killed_before))
    run, _ = on_photos(tmp_path / "run", photos, workers=2)
    assert_same(run, whole)
    said = capfd.readouterr().err
    assert "was killed" in said
    assert "loading goes on with new processes" in said


def test_loading_that_is_slow_does_not_hang(tmp_path, photos, monkeypatch, capfd):
    """Each batch takes longer than the patience, each image does not."""
    monkeypatch.setattr(resilient_loader, "TICK", 0.2)
    monkeypatch.setattr(resilient_loader, "PATIENCE", 1.5)
    at_image(monkeypatch, 7, lambda: time.sleep(0.6))
    on_photos(tmp_path / "run", photos, workers=1)
    assert "hangs" not in capfd.readouterr().err


@pytest.mark.parametrize(("pages", "instead"), [(48, "batches go through pipes"), (4, "no processes load images")])
def test_without_room_in_shared_memory_loading_goes_on_otherwise(tmp_path, photos, monkeypatch, capfd, pages, instead):
    whole, _ = on_photos(tmp_path / "whole", photos, workers=2)
    assert "/dev/shm" not in capfd.readouterr().err
    monkeypatch.setattr(loader, "PREFETCH", 100)
    statvfs = os.statvfs
    little = os.statvfs_result((4096, 4096, 64, pages, pages, *tuple(statvfs("/dev/shm"))[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: little if path == loader.SHARED_MEMORY else statvfs(path))
    run, _ = on_photos(tmp_path / "run", photos, workers=2)
    assert_same(run, whole)
    said = capfd.readouterr().err
    assert f"/dev/shm has {pages / 256:.1f} MiB free" in said
    assert instead in said


def test_what_goes_through_pipes_takes_no_shared_memory(monkeypatch):
    monkeypatch.setattr(loader, "get_worker_info", object)  # as in a worker
    loaded = [loader._Loaded(None, 1, 0), loader._Loaded(None, 2, 1)]
    batch = loader._Collate((3, 4, 5))(loaded)
    pickled = loader._Collate((3, 4, 5), shared_memory=False)(loaded)
    assert isinstance(pickled, bytes)
    unpickled = pickle.loads(pickled)
    assert not unpickled.images.is_shared()
    assert torch.equal(unpickled.images, batch.images)
    assert unpickled.images.stride() == batch.images.stride()
    assert (unpickled.labels.tolist(), unpickled.weights.tolist()) == ([1, 2], [0, 0])


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("size", "instead"), [("64k", "no processes load images"), ("1m", "batches go through pipes"), ("64m", "")]
)
def test_a_run_in_a_container_with_little_shared_memory_ends(tmp_path, photos, size, instead):
    script = f"""
mount -t tmpfs -o size={size} none /dev/shm || exit 99
exec timeout 200 {sys.executable} -m ffvit train --data {photos} --image-size 64 --out {tmp_path}/run --workers 2 \
    --recipe.epochs 2 --recipe.warmup-epochs 0.5 --recipe.batch-size 16
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=environment(), capture_output=True, text=True)
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("this system lets no one mount a file system")
    assert done.returncode == 0, done.stdout + done.stderr
    assert instead in done.stderr
