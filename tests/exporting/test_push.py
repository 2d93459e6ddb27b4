"""ffvit push and hf-hub:, against a Hub on this machine: huggingface_hub's own requests, over its own client."""

from __future__ import annotations

import re

import pytest
import timm
import torch

import commands
import ffvit
from ffvit.config.data import Data
from ffvit.config.recipe import named_recipe
from ffvit.errors import ModelError, OutputError, RunFolderError, UserError
from ffvit.exporting.model_card import OURS, public_config
from ffvit.run_folder import Config, Run, read_config
from hub_server import Hub, hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own
NAME = "user/digits-ff"


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread) -> Run:
    recipe, out = {"base": "digits", "epochs": 1}, tmp_path_factory.mktemp("run") / "digits"
    cpu = ffvit.Hardware(accelerator="cpu", precision="fp32", workers=0)
    return ffvit.train("ff_micro_patch2_8", data="digits", recipe=recipe, hardware=cpu, out=out)


@pytest.fixture
def server(monkeypatch, tmp_path):
    from huggingface_hub import constants

    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # newer versions have it
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def test_a_pushed_run_is_what_it_was(run, server: Hub, tmp_path, monkeypatch):
    server.break_off = 2000
    assert ffvit.push(run.path, NAME, license="mit", private=True) == f"{server.address}/{NAME}"
    assert set(server.repositories[NAME]) == {"README.md", "config.json", "model.safetensors", "train.yaml"}
    assert server.private == {NAME: True}
    own, loaded = ffvit.load(run.path), ffvit.load(f"hf-hub:{NAME}")  # whose first answer breaks off
    assert len(server.ranges) == 2
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(own(images), loaded(images))
    assert (loaded.class_names, loaded.temperature) == (own.class_names, own.temperature)
    assert torch.equal(timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()(images), own(images))
    top1 = run.summary()["test"]["top1"]["value"]
    assert ffvit.evaluate(f"hf-hub:{NAME}@{'c' * 40}", "digits").evaluation.top1.value == top1
    weights = next((tmp_path / "cache").rglob("model.safetensors"))
    weights.resolve().write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="damaged: not of the SHA-256 that the Hub says"):
        ffvit.load(f"hf-hub:{NAME}")


def test_the_card_tells_the_runs_figures(run, tmp_path):
    done = commands.here("push", run.path, NAME, "--out", tmp_path / "hub", "--license", "cc-by-4.0")
    assert done.stdout == f"written to {tmp_path / 'hub'}; nothing was uploaded\n"
    card, test = (tmp_path / "hub" / "README.md").read_text(), run.summary()["test"]
    low, high = (f"{100 * test['top1'][end]:.1f} %" for end in ("low", "high"))
    assert f"| top-1 accuracy | {100 * test['top1']['value']:.1f} % | {low} to {high} |" in card
    assert f"error {100 * test['calibration_error']:.1f} %, of the probabilities as they are" in card
    assert "license: cc-by-4.0" in card
    assert "0.14 million parameters; 0.00565 GFLOPs an image" in card
    assert f"value: {test['top1']['value']:.4f}" in card
    assert "1,797 images of 10 classes from digits: 1,294 for training" in card
    assert "`ff_micro_patch2_8`, which tells 10 classes apart: `0`, `1`, " in card
    assert read_config(tmp_path / "hub" / "train.yaml") == run.config
    again = commands.here("train", "--config", tmp_path / "hub" / "train.yaml", "--data", "digits", "--dry-run")
    assert "name: ff_micro_patch2_8" in again.stdout
    with pytest.raises(OutputError, match="is there, and is no empty folder"):
        ffvit.push(run.path, NAME, out=tmp_path / "hub")
    scored = ffvit.evaluate(tmp_path / "hub", "digits").evaluation
    assert scored.top1.value == test["top1"]["value"]
    assert scored.calibration_error_at_temperature == test["calibration_error_at_temperature"]


def test_no_place_of_this_machine_is_told(tmp_path):
    recipe = named_recipe("small").replace(teacher="/home/me/runs/teacher/best.safetensors")
    data = Data(source="/home/me/secret/flowers", root="/scratch")
    network = {"name": "ff_micro_patch2_8"}
    public = public_config(
        Config(network=network, data=data, recipe=recipe, start_from="s3://me:key@host/a/w.pth?sig=1")
    )
    assert not re.search(r"home|scratch|key|sig|host", public.to_yaml())
    assert (public.data.source, public.start_from, public.recipe.teacher) == ("flowers", "w.pth", "best.safetensors")
    assert public_config(Config(network=network, data=Data(source="torch/cifar10"), recipe=recipe)).data.source == "torch/cifar10"  # fmt: skip


def test_a_card_of_somebody_elses_is_kept_and_our_own_renewed(run, server: Hub):
    server.repositories[NAME] = {"README.md": b"# Mine"}
    server.private[NAME] = False
    ffvit.push(run.path, NAME)
    assert server.repositories[NAME]["README.md"] == b"# Mine"
    assert "config.json" in server.repositories[NAME]
    server.repositories["user/ours"] = {"README.md": OURS.encode() + b"old"}
    server.private["user/ours"] = False
    ffvit.push(run.path, "user/ours")
    assert b"# ours" in server.repositories["user/ours"]["README.md"]


def test_what_cannot_be_pushed_is_said(run, server: Hub, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="repository: must be user/name; got 'flowers'"):
        ffvit.push(run.path, "flowers")
    with pytest.raises(UserError, match="repository: Cannot have -- or"):
        ffvit.push(run.path, "user/flowers--ff")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text(run.config_file.read_text())
    with pytest.raises(RunFolderError, match=r"the run is not finished: finish it first \(ffvit train --resume"):
        ffvit.push(unfinished, NAME)
    server.full = True
    with pytest.raises(OutputError, match=f"{NAME}: the Hub refuses: .*402.*Payment Required"):
        ffvit.push(run.path, NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OutputError, match=r"does not let you write there: log in \(hf auth login\)"):
        ffvit.push(run.path, NAME)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match=r"the Hub cannot be reached .*; --out FOLDER writes the files without it"):
        ffvit.push(run.path, NAME)


def test_what_cannot_be_downloaded_is_said(server: Hub, monkeypatch):
    server.repositories["user/pickle"] = {"pytorch_model.bin": b"", "config.json": b"{}"}
    server.repositories["user/gated"] = {"model.safetensors": b"", "config.json": b"{}"}
    server.private |= {"user/pickle": False, "user/gated": False}
    server.gated.add("user/gated")
    for address, words in {
        "hf-hub:user/pickle": "holds no model.safetensors, and nothing else is downloaded: pickles can run code",
        "hf-hub:user/nothing": r"there is no such repository, or it is private \(log in: hf auth login\)",
        "hf-hub:user/pickle@v2": "the repository has no revision 'v2'",
        "hf-hub:user/gated": "the owner asks you to request access first, on its page on the Hub",
        "hf-hub:a/b/c": "is no repository's name .*; write hf-hub:user/name",
    }.items():
        with pytest.raises(ModelError, match=f"{address}: {words}"):
            ffvit.load(address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ModelError, match=r"without a network, copy the repository's config.json and model.safetensors into"
    ):
        ffvit.load("hf-hub:user/other")
