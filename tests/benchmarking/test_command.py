"""`ffvit benchmark` as a user types it, with engines that stand in for the real ones; no test asserts a time."""

from __future__ import annotations

import io
import json
import re
import sys
from types import ModuleType

import pytest
import torch
from matplotlib.image import imread
from torch import nn

from commands import here
from ffvit.benchmarking import measure as measuring
from ffvit.benchmarking import report, roofline
from ffvit.benchmarking.measure import Benchmark, Row
from ffvit.benchmarking.roofline import Point, Roofline
from ffvit.benchmarking.targets import Target
from ffvit.files.output_file import is_plot
from ffvit.profiling import hardware_peak
from ffvit.profiling.hardware_peak import HardwarePeak, MatmulRate
from ffvit.profiling.op_profile import Work
from ffvit.terminal import Terminal

QUICK = ("--rounds", 2, "--seconds", 0.01, "--batch-size", 4)


class Negated(nn.Module):
    """Predicts wrongly what the network predicted correctly."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return -self.network(images)


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    """Engines of which one is missing and one predicts differently; a peak that is quick to measure; no compiling."""
    module = ModuleType("ffvit.inference.engines")
    calibrations = []
    module.ENGINES = ("torch", "compiled", "onnx", "openvino")
    module.PRECISIONS = ("fp32", "bf16", "int8")
    module.unavailable_reason = lambda engine, precision, device: (
        "ONNX Runtime is not installed" if engine == "onnx" else None
    )

    def build(network, engine, precision, device, calibration=None):
        calibrations.append(calibration)
        return (Negated(network) if precision == "int8" else network).eval()

    module.build = build
    monkeypatch.setitem(sys.modules, "ffvit.inference.engines", module)
    monkeypatch.setattr(
        "ffvit.benchmarking.workload.compile_unavailable_reason", lambda _: "jaxtyping checks shapes in this process"
    )
    monkeypatch.setattr(hardware_peak, "SIZES", {"cpu": (16, 32)})
    monkeypatch.setattr(hardware_peak, "TRIAD", 2**12)
    return calibrations


@pytest.fixture
def no_children(monkeypatch):
    monkeypatch.setattr(measuring, "peak_bytes", lambda make, device: 2**20)


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
    row = "ff_micro_patch2_8, torch, fp32, [0-9.]+ GFLOP per image, batch of 4, 2 rounds"
    assert re.search(f"Prediction: {row}", said)
    assert re.search(f"Training: {row}", said)
    assert "100 % is the best that one large matrix product reached on this machine in fp32" in said
    assert f"figures in {file}" in said
    figures = json.loads(file.read_text())
    predict, train = figures["rows"]
    assert (predict["work"], train["work"]) == ("predict", "train")
    assert train["flops"] == 3 * predict["flops"]
    for row in (predict, train):
        assert len(row["images_per_second"]) == 2
        assert row["peak_memory"] >= 0
        rate = max(row["images_per_second"]) * row["flops"]
        assert row["utilization"] == pytest.approx(rate / figures["matmuls"]["fp32"]["rate"])
    assert predict["latency"]["median"] <= predict["latency"]["percentile_99"]
    assert train["latency"] is None
    assert train["peak_memory"] > 0


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


def test_a_run_is_evaluated_on_its_test_split(digits, engines, no_children, tmp_path):
    file = tmp_path / "b.json"
    done = here("benchmark", digits, *QUICK, "--precisions", "fp32,int8", "--no-train", "--json", file)
    assert done.returncode == 0, done.stderr
    plain, int8 = json.loads(file.read_text())["rows"]
    summary = json.loads((digits / "summary.json").read_text())["test"]
    assert plain["agreement"]["top1"] == pytest.approx(summary["top1"]["value"])
    assert (plain["agreement"]["differ"], int8["agreement"]["differ"]) == (0, int8["agreement"]["images"])
    assert int8["agreement"]["top1"] < 0.1
    assert int8["utilization"] is None  # the peak of int8 is not measured
    assert "In int8 on torch, " in done.stdout
    changed = f"of {int8['agreement']['images']} test images differently than in fp32"
    assert changed in " ".join(done.stdout.split())
    calibrations = [images for images in engines if images is not None]
    assert calibrations
    assert all(images.shape == (128, 1, 8, 8) for images in calibrations)
    assert abs(float(calibrations[0].mean())) < 2  # training images, normalized
    assert float(calibrations[0].std()) > 0.1


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
    assert is_plot(picture.read_bytes()[:1000])  # so that the next one may replace it
    figures = json.loads(file.read_text())
    assert set(figures["peak"]["matmuls"]) == {"bf16", "fp32"}
    assert figures["precision"] == "fp32"
    parts = {part["part"]: part for part in figures["parts"]}
    assert set(parts) >= {"feed-forward along patches", "norms", "embedding", "head"}
    assert all(part["seconds"] > 0 and part["moved"] > 0 for part in parts.values())
    assert "Most of the time goes to" in done.stdout
    assert f"picture in {picture}" in " ".join(done.stdout.split())


def roofline_of(points, peak):
    return Roofline("net", torch.device("cpu"), 1, "fp32", peak, points)


def test_the_peak_and_the_parts_are_measured_in_turns_and_the_best_of_each_is_taken(monkeypatch):
    """A machine that is busy in some rounds lowers neither the roof nor the points."""
    turns = []
    peaks, seconds = iter([1e9, 3e9, 2e9]), iter([0.3, 0.2, 0.1])

    def measured_peak(precisions, device, memory):
        turns.append("peak")
        return HardwarePeak({"fp32": MatmulRate(16, next(peaks))}, 1e12)

    def timed(network, images):
        turns.append("parts")
        return {"head": next(seconds)}

    monkeypatch.setattr(roofline, "ROUNDS", 3)
    monkeypatch.setattr(roofline, "measure_peak", measured_peak)
    monkeypatch.setattr(roofline, "seconds_by_part", timed)
    target = Target("ff_micro_patch2_8")
    found = roofline.measure(target, ["fp32"], device=torch.device("cpu"), batch=2, console=Terminal())
    assert turns == 3 * ["peak", "parts"]
    assert found.peak.matmuls["fp32"].rate == 3e9
    assert [point.seconds for point in found.points] == [0.1]


def test_tables_fit_80_columns_with_every_number_whole():
    page = io.StringIO()
    console = Terminal(file=page, width=80)
    rows = [
        Row(name, "torch", "bf16", "predict", 36_100_000_000, [12_345.0, 10_001.0, 13_999.0], [0.0123], 3 * 2**30)
        for name in ("deit_base_distilled_patch16_224", "runs/a-folder-with-a-rather-long-name-for-photographs")
    ]
    peak = HardwarePeak({"bf16": MatmulRate(8192, 7.88e14)})
    report.print_benchmark(Benchmark(torch.device("cpu"), 128, 3, peak, rows, []), console)
    part = Point("feed-forward along features", Work(10**13, 10**10, 10**10), 0.5)
    peak = HardwarePeak({"fp32": MatmulRate(8192, 7.88e14)}, 4.8e12)
    roofline.print_roofline(roofline_of([part], peak), console)
    printed = page.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    for number in ("12,345 (10,001-13,999)", "3,072", "36.1", "10,010", "1,001", "500"):
        assert number in printed, number


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ff_tinny_patch16_224"], "no network is called 'ff_tinny_patch16_224', did you mean 'ff_tiny_patch16_224'?"),
        (["runs/nowhere", "--no-train"], "runs/nowhere: there is no such file"),
        (["--engines", "torch,onyx"], "--engines: there is no 'onyx', did you mean 'onnx'?"),
        (["--precisions", "int4"], "--precisions: there is no 'int4', did you mean 'int8'?"),
        (["--engines", ","], "--engines: name one at least"),
        (["--batch-size", 0], "batch"),
        (["--batch-size", 1], "--batch-size 1: a training step takes two images at least; measure prediction with --no-train"),
        (["--json", "nowhere/b.json"], "--json nowhere/b.json: there is no folder nowhere"),
        (["--roofline", "--out", "nowhere/r.png"], "--out nowhere/r.png: there is no folder nowhere"),
        (["--roofline", "ff_micro_patch2_8", "vit_micro_patch2_8"], "--roofline draws one network"),
        (["--roofline", "--precisions", "int8"], "--precisions int8: --roofline measures fp32 and bf16"),
        (["--image-size", 225], "height 225 is no multiple of the patch's 16"),
    ],
)  # fmt: skip
def test_a_users_mistake_gets_one_sentence(arguments, sentence):
    assert sentence in refused(*arguments)


@pytest.mark.parametrize(
    ("option", "kind"), [("--out", "picture of a roofline"), ("--json", "file with numbers of a benchmark")]
)
def test_a_file_of_another_kind_is_not_replaced(option, kind, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG a photograph")
    assert f"is there, and is no {kind}" in refused("--roofline", "ff_micro_patch2_8", option, photo)
    assert photo.read_bytes() == b"\x89PNG a photograph"


def test_weights_keep_their_image_size(digits):
    assert "fix the image size: leave out --image-size" in refused(digits, "--image-size", 16)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: PyTorch sees no CUDA device" in refused("--device", "cuda")


def test_formats_are_not_measured_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "--formats: exported files run on processors here: leave out --device cuda" in refused(
        "runs/digits", "--formats", "timm", "--device", "cuda"
    )


def test_a_gpu_too_small_is_said_to_be(monkeypatch, no_children):
    def prepare(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measuring, "_prepare", prepare)
    assert "the GPU's memory is too small for these networks at once: use a smaller --batch" in refused(
        "--precisions", "fp32", code=1
    )
