"""`ffvit benchmark` as a person types it, with engines that stand in for the real ones; no test asserts a time."""

from __future__ import annotations

import json
import re
import sys
from types import ModuleType

import pytest
import torch
from matplotlib.image import imread
from torch import nn

from commands import here
from ffvit.benchmark import measure as measuring
from ffvit.profiling import hardware_peak

QUICK = ("--rounds", 2, "--seconds", 0.01, "--batch-size", 4)


class Upside(nn.Module):
    """Answers wrongly what the network answered rightly."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return -self.network(images)


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    """Engines of which one is not there, and one answers otherwise; limits that are quick to measure; no compiling."""
    module = ModuleType("ffvit.inference.engines")
    calibrated = []
    module.ENGINES = ("torch", "compiled", "onnx", "openvino")
    module.PRECISIONS = ("fp32", "bf16", "int8")
    module.unavailable_reason = lambda engine, precision, device: (
        "ONNX Runtime is not installed" if engine == "onnx" else None
    )

    def build(network, engine, precision, device, calibration=None):
        calibrated.append(calibration)
        return (Upside(network) if precision == "int8" else network).eval()

    module.build = build
    monkeypatch.setitem(sys.modules, "ffvit.inference.engines", module)
    monkeypatch.setattr(
        "ffvit.benchmark.workload.compile_unavailable_reason", lambda _: "shapes are checked here as it runs"
    )
    monkeypatch.setattr(hardware_peak, "SIZES", {"cpu": (16, 32)})
    monkeypatch.setattr(hardware_peak, "TRIAD", 2**12)
    return calibrated


@pytest.fixture
def no_children(monkeypatch):
    monkeypatch.setattr(measuring, "peak_bytes", lambda make, device: 3 * 2**20 if make()() is None else 2**20)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    few = ("--recipe.epochs", 3, "--recipe.warmup-epochs", 1, "--recipe.batch-size", 64)
    assert here("train", "--out", out, *few).returncode == 0
    return out


def refused(*arguments, code=2) -> str:
    done = here("benchmark", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_networks_are_measured_predicting_and_training(tmp_path):
    """Memory is measured here in processes of its own, as for a user."""
    file = tmp_path / "b.json"
    done = here("benchmark", "ff_micro_patch2_8", *QUICK, "--precisions", "fp32", "--json", file)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert re.search(r"Predicting, ff_micro_patch2_8, torch, fp32, [0-9.]+ GFLOP an image, batch of 4, 2 rounds", said)
    assert re.search(r"Training, ff_micro_patch2_8, torch, fp32, [0-9.]+ GFLOP an image, batch of 4, 2 rounds", said)
    assert "100 % is what one large matrix product reaches on this machine in fp32" in said
    assert f"figures in {file}" in said
    found = json.loads(file.read_text())
    predict, train = found["rows"]
    assert (predict["work"], train["work"]) == ("predict", "train")
    assert train["flops"] == 3 * predict["flops"]
    for row in (predict, train):
        assert len(row["images_per_second"]) == len(row["shares"]) == 2
        assert row["peak"] >= 0
        assert row["shares"][0] == pytest.approx(
            row["images_per_second"][0] * row["flops"] / found["products"]["fp32"]["flops_per_second"][0]
        )
    assert predict["latency"]["median"] <= predict["latency"]["percentile_99"]
    assert train["latency"] is None
    assert train["peak"] > 0


def test_which_is_the_fastest_is_said(no_children):
    done = here("benchmark", "ff_micro_patch2_8", "vit_micro_patch2_8", *QUICK, "--precisions", "fp32", "--no-train")
    assert done.returncode == 0, done.stderr
    assert "is the fastest: in images/s " in done.stdout
    assert "Training" not in done.stdout


def test_what_cannot_run_is_listed_with_its_reason(no_children):
    done = here("benchmark", "ff_micro_patch2_8", *QUICK, "--engines", "torch, onnx", "--precisions", "fp32,int8")
    assert "not measured: onnx, fp32: ONNX Runtime is not installed" in done.stdout
    assert "not measured: onnx, int8" in done.stdout
    assert "nothing of this runs here: onnx fp32: ONNX Runtime is not installed" in refused(
        "ff_micro_patch2_8", "--engines", "onnx", "--precisions", "fp32", "--no-train"
    )


@pytest.mark.parametrize("ratio", [0.1, 10.0])
def test_bf16_is_measured_where_it_is_fast(ratio, no_children, monkeypatch):
    monkeypatch.setattr(hardware_peak, "has_bf16_matmul", lambda: False)
    monkeypatch.setattr(hardware_peak, "matmul_rate", lambda size, precision, *_: 1.0 if precision == "fp32" else ratio)
    done = here("benchmark", "ff_micro_patch2_8", *QUICK, "--no-train")
    assert done.returncode == 0, done.stderr
    said = "not measured: all engines, bf16: this machine has no fast bf16 (a matrix product takes 10 times as long"
    assert (said in done.stdout) == (ratio < 1)
    assert ("in bf16:" in done.stdout) == (ratio > 1)


def test_a_run_is_scored_on_its_test_part(digits, engines, no_children, tmp_path):
    file = tmp_path / "b.json"
    done = here("benchmark", digits, *QUICK, "--precisions", "fp32,int8", "--no-train", "--json", file)
    assert done.returncode == 0, done.stderr
    plain, other = json.loads(file.read_text())["rows"]
    summary = json.loads((digits / "summary.json").read_text())["test"]
    assert plain["answered"]["top1"] == pytest.approx(summary["top1"]["value"])
    assert (plain["answered"]["differ"], other["answered"]["differ"]) == (0, other["answered"]["images"])
    assert other["answered"]["top1"] < 0.1
    assert not other["shares"]  # the limit of int8 is not measured
    assert "In int8 on torch, " in done.stdout
    assert f"of {other['answered']['images']} test images otherwise than in fp32" in " ".join(done.stdout.split())
    shown = [each for each in engines if each is not None]
    assert shown
    assert all(each.shape == (128, 1, 8, 8) for each in shown)
    assert abs(float(shown[0].mean())) < 2  # training images, normalised
    assert float(shown[0].std()) > 0.1


def test_weights_without_a_run_are_only_timed(digits, no_children):
    done = here("benchmark", digits / "best.safetensors", *QUICK, "--precisions", "fp32,int8", "--no-train")
    assert done.returncode == 0, done.stderr
    assert "top-1" not in done.stdout


def test_the_roofline_is_drawn(tmp_path):
    picture, file = tmp_path / "r.png", tmp_path / "r.json"
    done = here(
        "benchmark", "--roofline", "ff_micro_patch2_8", "--precisions", "bf16,fp32", "--batch-size", 4, "--out", picture,
        "--json", file,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert imread(picture).shape[1] >= 1000
    found = json.loads(file.read_text())
    assert set(found["limits"]["products"]) == {"bf16", "fp32"}
    assert found["precision"] == "fp32"
    assert {each["part"] for each in found["parts"]} >= {"feed-forward along patches", "norms", "embedding", "head"}
    assert all(each["seconds"] > 0 and each["moved"] > 0 for each in found["parts"])
    assert "Most of the time goes to" in done.stdout
    assert f"picture in {picture}" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ff_tinny_patch16_224"], "no network is called 'ff_tinny_patch16_224', did you mean 'ff_tiny_patch16_224'?"),
        (["runs/nowhere", "--no-train"], "runs/nowhere: there is no such file"),
        (["--engines", "torch,onyx"], "--engines: there is no 'onyx', did you mean 'onnx'?"),
        (["--precisions", "int4"], "--precisions: there is no 'int4', did you mean 'int8'?"),
        (["--engines", ","], "--engines: name one at least"),
        (["--batch-size", 0], "--batch-size: input should be greater than 0"),
        (["--batch-size", 1], "--batch-size 1: a step of training takes two images at least; measure prediction with --no-train"),
        (["--json", "nowhere/b.json"], "--json nowhere/b.json: there is no folder nowhere"),
        (["--roofline", "--out", "nowhere/r.png"], "--out nowhere/r.png: there is no folder nowhere"),
        (["--roofline", "ff_micro_patch2_8", "vit_micro_patch2_8"], "--roofline draws one network"),
        (["--roofline", "--precisions", "int8"], "--precisions int8: --roofline measures fp32 and bf16"),
        (["--image", 225], "height 225 is no multiple of the patch's 16"),
    ],
)  # fmt: skip
def test_a_users_mistake_gets_one_sentence(arguments, sentence):
    assert sentence in refused(*arguments)


def test_weights_keep_their_image_size(digits):
    assert "have an image size of their own; leave it out" in refused(digits, "--image", 16)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--accelerator cuda: PyTorch sees no CUDA device" in refused("--accelerator", "cuda")


def test_a_gpu_too_small_is_said_to_be(monkeypatch, no_children):
    def made(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measuring, "_made", made)
    assert "the GPU's memory is too small for these networks at once: use a smaller --batch" in refused(
        "--precisions", "fp32", code=1
    )
