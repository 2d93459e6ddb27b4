from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import commands
import ffvit
from ffvit.config.architecture import FF_ONLY
from ffvit.config.recipe import named_recipe
from ffvit.exporting import command
from ffvit.exporting.formats import FORMATS, Written
from ffvit.exporting.int8 import Sensitivity
from ffvit.exporting.output import free_output
from ffvit.exporting.program import Program, Stages
from ffvit.exporting.proof import Reference, Sample, find_stage
from ffvit.inference import exported
from ffvit.inference.engines import import_openvino
from ffvit.models.description import preprocess_of, set_preprocess

CPU = ffvit.Hardware(accelerator="cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos) -> Path:
    """Its images are resized and cropped, and its logits have some size."""
    recipe = named_recipe("small").replace(epochs=1, warmup_epochs=0, batch_size=8, evaluation_crop=0.6, exact="always")
    architecture = ffvit.Architecture(width=12, depth=2, block=FF_ONLY, img_size=24, patch=8, init="pytorch")
    out = tmp_path_factory.mktemp("export") / "run"
    return ffvit.train(architecture, photos, recipe, hardware=CPU, out=out).path


@pytest.fixture(scope="module")
def pt2(run, tmp_path_factory) -> Path:
    return ffvit.export(run, format="pt2", out=tmp_path_factory.mktemp("pt2") / "network.pt2").path


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:executorch", "ignore:read_text is deprecated:DeprecationWarning"
)
@pytest.mark.parametrize("form", ["onnx", "openvino", "pt2", "executorch"])
def test_a_file_predicts_and_is_scored_as_its_run(run, photos, tmp_path, form):
    if form == "executorch":
        pytest.importorskip("executorch")
    done = ffvit.export(run, format=form, out=tmp_path / f"network{FORMATS[form].suffix}")
    proof = done.proof
    assert (proof.images, proof.agree) == (5, 5)
    assert proof.difference < 1e-5
    assert proof.level_difference < 1.01
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(path.suffix for path in done.files)
    of_file, of_run = (list(ffvit.predict(weights, [photos / "val"], hardware=CPU)) for weights in (done.path, run))
    for one, other in zip(of_file, of_run, strict=True):
        assert (one.image, one.classes) == (other.image, other.classes)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    scores = [ffvit.evaluate(weights, photos, hardware=CPU) for weights in (done.path, run)]
    assert scores[0].evaluation.top1 == scores[1].evaluation.top1
    assert scores[0].evaluation.temperature == scores[1].evaluation.temperature
    np.testing.assert_allclose(scores[0].predictions.logits, scores[1].predictions.logits, atol=1e-5)


@pytest.mark.parametrize("form", ["onnx-int8", "openvino-int8"])
def test_eight_bits_are_calibrated_ranked_and_refused_where_they_lose_too_much(
    run, photos, tmp_path, monkeypatch, form
):
    row = FORMATS[form]
    if missing := [name for name in row.packages if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {missing[0]}")
    done = ffvit.export(run, format=form, out=tmp_path / f"int8{row.suffix}", max_loss=100)
    predictions = (ffvit.predict(weights, [photos / "val"], hardware=CPU) for weights in (done.path, run))
    of_file, of_run = ([one.classes[0] for one in some] for some in predictions)
    assert (done.proof.images, done.proof.agree, of_file) == (5, 5, of_run)
    assert 0 < done.proof.difference < 0.2 * done.proof.scale
    if form == "openvino-int8":
        check_operations(done.path, len(done.sensitivities))
        assert sys.modules["openvino_telemetry"] is None  # nncf reports its use where it finds this package
    layers = [one.layer for one in done.sensitivities]
    parts = [f"blocks.{block}.{branch}.mixer.fc{layer}" for block in (0, 1) for branch in (0, 1) for layer in (1, 2)]
    assert sorted(layers) == sorted(["head", "patch_embed.proj", *parts])
    changes = [one.change for one in done.sensitivities]
    assert changes == sorted(changes, reverse=True)
    assert 0 < changes[0] < 0.2
    before = np.eye(100, 10, dtype=np.float32)
    after = np.concatenate([1 - before[:2], before[2:]])
    worse = command.Proof(before.argmax(1), before, after, 1, 0.0, 1, 0.0)
    with pytest.raises(
        ffvit.UserError, match=r"it loses 2\.00 points .* more than 0\.5; .* --max-loss 2 lets it through"
    ):
        command._check_loss(worse, 0.5, done.sensitivities)
    command._check_loss(worse, 2.0, done.sensitivities)

    def made_before(written: Written, *_: object) -> list[Sensitivity]:
        for file in done.files:
            shutil.copy(file, written.path.with_suffix(file.suffix))
        return done.sensitivities

    monkeypatch.setitem(FORMATS, form, replace(row, quantize=made_before))
    monkeypatch.setattr(command, "prove", lambda *_: worse)
    with pytest.raises(ffvit.UserError, match=r"it loses 2\.00 points .* the most sensitive layer is"):
        ffvit.export(run, format=form, out=tmp_path / f"refused{row.suffix}")
    assert not list(tmp_path.glob("refused*"))


def check_operations(file: Path, layers: int) -> None:
    """Check that an OpenVINO file has a quantizer in front of each layer, and in front of nothing else."""
    model = import_openvino().Core().read_model(file)  # kept: nodes alone do not hold those behind them
    quantizers = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    into = [place.get_node().get_type_name() for node in quantizers for place in node.output(0).get_target_inputs()]
    assert sorted(into) == sorted(["Convolution", *["MatMul"] * (layers - 1)])


def broken(network: torch.nn.Module, part: str) -> Program:
    """A program with a fault in one stage."""
    preprocess = preprocess_of(network).replace(pixel_backend="pillow")
    if part == "mean":
        preprocess = preprocess.replace(mean=(0.5, 0.456, 0.406))
    elif part == "interpolation":
        preprocess = preprocess.replace(interpolation="bilinear")
    elif part:
        with torch.no_grad():
            network.get_submodule(part).weight[0, 0] += 0.1
    return Program(network, preprocess).eval()


@pytest.mark.parametrize(
    ("part", "stage"),
    [
        ("mean", "preprocessing"),
        ("interpolation", "preprocessing"),
        ("patch_embed.proj", "embedding"),
        ("blocks.1.0.mixer.fc1", "block 2"),
        ("head", "head"),
    ],
)
def test_the_stage_where_a_file_goes_wrong_is_named(run, photos, tmp_path, part, stage):
    network = ffvit.load(run)
    reference = Reference(network, preprocess_of(network).replace(pixel_backend="pillow"))
    sample = Sample.of(ffvit.evaluate(run, hardware=CPU).images, reference.preprocess, 1000, 2)

    def write(module: torch.nn.Module, names: list[str]) -> Path:
        FORMATS["pt2"].write(Written(module, names, "", tmp_path / "stages.pt2"), FORMATS["pt2"])
        return tmp_path / "stages.pt2"

    assert Stages(Program(network, reference.preprocess)).names == [
        "preprocessing",
        "embedding",
        "block 1",
        "block 2",
        "head",
    ]
    assert find_stage(write, broken(ffvit.load(run), part), reference, sample) == stage


def test_wrong_preprocessing_writes_nothing_and_is_named(run, tmp_path, monkeypatch):
    def wrong(network, preprocess):
        return Program(network, preprocess.replace(mean=(0.5, 0.456, 0.406)))

    monkeypatch.setattr(command, "Program", wrong)
    with pytest.raises(ffvit.UserError, match=r"not written: .* The difference begins in: preprocessing"):
        ffvit.export(run, format="pt2", out=tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_is_gone_where_stages_are_written_is_said(run, tmp_path, monkeypatch):
    """As of an exporter that fuses two layers wrongly, and not where the output between them is asked for."""

    class Fused(torch.nn.Module):
        def __init__(self, program: torch.nn.Module) -> None:
            super().__init__()
            self.program = program

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.program(images) + 1

    def wrong(written, row):
        if written.outputs == ["logits"]:
            written = replace(written, program=Fused(written.program))
        FORMATS["pt2"].write(written, row)

    monkeypatch.setattr(command, "FORMATS", {**FORMATS, "pt2": replace(FORMATS["pt2"], write=wrong)})
    with pytest.raises(
        ffvit.UserError, match="differs from the network, but no stage does when it is written with all"
    ):
        ffvit.export(run, format="pt2", out=tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_kept_unless_it_is_ours_and_may_go(run, pt2, tmp_path):
    theirs = tmp_path / "theirs.pt2"
    theirs.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(ffvit.UserError, match=r"theirs.pt2: is there, and is no file that ffvit export wrote"):
            ffvit.export(run, format="pt2", out=theirs, overwrite=overwrite)
    with pytest.raises(ffvit.UserError, match="is there"):
        ffvit.export(run, format="pt2", out=pt2)
    assert free_output("run", "pt2", pt2, True) == pt2
    assert theirs.read_bytes() == b"mine"


def test_the_name_of_the_file_follows_the_run_and_the_format(run):
    names = {
        form: str(free_output("run", form, None, False)) for form in ("onnx-int8", "openvino-int8", "timm", "paper")
    }
    assert names == {
        "onnx-int8": "run-int8.onnx",
        "openvino-int8": "run-int8.xml",
        "timm": "run-timm",
        "paper": "run.pth",
    }
    with pytest.raises(ffvit.UserError, match=r"--out a.onnx: files of the format pt2 end in .pt2"):
        ffvit.export(run, format="pt2", out=Path("a.onnx"))


def full(*_args):
    """A write to a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing(pt2, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ffvit.RunStoppedError, match=r"the disk is full .* then export again"):
        command._place(pt2, tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_before_the_proof_is_said_to_be(run, tmp_path, monkeypatch):
    monkeypatch.setitem(command.FORMATS, "pt2", replace(FORMATS["pt2"], write=full))
    with pytest.raises(ffvit.RunStoppedError, match=r"the disk is full; nothing was written.* then export again"):
        ffvit.export(run, format="pt2", out=tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told_before_any_work(run, tmp_path, monkeypatch):
    network = ffvit.load(run)
    with pytest.raises(ffvit.UserError, match="these weights bring no validation split: give --data"):
        ffvit.export(network, out=tmp_path / "a.onnx")
    network.pretrained_cfg = {**network.pretrained_cfg, "interpolation": "nearest"}
    with pytest.raises(ffvit.UserError, match="images resized by nearest cannot be exported: only bicubic"):
        ffvit.export(network, out=tmp_path / "a.onnx")
    network.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ffvit.UserError, match=r"the weights are NaN or infinite \(head.weight\)"):
        ffvit.export(network, out=tmp_path / "a.onnx")
    empty = tmp_path / "begun"
    empty.mkdir()
    shutil.copy(run / "config.yaml", empty)
    with pytest.raises(ffvit.UserError, match="begun: no weights in this folder"):
        ffvit.export(empty, out=tmp_path / "a.onnx")
    monkeypatch.setattr(exported, "find_spec", lambda _: None)
    with pytest.raises(
        ffvit.UserError, match=r"--format executorch needs executorch: pip install 'ffvit\[executorch\]'"
    ):
        ffvit.export(run, format="executorch", out=tmp_path / "a.pte")
    with pytest.raises(ffvit.UserError, match="there is no such file"):
        ffvit.Predictor(tmp_path / "nowhere.onnx")


def test_what_no_format_or_no_proof_can_hold_is_said(run, photos, tmp_path, monkeypatch):
    weights, data = run / "best.safetensors", photos / "val"
    alone = shutil.copy(weights, tmp_path / "alone.safetensors")
    with pytest.raises(ffvit.UserError, match="onnx-int8 is calibrated on the training images of a run"):
        ffvit.export(alone, format="onnx-int8", data=data, out=tmp_path / "a.onnx")
    padded = ffvit.load(weights)
    set_preprocess(padded, preprocess_of(padded).replace(crop_pct=1.2))
    with pytest.raises(ffvit.UserError, match=r"a crop of 1\.2 of the resized image pads it"):
        ffvit.export(padded, data=data, out=tmp_path / "a.onnx")
    monkeypatch.setattr(command, "ONE_FILE", 1000)
    with pytest.raises(ffvit.UserError, match="are more than the 2 GiB of a graph of ONNX in one piece"):
        ffvit.export(run, out=tmp_path / "a.onnx")
    broken = tmp_path / "broken" / "dahlia"
    broken.mkdir(parents=True)
    (broken / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ffvit.UserError, match="none of the 1 images to prove the file on could be read"):
        ffvit.export(run, format="pt2", data=broken.parent, out=tmp_path / "a.pt2")
    assert not list(tmp_path.glob("a.*"))


def test_a_mixer_that_a_format_lacks_is_named(run, tmp_path, monkeypatch):
    def without_norms(written, _):
        if any(isinstance(module, torch.nn.GELU | torch.nn.LayerNorm) for module in written.program.modules()):
            raise RuntimeError("no operator")

    row = FORMATS["onnx"]
    monkeypatch.setitem(command.FORMATS, "onnx", type(row)(**{**vars(row), "write": without_norms}))
    with pytest.raises(
        ffvit.UserError,
        match=r"--format onnx has no operator for the mixer feedforward along features and feedforward along patches; "
        r"--format pt2 has all",
    ):
        ffvit.export(run, out=tmp_path / "a.onnx")


@pytest.mark.slow
def test_the_command_line_exports_and_predicts(run, photos, tmp_path):
    """What is exported here opens in another process, which did not write it."""
    exports = commands.here("export", run, "--format", "pt2", cwd=tmp_path)
    assert exports.returncode == 0, exports.stderr
    assert "5 of 5 images in batches, 5 of 5 alone" in exports.stdout
    image = min((photos / "val").rglob("*.jpg"))
    of_file = commands.ffvit("predict", "run.pt2", image, "--format", "csv", cwd=tmp_path)
    of_run = commands.here("predict", run, image, "--format", "csv")
    assert (of_file.returncode, of_run.returncode) == (0, 0), of_file.stderr + of_run.stderr
    assert of_file.stdout == of_run.stdout
