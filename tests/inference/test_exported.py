"""Files that `ffvit export` wrote, and others that say so, as they are opened."""

from __future__ import annotations

import io
import json
import os
import sys
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ffvit
from ffvit.inference import exported
from ffvit.inference.exported import check_archive
from untrained import network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pt2(tmp_path_factory, photos) -> Path:
    made = network(1, "abcd")
    made.class_names = ("dahlia", "leaves", "pagoda", "sky")
    file = tmp_path_factory.mktemp("pt2") / "network.pt2"
    return ffvit.export(made, format="pt2", data=photos / "val", out=file).path


def tampered(content: bytes, change) -> bytes:
    """An archive whose JSON files are changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(out, "w") as after:
        for member in before.infolist():
            data = before.read(member)
            if member.filename.endswith(".json"):
                data = json.dumps(change(member.filename, json.loads(data))).encode()
            after.writestr(member, data)
    return out.getvalue()


def _in_graph(change):
    def apply(name, content):
        if name.endswith("model.json"):
            change(content["graph_module"]["graph"]["nodes"], content)
        return content

    return apply


CODE = "__import__('os').system('touch ran')"


def _weights_as(field, value):
    def apply(name, content):
        if "weights_config" in name:
            next(iter(content["config"].values()))[field] = value
        return content

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_in_graph(lambda nodes, _: nodes[0].update(target="torch.os.system")), "target: 'torch.os.system'"),
        (
            _in_graph(lambda nodes, _: nodes[0].update(target="torch.ops.aten.from_file.default")),
            "target: 'torch.ops.aten.from",
        ),
        (_in_graph(lambda _, whole: whole.update(guards_code=[CODE])), "guards_code"),
        (_in_graph(lambda _, whole: whole.update(expr_str=CODE)), "expr_str"),
        (_in_graph(lambda _, whole: whole["range_constraints"].update({CODE: {}})), "key of range_constraints"),
        (
            _in_graph(lambda nodes, _: nodes[0].update(arg={"as_operator": "torch.os.system"})),
            "key of arg: 'as_operator'",
        ),
        (_weights_as("use_pickle", True), "use_pickle"),
        (_weights_as("path_name", "custom_obj_0"), "path_name"),
    ],
)
def test_an_archive_that_may_run_code_is_not_opened(pt2, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    content = pt2.read_bytes()
    check_archive(tampered(content, lambda _, whole: whole), "")
    file = tmp_path / "bad.pt2"
    file.write_bytes(tampered(content, change))
    with pytest.raises(ffvit.UserError, match=f"not opened: it may run code \\({words}"):
        ffvit.Predictor(file)
    assert not (tmp_path / "ran").exists()


def test_an_archive_with_a_pickle_or_a_library_is_not_opened(pt2):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch ran",)

    example = io.BytesIO()
    torch.save(Evil(), example)
    with zipfile.ZipFile(io.BytesIO(pt2.read_bytes())) as archive:
        there = archive.namelist()[0]
    for name, data, words in (
        (there, b"", "not opened: its archive holds a name twice"),
        ("x/data/sample_inputs/more.pt", example.getvalue(), "is a pickle that asks to run code"),
        ("x/data/aotinductor/model.so", b"", "which `ffvit export` does not write"),
    ):
        content = io.BytesIO(pt2.read_bytes())
        with zipfile.ZipFile(content, "a") as archive, warnings.catch_warnings(action="ignore"):  # of a name twice
            archive.writestr(name, data)
        with pytest.raises(ffvit.UserError, match=words):
            check_archive(content.getvalue(), "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not say its classes and preprocessing: `ffvit export` did not write it"),
        ("{", "its metadata is no JSON"),
        ('{"format": "pt2"}', "metadata.network: is needed"),
        (" " * (exported.MOST_INFO + 1), "bytes of metadata, and is not read"),
    ],
)
def test_metadata_is_checked(monkeypatch, text, words):
    monkeypatch.setattr(exported, "open_runner", lambda _: (text, lambda images: [images]))
    with pytest.raises(ffvit.UserError, match=words):
        exported.Exported(Path("a.pt2"))


def test_a_file_whose_outputs_are_no_logits_is_told(pt2, monkeypatch):
    text, _ = exported.open_runner(pt2)
    monkeypatch.setattr(exported, "open_runner", lambda _: (text, lambda images: [images[:, 0, 0, :]]))
    opened = exported.Exported(pt2)
    with pytest.raises(
        ffvit.UserError, match="gives outputs of 2 x 3 for 2 images and 4 classes: `ffvit export` did not"
    ):
        opened(torch.zeros(2, 3, 40, 40, dtype=torch.uint8))


def test_what_executorch_cannot_run_is_told(tmp_path, monkeypatch):
    """By a stand-in for ExecuTorch, which few machines have."""

    class Method:
        def execute(self, _inputs):
            raise RuntimeError("method->execute() failed with error 0x12")

    program = types.SimpleNamespace(load_method=lambda _: Method(), method_names=())
    runtime = types.ModuleType("executorch.runtime")
    runtime.Runtime = types.SimpleNamespace(get=lambda: types.SimpleNamespace(load_program=lambda _: program))
    monkeypatch.setitem(sys.modules, "executorch", types.ModuleType("executorch"))
    monkeypatch.setitem(sys.modules, "executorch.runtime", runtime)
    monkeypatch.setattr(exported, "find_spec", lambda _: True)
    file = tmp_path / "network.pte"
    file.touch()
    _, execute = exported.open_runner(file)
    with pytest.raises(
        ffvit.UserError, match=r"cannot run this network on 2 images \(.*0x12\): export it with --format onnx"
    ):
        execute(np.zeros((2, 4, 4, 3), np.uint8))


def test_a_damaged_file_is_told(pt2, tmp_path):
    for suffix in (".pt2", ".onnx", ".xml"):
        file = tmp_path / f"cut{suffix}"
        file.write_bytes(pt2.read_bytes()[:1000])
        with pytest.raises(ffvit.UserError, match="truncated, damaged, or not of the kind that its name says"):
            ffvit.Predictor(file)


def test_an_exported_file_has_its_own_engine_and_preparation(pt2, photos):
    with pytest.raises(ffvit.UserError, match="has its own engine and precision: name none"):
        ffvit.Predictor(pt2, engine="onnx")
    with pytest.raises(ffvit.UserError, match="prepares images by itself, on the processor: leave out crop_pct"):
        ffvit.evaluate(pt2, photos, crop=0.5)
