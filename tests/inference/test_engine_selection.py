from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ffvit
from ffvit.inference import engine_selection
from ffvit.inference.engine_selection import MeasuredEngine, fastest_engine

CPU = torch.device("cpu")
SLOW_START = [MeasuredEngine("torch", 10.0, 0.0), MeasuredEngine("onnx", 20.0, 5.0)]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def network() -> torch.nn.Module:
    return ffvit.create_model("ff_micro_patch2_8").eval()


def test_an_engine_is_chosen_by_when_all_images_are_answered(home, network, monkeypatch):
    monkeypatch.setattr(engine_selection, "LONG", 0.0)
    monkeypatch.setattr(engine_selection, "measure_engines", lambda *_: SLOW_START)
    said: list[str] = []
    assert fastest_engine(network, 99, 32, CPU, "fp32", said.append) == "torch"  # 9.9 s; 5 + 4.95 s
    assert fastest_engine(network, 101, 32, CPU, "fp32", said.append) == "onnx"
    assert "answering on onnx: 20 images/s here, 2.00 times PyTorch" in said[-1]


def test_few_images_are_answered_without_measuring(home, network, monkeypatch):
    monkeypatch.setattr(engine_selection, "measure_engines", lambda *_: pytest.fail("measured"))
    assert fastest_engine(network, 3, 32, CPU, "fp32", pytest.fail) == "torch"


def test_what_was_measured_is_kept(home, network, monkeypatch):
    monkeypatch.setattr(engine_selection, "LONG", 0.0)
    calls = []
    monkeypatch.setattr(engine_selection, "measure_engines", lambda *_: calls.append(1) or SLOW_START)
    for _ in range(3):
        assert fastest_engine(network, 1000, 32, CPU, "fp32", str) == "onnx"
    assert len(calls) == 1
    fastest_engine(ffvit.create_model("vit_micro_patch2_8").eval(), 1000, 32, CPU, "fp32", str)
    fastest_engine(network, 1000, 32, CPU, "bf16", str)
    fastest_engine(network, 1000, 32, CPU, "bf16", str)
    monkeypatch.setattr(engine_selection, "machine_name", lambda _: "another machine")
    fastest_engine(network, 1000, 32, CPU, "fp32", str)
    assert len(calls) == 4


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"key": [{"engine": 1}]}', '{"key": 3}'])
def test_a_broken_file_counts_as_none(home, network, monkeypatch, broken):
    monkeypatch.setattr(engine_selection, "LONG", 0.0)
    monkeypatch.setattr(engine_selection, "measure_engines", lambda *_: SLOW_START)
    engine_selection.cache_file().parent.mkdir(parents=True)
    engine_selection.cache_file().write_text(broken)
    assert fastest_engine(network, 1000, 32, CPU, "fp32", str) == "onnx"
    assert len(engine_selection._kept()) == 1


def test_a_home_that_cannot_be_written_to_loses_nothing(home, network, monkeypatch):
    monkeypatch.setattr(engine_selection, "LONG", 0.0)
    monkeypatch.setattr(engine_selection, "measure_engines", lambda *_: SLOW_START)
    (home / ".cache").write_text("a file where a folder should be")
    assert fastest_engine(network, 1000, 32, CPU, "fp32", str) == "onnx"


def test_a_full_disk_loses_nothing(home, network, monkeypatch):
    def full(path):
        raise ffvit.RunStoppedError("the disk is full")

    monkeypatch.setattr(engine_selection, "LONG", 0.0)
    monkeypatch.setattr(engine_selection, "measure_engines", lambda *_: SLOW_START)
    monkeypatch.setattr(engine_selection, "atomic_path", full)
    assert fastest_engine(network, 1000, 32, CPU, "fp32", str) == "onnx"


def test_a_network_without_a_name_is_answered_by_pytorch(home, monkeypatch):
    class Mine(torch.nn.Module):
        pretrained_cfg = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}  # noqa: RUF012
        num_classes = 10

        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(64, 10)

        def forward(self, images):
            return self.head(images.flatten(1))

    monkeypatch.setattr(engine_selection, "LONG", 0.0)
    assert fastest_engine(Mine().eval(), 1000, 32, CPU, "fp32", pytest.fail) == "torch"


def test_engines_are_measured(network, monkeypatch):
    monkeypatch.setattr(engine_selection, "SECONDS", 0.05)
    monkeypatch.setattr(engine_selection, "ENGINES", ("torch", "onnx"))
    found = {each.engine: each for each in engine_selection.measure_engines(network, 4, CPU, "fp32")}
    assert set(found) == {"torch", "onnx"}
    assert found["torch"].start == 0
    assert found["onnx"].start > 0


def test_an_engine_that_answers_otherwise_is_left_out(network, monkeypatch):
    monkeypatch.setattr(engine_selection, "SECONDS", 0.05)
    monkeypatch.setattr(engine_selection, "ENGINES", ("torch", "onnx"))
    build = engine_selection.build

    def wrong(net, engine, *rest):
        model = build(net, engine, *rest)
        return model if engine == "torch" else torch.nn.Sequential(model, torch.nn.Softmax(dim=1))

    monkeypatch.setattr(engine_selection, "build", wrong)
    assert [each.engine for each in engine_selection.measure_engines(network, 4, CPU, "fp32")] == ["torch"]
