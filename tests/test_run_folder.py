from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

import ffvit
from ffvit.config import recipe as recipes
from ffvit.config.architecture import FF_ONLY, Network
from ffvit.config.hardware import Hardware
from ffvit.hardware.launch import _launched, start_fabric
from ffvit.hardware.precision import resolve_precision
from ffvit.run_folder import Config, Run, free_folder, read_config

SMALL = ffvit.Architecture(width=12, depth=2, block=FF_ONLY, img_size=(24, 16), patch=(4, 8), num_classes=3)
PLAIN = Config(network=Network(name="ff_micro_patch2_8"), recipe=recipes.RECIPES["digits"])
CONFIGS = {
    "plain": PLAIN,
    "deit": PLAIN.replace(recipe=recipes.RECIPES["deit"]),
    "everything": Config(
        network=Network(architecture=SMALL),
        data=ffvit.Data(source="a: folder #1/", root=Path("/some/where"), validation=0.0, test=0.3, split_seed=7),
        recipe=recipes.RECIPES["small"].replace(
            minutes=0.1, epsilon=1e-30, ema_decay=None, clip_grad_norm=None, teacher="1e5", betas=(0.5, 0.75)
        ),
        hardware=Hardware(accelerator="cpu", devices=2, strategy="fsdp", precision="fp32", workers=0, micro_batch=3),
        seed=12345678901234567890,
        start_from="null",
    ),
}


class TestConfig:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_is_read_back_equal(self, tmp_path, name):
        run = Run.create(tmp_path / "run", CONFIGS[name])
        assert run.config == Run(run.path).config == CONFIGS[name]
        assert read_config(run.config_file).to_yaml() == CONFIGS[name].to_yaml()

    def test_says_what_made_it(self, tmp_path):
        run = Run.create(tmp_path / "run", PLAIN)
        made = yaml.safe_load(run.config_file.read_text())["environment"]
        assert torch.__version__.startswith(made["torch"])
        assert made["ffvit"] == ffvit.__version__
        assert {"command", "started", "python", "commit", "system", "processor", "devices"} <= set(made)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("network: {name: [}", "config.yaml, line 1: not YAML: "),
            ("", "config.yaml: must be fields and their values; got None"),
            ("a word", "config.yaml: must be fields and their values; got 'a word'"),
            ("recipe: {}", "config.yaml.network: is needed"),
            (
                "network: {name: ff_micro_patch2_8}\nrecipe: {}\nsed: 1",
                "config.yaml.sed: there is no such field, did you mean 'seed'?",
            ),
            (
                "network: {name: ff_micro_patch2_8}\nrecipe: {epoch: 3}",
                "config.yaml.recipe.epoch: there is no such field, did you mean 'epochs'?",
            ),
            (
                "network: {name: ff_micro_patch2_8}\nrecipe: {}\nseed: -1",
                "config.yaml.seed: input should be greater than or equal to 0; got -1",
            ),
            (
                "network: {name: ff_micro_patch2_8}\nrecipe: {loss: bcee}",
                "config.yaml.recipe.loss: must be 'soft_target' or 'bce'; got 'bcee', did you mean 'bce'?",
            ),
        ],
    )
    def test_a_fault_is_told_with_its_place(self, tmp_path, text, sentence):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ffvit.UserError) as caught:
            read_config(tmp_path / "config.yaml")
        pattern = sentence if ".*" in sentence else re.escape(sentence)
        assert re.search(f"^{re.escape(str(tmp_path))}/{pattern}", str(caught.value), re.DOTALL)

    def test_every_fault_is_told_at_once(self, tmp_path):
        (tmp_path / "config.yaml").write_text("network: {name: ff_micro_patch2_8}\nrecipe: {epochs: 0}\nseed: x")
        with pytest.raises(ffvit.UserError) as caught:
            read_config(tmp_path / "config.yaml")
        assert [line.split(": ")[0].rsplit("config.yaml.")[1] for line in str(caught.value).splitlines()] == [
            "recipe.epochs",
            "seed",
        ]

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path):
        with pytest.raises(ffvit.UserError, match=r"nowhere.yaml: cannot be read: .*No such file"):
            read_config(tmp_path / "nowhere.yaml")
        (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
        with pytest.raises(ffvit.UserError, match=r"binary.yaml: cannot be read: it is not UTF-8 text"):
            read_config(tmp_path / "binary.yaml")


class TestFolder:
    def test_is_one_that_holds_a_configuration(self, tmp_path):
        with pytest.raises(ffvit.UserError, match="run: not a run folder: it does not exist"):
            Run(tmp_path / "run")
        (tmp_path / "run").mkdir()
        with pytest.raises(ffvit.UserError, match=r"run: not a run folder: it holds no config.yaml"):
            Run(tmp_path / "run")

    def test_a_free_one_is_numbered(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for expected in ("runs/net", "runs/net-2", "runs/net-3"):
            assert free_folder("net") == Path(expected)
            Path(expected).mkdir(parents=True)
        Path("runs/net-2").rmdir()
        assert free_folder("net") == Path("runs/net-2")
        assert free_folder("other") == Path("runs/other")

    def test_an_empty_one_may_be_used(self, tmp_path):
        assert Run.create(tmp_path, PLAIN).config == PLAIN

    def test_an_old_run_is_replaced_only_when_asked(self, tmp_path):
        run = Run.create(tmp_path / "run", PLAIN)
        run.write_summary({"old": True})
        with pytest.raises(ffvit.UserError, match=r"run exists: resume it \(--resume\)"):
            Run.create(run.path, PLAIN)
        assert run.summary() == {"old": True}
        assert Run.create(run.path, PLAIN, overwrite=True).summary() is None

    def test_what_is_no_run_is_never_deleted(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "photo.jpg").touch()
        (tmp_path / "file").touch()
        for name in ("mine", "file"):
            with pytest.raises(ffvit.UserError, match=f"{name} exists and is no run folder"):
                Run.create(tmp_path / name, PLAIN, overwrite=True)
        assert (tmp_path / "mine" / "photo.jpg").exists()
        assert (tmp_path / "file").exists()

    def test_one_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ffvit.UserError, match=r"file/run: cannot be made: .*/file is no folder"):
            Run.create(tmp_path / "file" / "run", PLAIN)


class TestMetrics:
    @pytest.fixture
    def run(self, tmp_path) -> Run:
        return Run.create(tmp_path / "run", PLAIN)

    def test_are_read_as_they_were_added(self, run):
        rows = [{"epoch": epoch, "loss": 0.1 * epoch} for epoch in (1, 2, 3)]
        assert run.metrics() == []
        for row in rows:
            run.append_metrics(row)
        assert run.metrics() == rows

    @pytest.mark.parametrize(("after", "left"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
    def test_of_later_epochs_are_forgotten(self, run, after, left):
        for epoch in (1, 2, 3):
            run.append_metrics({"epoch": epoch})
        run.truncate_metrics(after)
        run.append_metrics({"epoch": 10})
        assert [row["epoch"] for row in run.metrics()] == [*left, 10]

    def test_none_are_forgotten_where_none_are(self, run):
        run.truncate_metrics(3)
        assert run.metrics() == []

    def test_a_summary_says_that_the_run_is_finished(self, run):
        assert run.summary() is None
        run.write_summary({"top1": 0.5})
        assert run.summary() == {"top1": 0.5}


class TestMachine:
    @pytest.fixture(autouse=True)
    def _no_launcher(self, monkeypatch):
        for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_NNODES"):
            monkeypatch.delenv(name, raising=False)

    def test_without_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(ffvit.UserError, match=r"^--device cuda: PyTorch sees no CUDA device"):
            start_fabric(Hardware(accelerator="cuda"))

    @pytest.mark.parametrize(("there", "said"), [(1, "has 1 CUDA device$"), (2, "has 2 CUDA devices$")])
    def test_with_too_few_devices(self, monkeypatch, there, said):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
        with pytest.raises(ffvit.UserError, match=f"^--devices 3: this machine {said}"):
            start_fabric(Hardware(accelerator="cuda", devices=3))

    @pytest.mark.skipif(torch.backends.mps.is_available(), reason="has what must be missing")
    def test_without_another_kind_of_device(self):
        with pytest.raises(ffvit.UserError, match=r"^this machine cannot be used so: .*MPS"):
            start_fabric(Hardware(accelerator="mps"))

    def test_one_processor(self):
        fabric = start_fabric(Hardware(accelerator="cpu", precision="fp32"))
        assert (fabric.world_size, fabric.device.type) == (1, "cpu")
        assert fabric.strategy.precision.precision == "32-true"

    def test_of_its_own_are_what_was_asked_for(self):
        assert _launched(Hardware(devices=3, nodes=2)) == (3, 2)

    def test_under_torchrun_are_the_launchers(self, monkeypatch):
        for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "12"}.items():
            monkeypatch.setenv(name, value)
        assert _launched(Hardware()) == (4, 3)

    def test_under_slurm_are_the_launchers(self, monkeypatch):
        for name, value in {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "mine"}.items():
            monkeypatch.setenv(name, value)
        assert _launched(Hardware()) == (4, 2)
        monkeypatch.delenv("SLURM_NNODES")
        assert _launched(Hardware()) == (8, 1)

    @pytest.mark.parametrize("shell", ["bash", "interactive"])
    def test_in_a_shell_of_slurms_are_what_was_asked_for(self, monkeypatch, shell):
        monkeypatch.setenv("SLURM_NTASKS", "8")
        monkeypatch.setenv("SLURM_JOB_NAME", shell)
        assert _launched(Hardware(devices=2)) == (2, 1)

    @pytest.mark.parametrize(
        ("asked", "kind", "bf16", "got"),
        [
            ("auto", "cpu", False, "fp32"),
            ("auto", "cpu", True, "bf16"),
            ("auto", "mps", False, "fp32"),
            ("auto", "cuda", True, "bf16"),
            ("auto", "cuda", False, "fp16"),
            ("fp32", "cuda", True, "fp32"),
        ],
    )
    def test_precision_by_what_the_device_has(self, monkeypatch, asked, kind, bf16, got):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr("ffvit.hardware.precision.has_bf16_matmul", lambda: bf16)
        assert resolve_precision(Hardware(precision=asked, accelerator=kind)) == got
