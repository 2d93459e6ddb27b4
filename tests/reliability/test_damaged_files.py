"""Files of ours that were damaged, or that someone else wrote: one sentence each, no traceback, no code, little memory."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch

import commands
import ffvit
from ffvit.config import recipe
from ffvit.config.architecture import NAMED, Network
from ffvit.errors import UserError
from ffvit.inference.predictions import read_predictions
from ffvit.models.create import create_model
from ffvit.models.weights import read_weights, save_weights
from ffvit.run_folder import Config, Run
from ffvit.study.folder import Study
from ffvit.study.jobs import Job
from ffvit.study.ledger import Ledger
from ffvit.study.plan import Plan
from ffvit.study.results import read_results
from ffvit.training.checkpoint import MARK
from memory import most_memory

GARBAGE = {
    "empty": b"",
    "zeros": bytes(100),
    "no JSON": b'{"a": ',
    "a list": b"[1, 2]",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "a long number": b'{"a": ' + b"9" * 5000 + b"}",
    "no text": b"\xff\xfe\x00\xd8",
    "a page": b"<!DOCTYPE html>",
}


def one_sentence(error: BaseException, path: Path) -> None:
    assert str(error).startswith(str(path))
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


@pytest.fixture(scope="module")
def network():
    return create_model("ff_micro_patch2_8", 3).eval()


@pytest.fixture
def weights(tmp_path, network) -> Path:
    path = tmp_path / "w.safetensors"
    save_weights(path, network, ["a", "b", "c"], temperature=1.5)
    return path


def with_metadata(path: Path, change) -> Path:
    """Change the JSON in a safetensors file's metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = change(json.loads(header["__metadata__"]["ffvit"]))
    header["__metadata__"]["ffvit"] = about if isinstance(about, str) else json.dumps(about)
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])
    return path


class TestSafetensors:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda _: "{", "truncated or damaged"),
            (lambda _: "[" * 100_000, "truncated or damaged"),
            (lambda _: [1], "truncated or damaged: its metadata holds no fields"),
            (lambda _: "9" * 5000, "truncated or damaged"),
            (lambda about: about | {"network": 3}, "metadata.network: must be fields"),
            (lambda about: about | {"network": {"name": ["x"]}}, "metadata.network.name"),
            (lambda about: about | {"class_names": 3}, "metadata.class_names"),
            (lambda about: about | {"class_names": ["a"]}, "it names 1 classes, and its network has 3"),
            (lambda about: about | {"class_names": ["a", 2, "c"]}, "metadata.class_names.1"),
            (lambda about: about | {"temperature": "hot"}, "metadata.temperature"),
            (lambda about: about | {"temperature": 0}, "metadata.temperature"),
            (lambda about: about | {"temperature": float("nan")}, "metadata.temperature"),
            (lambda about: about | {"preprocess": {"img_size": [8, 8], "crop_pct": 1e-9}}, "preprocess.crop_pct"),
            (lambda about: about | {"preprocess": {"img_size": [8, 10**9]}}, "preprocess.img_size"),
            (lambda about: about | {"preprocess": []}, "metadata.preprocess"),
            (lambda about: about | {"surprise": 1}, "metadata.surprise: there is no such field"),
        ],
    )
    def test_damaged_metadata_is_one_sentence(self, weights, change, words):
        with pytest.raises(UserError, match=words) as caught:
            ffvit.load(with_metadata(weights, change))
        one_sentence(caught.value, weights)

    def test_class_names_that_are_no_text_stay(self, weights):
        changed = with_metadata(weights, lambda about: about | {"class_names": ["a", "\udce9", "c"]})
        assert ffvit.load(changed).class_names == ("a", "\udce9", "c")

    @pytest.mark.parametrize(
        "sizes",
        [
            {"depth": 10**9},
            {"depth": 1000},
            {"width": 2**17},
            {"img_size": [2**15, 2**15]},
            {"block": [{"mixer": "feedforward", "axis": "patches", "hidden": 2**24}]},
            {"block": [{"mixer": "feedforward", "axis": "features", "ratio": 1e308}]},
            {"in_chans": 2**15},
        ],
    )
    def test_a_network_too_large_for_any_memory_is_never_built(self, weights, sizes):
        def change(about):
            about["network"] = {"architecture": about["network"]["architecture"] | sizes}
            return about

        with most_memory() as most, pytest.raises(UserError) as caught:
            ffvit.load(with_metadata(weights, change))
        one_sentence(caught.value, weights)
        assert most() < 64 * 2**20

    def test_a_network_of_timm_too_large_for_any_memory_is_never_built(self, tmp_path):
        torch.save({"head.weight": torch.zeros(2, 8)}, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": "mixer_b16_224", "pretrained_cfg": {"input_size": [3, 32768, 32768]}})
        )
        with pytest.raises(UserError, match="weights of another network"):
            ffvit.load(tmp_path)

    @pytest.mark.parametrize("length", [0, 7, 8, 9, 100, 2000, -1])
    def test_a_file_cut_anywhere_is_one_sentence(self, weights, length):
        weights.write_bytes(weights.read_bytes()[:length])
        with pytest.raises(UserError) as caught:
            ffvit.load(weights)
        one_sentence(caught.value, weights)

    @pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10**12, 0])
    def test_a_header_of_an_impossible_length_is_one_sentence(self, weights, size):
        weights.write_bytes(struct.pack("<Q", size) + weights.read_bytes()[8:])
        with pytest.raises(UserError) as caught:
            ffvit.load(weights)
        one_sentence(caught.value, weights)

    def test_a_file_that_is_none_is_refused(self, tmp_path):
        (tmp_path / "w").symlink_to("/dev/zero")
        with pytest.raises(UserError, match="is no regular file"):
            ffvit.load(tmp_path / "w")


class Evil:
    def __reduce__(self):
        return print, ("run",)


class TestPickles:
    def test_code_is_never_run(self, tmp_path, capsys):
        path = tmp_path / "w.pth"
        for save in (lambda: torch.save({"model": Evil()}, path), lambda: path.write_bytes(pickle.dumps(Evil()))):
            save()
            with pytest.raises(UserError, match=r"not opened: a pickle that asks to run code|damaged") as caught:
                ffvit.load(path)
            one_sentence(caught.value, path)
        assert capsys.readouterr().out == ""

    def test_flipped_and_missing_bytes_are_one_sentence(self, tmp_path, network):
        path = tmp_path / "w.pth"
        torch.save(network.state_dict(), path)
        whole = path.read_bytes()
        refused = 0
        for place in range(0, 4000, 41):
            for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
                path.write_bytes(damaged)
                try:
                    read_weights(path)
                except UserError as error:
                    refused += "\n" not in str(error)
        assert refused > 100

    def test_a_packed_archive_is_not_unpacked(self, tmp_path):
        path = tmp_path / "w.pth"
        torch.save({"x": torch.zeros(2**20)}, tmp_path / "whole.pth")
        with (
            zipfile.ZipFile(tmp_path / "whole.pth") as whole,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in whole.namelist():
                packed.writestr(name, whole.read(name))
        assert path.stat().st_size < 20_000
        with pytest.raises(UserError, match="its archive is compressed"):
            ffvit.load(path)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: torch.zeros(3, 64).to_sparse(),
            lambda: torch.zeros(1).expand(3, 64 * 10**9),
            lambda: torch.zeros(3, 64, dtype=torch.complex64),
            lambda: torch.quantize_per_tensor(torch.zeros(3, 64), 0.1, 0, torch.qint8),
            lambda: torch.zeros(3, 64, device="meta"),
        ],
        ids=["sparse", "expanded", "complex", "quantized", "meta"],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_tensors_that_are_no_weights_are_one_sentence(self, tmp_path, network, make):
        path = tmp_path / "w.pth"
        torch.save(network.state_dict() | {"head.weight": make()}, path)
        with pytest.raises(UserError) as caught:
            ffvit.load(path, Network(architecture=NAMED["ff_micro_patch2_8"]))
        one_sentence(caught.value, path)

    @pytest.mark.parametrize("content", [{}, [], 3, {"model": {}}, {"model": {"x": 1}}, {1: torch.zeros(1)}])
    def test_what_holds_no_weights_is_one_sentence(self, tmp_path, content):
        path = tmp_path / "w.pth"
        torch.save(content, path)
        with pytest.raises(UserError) as caught:
            ffvit.load(path)
        one_sentence(caught.value, path)


class TestNumbers:
    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_predict_with_weights_that_are_no_numbers_is_one_sentence(self, weights, tmp_path, photos, number):
        network = ffvit.load(weights)
        with torch.no_grad():
            next(network.parameters()).fill_(number)
        save_weights(weights, network, ["a", "b", "c"])
        photo = next(photos.rglob("*.jpg"))
        done = commands.here("predict", weights, photo)
        assert done.returncode == 2
        assert "NaN or infinite: its training diverged, or its weights are damaged" in done.stderr
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


CONFIG = Config(network=Network(name="ff_micro_patch2_8"), recipe=recipe.named_recipe("digits"))
SUMMARY = {
    "test": {"top1": {"value": 0.5}, "loss": {"value": 1.0}, "balanced_accuracy": 0.5, "macro_f1": 0.5, "images": 2},
    "weights": "the last weights",
    "images_seen": 3,
    "parameters": 4,
    "seconds": 1.0,
    "validation": {"loss": 1.0},
}
PREDICTIONS = "image,label,predicted,correct,confidence,loss\na.jpg,x,x,True,0.9,0.1\nb.jpg,x,y,False,0.9,0.1\n"


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(tmp_path / "run", CONFIG)
    run.append_metrics({"epoch": 1, "loss": 0.1})
    run.write_summary(SUMMARY)
    run.predictions_file.write_text(PREDICTIONS)
    return run


@pytest.fixture
def job(run) -> Job:
    return Job("arm", 0, None, None, CONFIG, run.path)


class TestRun:
    def test_a_whole_run_is_read(self, job):
        (result,) = read_results([job])
        assert result.correct.tolist() == [True, False]

    @pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
    @pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "predictions.csv"])
    def test_damaged_files_are_one_sentence(self, job, content, name):
        path = job.folder / name
        path.write_bytes(content)
        if (name, content) == ("metrics.jsonl", b""):
            assert read_results([job])[0].metrics == []
            return
        with pytest.raises(UserError, match=r"is damaged|cannot be read") as caught:
            read_results([job])
        one_sentence(caught.value, path)

    @pytest.mark.parametrize("field", [*SUMMARY, "test.top1", "test.images"])
    @pytest.mark.parametrize("value", [[], {"value": "x"}, "1.5x"])
    def test_a_summary_of_other_fields_is_one_sentence(self, job, field, value):
        if (field, value) == ("weights", "1.5x"):
            value = None
        read = Run(job.folder).summary if field == "validation" else lambda: read_results([job])
        changed = json.loads(json.dumps(SUMMARY))
        *outer, last = field.split(".")
        (changed[outer[0]] if outer else changed)[last] = value
        path = job.folder / "summary.json"
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match="is damaged") as caught:
            read()
        one_sentence(caught.value, path)

    @pytest.mark.parametrize("columns", ["image,label\na,b\n", "correct\nTrue\n", PREDICTIONS.replace("True", "maybe")])
    def test_predictions_of_other_columns_are_one_sentence(self, run, columns):
        run.predictions_file.write_text(columns)
        with pytest.raises(UserError, match="is damaged") as caught:
            read_predictions(run.predictions_file)
        one_sentence(caught.value, run.predictions_file)

    @pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.jsonl"])
    def test_the_command_says_it_in_one_sentence(self, run, name):
        (run.path / "checkpoint" / "state.pt").write_bytes(b"x")
        if name != "summary.json":
            run.summary_file.unlink()
        (run.path / name).write_bytes(b"[" * 1000)
        done = commands.here("train", "--out", run.path, "--resume")
        assert done.returncode == 2
        assert done.stderr.startswith(f"ffvit: {run.path}")
        assert "Traceback" not in done.stderr


class TestStudy:
    @pytest.fixture
    def study(self, tmp_path) -> Study:
        plan = Plan.model_validate({"network": "ff_micro_patch2_8", "recipe": "digits", "data": "digits", "seeds": 2})
        return Study.create(tmp_path / "study", plan)

    @pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
    @pytest.mark.parametrize("name", ["costs", "baselines"])
    def test_damaged_figures_are_one_sentence(self, study, content, name):
        path = study.path / f"{name}.json"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged .*delete it") as caught:
            getattr(study, name)()
        one_sentence(caught.value, path)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("costs", {"arms": {"a": {"latency": "x"}}}),
            ("costs", {"arms": []}),
            ("baselines", {"0": {"a": {"top1": None, "images": 1}}}),
            ("baselines", {"0": 3}),
        ],
    )
    def test_figures_of_other_fields_are_one_sentence(self, study, name, content):
        path = study.path / f"{name}.json"
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"is damaged") as caught:
            getattr(study, name)()
        one_sentence(caught.value, path)

    @pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
    def test_a_damaged_ledger_is_read_and_told(self, study, content):
        file = study.path / "ledger.jsonl"
        file.write_bytes(file.read_bytes() + content + b'\n{"event": "plan"}\n{"event": ["plan"]}\n')
        ledger = Ledger(file)
        assert [event["event"] for event in ledger.events()] == ["plan"]
        assert not ledger.intact()
        assert next(ledger.changes()).startswith("The study's ledger was edited or is damaged")
        study.note_plan()
        ledger.note_report({"a": 0.5})
        assert [event["event"] for event in ledger.events()] == ["plan", "report"]

    @pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
    def test_damaged_failures_are_passed_over(self, study, content):
        study.failures_file.write_bytes(b"run,reason\nruns/a,crashed\n" + content)
        assert study.failures()["runs/a"] == "crashed"

    @pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
    @pytest.mark.parametrize("name", ["arms.yaml", "study.yaml"])
    def test_the_command_refuses_a_damaged_study_in_one_sentence(self, study, content, name):
        (study.path / name).write_bytes(content)
        done = commands.here("compare", "--out", study.path, "--resume")
        assert done.returncode == 2
        assert done.stderr.startswith("ffvit: ")
        assert name in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_damaged_plan_of_prepare_is_one_sentence(tmp_path, content, photos):
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepare.json").write_bytes(content)
    done = commands.here("prepare", photos, out)
    assert done.returncode == 2
    assert "prepare.json: is damaged; begin again with --overwrite" in done.stderr


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, content):
    run = Run.create(tmp_path / "run", CONFIG)
    run.checkpoint_file.write_bytes(content)
    done = commands.here("train", "--out", run.path, "--resume")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(f"ffvit: {run.checkpoint_file}: the checkpoint is damaged")
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    quick = recipe.named_recipe("digits").replace(epochs=2, warmup_epochs=1, batch_size=512, exact="never")
    return ffvit.train(out=tmp_path_factory.mktemp("trained") / "run", recipe=quick)


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {}, "is damaged .it does not hold what a checkpoint holds"),
        (lambda _: [1], "is damaged .it does not hold what a checkpoint holds"),
        (lambda content: content | {"progress": {"epoch": "x"}}, "does not fit the run"),
        (lambda content: content | {"progress": []}, "does not fit the run"),
        (lambda content: content | {"network": {"x": torch.zeros(1)}}, "does not fit the run"),
        (lambda content: content | {"optimizer": 3}, "does not fit the run"),
    ],
)
def test_a_checkpoint_that_is_whole_but_of_another_kind_is_one_sentence(trained, tmp_path, change, words):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    run.summary_file.unlink()
    run.previous_checkpoint_file.unlink(missing_ok=True)
    torch.save(change(torch.load(run.checkpoint_file, weights_only=True)), run.checkpoint_file)
    digest = hashlib.sha256(run.checkpoint_file.read_bytes()).hexdigest()
    run.checkpoint_file.write_bytes(run.checkpoint_file.read_bytes() + MARK + digest.encode())
    done = commands.here("train", "--out", run.path, "--resume")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert re.search(rf"ffvit: {run.checkpoint_file}: the checkpoint {words}", last)
    assert "Traceback" not in done.stderr
