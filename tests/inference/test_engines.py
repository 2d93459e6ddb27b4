from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import ffvit
from commands import environment
from ffvit.benchmarking.agreement import measure_agreement
from ffvit.benchmarking.targets import Target
from ffvit.config import recipe
from ffvit.config.architecture import FF_ONLY
from ffvit.inference import engines
from ffvit.inference.engines import ENGINES, build, unavailable_reason
from ffvit.inference.onnx_export import export_onnx, quantize
from ffvit.models.compiling import compile_unavailable_reason

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IN_FP32 = ffvit.Hardware(accelerator="cpu", precision="fp32", workers=0)
NETWORKS = "ff_micro_patch2_8", "vit_micro_patch2_8"
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(name: str) -> torch.nn.Module:
    """With initial weights of PyTorch's size: the paper's leave so little that nothing is seen of it in the answers."""
    torch.manual_seed(0)
    net = ffvit.create_model(name)
    for each in net.modules():
        if isinstance(each, torch.nn.Linear):
            each.reset_parameters()
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_engines_answer_as_the_network_in_float64(engine, name):
    net = network(name)
    with torch.inference_mode():
        theirs = build(net, engine, "fp32", CPU)
        exact = network(name).double()(IMAGES.double())
        for batch in (5, 1, 3):
            answers = theirs(IMAGES[:batch])
            assert answers.dtype == torch.float32
            torch.testing.assert_close(answers.double(), exact[:batch], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_network_too_large_for_a_graph_in_one_piece_is_refused(engine, monkeypatch):
    monkeypatch.setattr(engines, "ONE_FILE", 1000)
    with pytest.raises(ffvit.UserError, match=f"{engine}: the network's 0.0 GiB .* the engines torch and compiled"):
        build(network(NETWORKS[0]), engine, "fp32", CPU)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_thread) -> Path:
    """A run on the digits: small batches of images that are not cropped teach a small network enough in a few epochs."""
    network = ffvit.Architecture(
        width=32,
        depth=2,
        block=FF_ONLY,
        img_size=8,
        patch=2,
        in_chans=1,
        init="pytorch",
        readout="mean",
        position="vectors",
    )
    its = recipe.named_recipe("digits").replace(
        epochs=4, warmup_epochs=0.5, lr=4e-3, batch_size=16, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)
    )
    out = tmp_path_factory.mktemp("run") / "digits"
    return ffvit.train(network, "digits", its, hardware=IN_FP32, loggers=(), out=out).path


def test_eight_bits_answer_nearly_the_same(trained):
    subject = Target(str(trained))
    model = build(subject.network(), "onnx", "int8", CPU, subject.calibration_images())
    plain, eight_bits = measure_agreement(subject, [subject.network(), model], CPU, 128)
    assert plain.top1 > 0.85
    assert eight_bits.top1 > plain.top1 - 0.02
    assert eight_bits.differ < 0.05 * eight_bits.images


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_predictions_are_those_of_the_network_itself(engine, trained, tmp_path):
    digits = load_digits()
    for number in range(5):
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(tmp_path / f"{number}.png")
    plain, on_engine = (
        list(ffvit.predict(trained, [tmp_path], engine=each, hardware=IN_FP32)) for each in ("torch", engine)
    )
    for one, other in zip(plain, on_engine, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_the_predictor_calibrates_eight_bits_on_the_run(trained):
    digits = (load_digits().images[:50] * 15).astype("uint8")
    plain, eight_bits = (
        ffvit.Predictor(trained, hardware=IN_FP32),
        ffvit.Predictor(trained, engine="onnx", precision="int8"),
    )
    first, second = (predictor.logits(list(digits)) for predictor in (plain, eight_bits))
    assert 0 < abs(first - second).max() < 0.1 * abs(first).max()
    assert (first.argmax(1) == second.argmax(1)).mean() > 0.9


COMPILED = """
import copy, torch, ffvit
import torch._inductor.freezing as freezing
from ffvit.inference.engines import build
torch.manual_seed(0)
network, device = ffvit.create_model("ff_micro_patch2_8").eval(), torch.device("cpu")
compiled = build(copy.deepcopy(network), "compiled", "fp32", device)
freeze, frozen = freezing.freeze, []
freezing.freeze = lambda *graph: frozen.append(1) or freeze(*graph)
for batch in (4, 3):
    images = torch.rand(batch, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), network(images), rtol=1e-4, atol=1e-5)
assert len(frozen) == 2
"""


@pytest.mark.skipif(compile_unavailable_reason(CPU) is not None, reason="no C++ compiler here")
def test_compiled_answers_as_the_network():
    """In a process of its own: what checks shapes in this one cannot be compiled."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_eight_bits_are_eight_bits():
    graph = quantize(export_onnx(network("ff_micro_patch2_8")), IMAGES)
    matrices = [each for each in graph.graph.initializer if len(each.dims) == 2 and each.data_type == 3]  # int8
    assert len(matrices) == 4 * 4 + 1  # four layers a block, and the head
    scales = {each.name: each.dims for each in graph.graph.initializer}
    assert all(any(list(dims) == [matrix.dims[1]] for dims in scales.values()) for matrix in matrices)


def test_a_network_is_left_as_it_was():
    net = network("ff_micro_patch2_8").train()
    before = {name: each.clone() for name, each in net.state_dict().items()}
    export_onnx(net)
    assert net.training
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())


@pytest.mark.parametrize(
    ("engine", "precision", "device", "words"),
    [
        ("torch", "int8", CPU, "run on the engine onnx"),
        ("openvino", "int8", CPU, "run on the engine onnx"),
        ("onnx", "bf16", CPU, "compiled or openvino"),
        ("openvino", "fp32", GPU, "--device cpu"),
        ("onnx", "fp32", GPU, "pip install onnxruntime-gpu"),
    ],
)
def test_what_cannot_run_is_told(engine, precision, device, words):
    reason = unavailable_reason(engine, precision, device)
    assert reason is not None
    assert words in reason
    with pytest.raises(ffvit.UserError, match=f"{engine} in {precision}"):
        build(network("ff_micro_patch2_8"), engine, precision, device)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert unavailable_reason("torch", "fp32", CPU) is None
    assert unavailable_reason("onnx", "fp32", CPU) == (
        "onnx and onnxscript and onnxruntime missing here: pip install 'ffvit[export]'"
    )
    assert all("ffvit[export]" in str(unavailable_reason(each, "fp32", CPU)) for each in ENGINES[2:])
