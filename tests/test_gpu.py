"""What only a GPU can show: `pytest -m gpu`."""

from __future__ import annotations

import json

import pytest
import torch

import ffvit
from ffvit import Hardware
from ffvit.config import recipe
from ffvit.inference.engines import build, unavailable_reason
from ffvit.profiling.memory import peak_bytes
from ffvit.training.loop import Trainer
from ffvit.training.step import TrainStep
from ffvit.training.train import resume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and to be asked for: pytest -m gpu"),
]
GPU = torch.device("cuda")
SHORT = recipe.named_recipe("digits").replace(epochs=4, warmup_epochs=1)


def losses(out, accelerator="cuda", model="ff_micro_patch2_8", **hardware) -> list[float]:
    run = ffvit.train(model, "digits", SHORT, hardware=Hardware(accelerator=accelerator, **hardware), out=out)
    return [json.loads(line)["loss"] for line in run.metrics_file.read_text().splitlines()]


def test_fp32_trains_to_the_losses_of_a_processor(tmp_path):
    here = losses(tmp_path / "cpu", "cpu")
    assert losses(tmp_path / "gpu", precision="fp32") == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_nearly_so(precision, tmp_path):
    here = losses(tmp_path / "fp32", precision="fp32")
    assert losses(tmp_path / "half", precision=precision) == pytest.approx(here, rel=0.05)


def test_an_interrupted_run_goes_on_to_nearly_the_same(tmp_path, monkeypatch):
    whole = losses(tmp_path / "whole")
    end_epoch = Trainer.end_epoch

    def stop(self, *values) -> None:
        end_epoch(self, *values)
        if self.progress.epoch == 2:
            raise ffvit.RunStoppedError("enough")

    monkeypatch.setattr(Trainer, "end_epoch", stop)
    with pytest.raises(ffvit.RunStoppedError):
        losses(tmp_path / "cut")
    monkeypatch.undo()
    run = resume(tmp_path / "cut")
    found = [json.loads(line)["loss"] for line in run.metrics_file.read_text().splitlines()]
    assert found == pytest.approx(whole, rel=0.01)


def test_a_step_waits_for_nothing(tmp_path, monkeypatch):
    """But for its first ones, which load code."""
    step = TrainStep.__call__

    def watched(self, epoch, number, batches):
        torch.cuda.set_sync_debug_mode("error" if epoch or number > 2 else "default")
        try:
            return step(self, epoch, number, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TrainStep, "__call__", watched)
    deit = SHORT.replace(mixup=0.8, cutmix=1.0, random_erase_prob=0.25, drop_path=0.1, ema_decay=0.99)
    ffvit.train("ff_micro_patch2_8", "digits", deit, hardware=Hardware(accelerator="cuda"), out=tmp_path / "run")


@pytest.mark.parametrize(("engine", "precision", "near"), [
    ("torch", "fp32", 1e-4), ("torch", "bf16", 0.05), ("torch", "fp16", 0.01), ("onnx", "fp32", 1e-4),
])  # fmt: skip
def test_engines_answer_as_the_network_in_float64(engine, precision, near):
    reason = unavailable_reason(engine, precision, GPU)
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    network = ffvit.create_model("ff_micro_patch2_8").eval()
    images = torch.rand(5, 1, 8, 8)
    with torch.inference_mode():
        exact = ffvit.create_model("ff_micro_patch2_8").eval().double()
        exact.load_state_dict(network.state_dict())
        answers = build(network, engine, precision, GPU)(images.to(GPU)).cpu().double()
        wanted = exact(images.double())
    assert (answers - wanted).abs().max() <= near * wanted.abs().max()


def test_memory_is_what_pytorch_took():
    def make():
        return lambda: torch.empty(2**20, device=GPU).sum()

    found = peak_bytes(make, GPU)
    assert found is not None
    assert 2**22 <= found < 2**22 + 2**20
