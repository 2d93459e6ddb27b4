"""A mixer from outside the package, as docs/custom_mixers.md tells it: the code and the plan there are what is run here."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import commands
import ffvit
from ffvit import Architecture, Branch, Mixer, UserError
from ffvit.config import mixers
from ffvit.models.attention import attention_over_patches
from ffvit.models.backbone import Backbone
from ffvit.profiling.count import count

PAGE = (Path(__file__).parents[2] / "docs/custom_mixers.md").read_text()
MODULE, TRAINING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PLAN,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SIZES = {"width": 12, "depth": 2, "img_size": 8, "patch": 2, "in_chans": 1, "readout": "mean"}


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The page's module where Python finds it, in this process and in those it starts."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage/mixers.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mixers, "MIXERS", dict(mixers.MIXERS))
    yield tmp_path
    for name in ("mypackage.mixers", "mypackage"):
        sys.modules.pop(name, None)


LOAD = """
import sys, ffvit
try: print(type(ffvit.load(sys.argv[1]).blocks[0][0].mixer).__name__)
except ffvit.UserError as error: print(error)
"""


def python(code: str, path: Path, **variables: str) -> str:
    """What a process of its own prints."""
    environment = commands.environment() | variables
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(architecture: Architecture) -> list[str]:
    """The classes of the mixers over patches, block by block."""
    return [type(block[0].mixer).__name__ for block in Backbone(architecture).blocks]


def test_an_import_path_is_enough_here_and_in_a_spawned_process(package):
    architecture = Architecture(**SIZES, block=(Branch("mypackage.mixers:Shift", "patches"),))
    assert Architecture.from_yaml(str(architecture)) == architecture
    assert architecture.replace(block=(Branch("shift", "patches"),)) == architecture  # registered by now
    assert blocks(architecture) == ["Shift"] * 2
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(blocks, (architecture,)) == ["Shift"] * 2


@pytest.mark.slow
def test_the_page_trains_and_evaluates_a_mixer(package, capsys):
    exec(compile(TRAINING, "custom_mixers.md", "exec"), scope := {})
    run = scope["run"]
    assert run.config.network.architecture.block[0].mixer == "mypackage.mixers:Shift"
    assert re.search(r"Proportion\(.*\)|\d", capsys.readouterr().out)
    assert python(LOAD, run.path) == "Shift\n"  # its config.yaml names the mixer, and is the user's own
    said = python(LOAD, run.best_file)
    assert "these weights ask to import 'mypackage.mixers:Shift', which would run its code" in said
    assert "FFVIT_MIXERS=mypackage.mixers" in said
    assert python(LOAD, run.best_file, FFVIT_MIXERS="mypackage.mixers") == "Shift\n"
    assert python("import mypackage.mixers\n" + LOAD, run.best_file) == "Shift\n"


@pytest.mark.slow
def test_the_plan_of_the_page_is_a_study(package):
    plan = yaml.safe_load(PLAN) | {"seeds": 1, "controls": False}
    plan["recipe"]["epochs"] = 1
    (package / "plan.yaml").write_text(yaml.safe_dump(plan))
    done = commands.ffvit("compare", "--study", "plan.yaml", "--out", "study", cwd=package, timeout=550)
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(package / "study/results.csv")
    assert set(results["arm"]) == {"attention", "shift"}
    with safe_open(package / "study/runs/shift/seed-0/best.safetensors", "pt") as file:
        assert "blocks.1.0.mixer.share" in file.keys()  # noqa: SIM118


def test_weights_that_name_an_unknown_module_import_nothing(package):
    (package / "trap.py").write_text("open('sprung', 'w').close()")
    network = ffvit.create_model(Architecture(**SIZES, block=(Branch("linear", "patches"),)))
    ffvit.save_weights(package / "w.safetensors", network, None)
    with safe_open("w.safetensors", "pt") as file:
        metadata = file.metadata()["ffvit"].replace('"linear"', '"trap:Trap"')
    save_file(network.state_dict(), "w.safetensors", {"ffvit": metadata})
    assert json.loads(metadata)["network"]["architecture"]["block"][0]["mixer"] == "trap:Trap"
    (package / "folder").mkdir()
    for file in ("w.safetensors", "folder/best.safetensors", "folder/model.safetensors"):
        path = (package / "w.safetensors").rename(package / file)
        if path.name == "model.safetensors":  # a folder from the Hub is no run folder, whatever lies in it
            (path.parent / "config.yaml").write_text(json.dumps({"network": json.loads(metadata)["network"]}))
        with pytest.raises(UserError, match="these weights ask to import 'trap:Trap', which would run its code"):
            ffvit.load(path if file == "w.safetensors" else path.parent)
        path.rename(package / "w.safetensors")
    assert not (package / "sprung").exists()


def test_what_is_known_of_a_mixer_is_used(package):
    """Settings, norm, class token, attention, initialization and FLOPs, all from its row."""

    def build(args: ffvit.MixerArgs) -> torch.nn.Module:
        assert (args.length, args.width, args.grid, args.hidden, args.heads) == (17, 12, (4, 4), 51, 3)
        return torch.nn.Linear(args.width, args.width)

    def initialize(module: torch.nn.Module) -> None:
        torch.nn.init.eye_(module.weight)

    row = Mixer(
        "dense", build, ("hidden", "heads"), reads="own", mixes_all=True, is_attention=True, hidden_ratio=3.0,
        initialize=initialize,
    )  # fmt: skip
    ffvit.register_mixer(row)
    architecture = Architecture(**SIZES | {"readout": "class_token"}, block=(Branch("dense", "patches", heads=3),))
    assert architecture.block[0].mixer == "dense"  # a function inside another has no import path
    network = ffvit.create_model(architecture, 0)
    assert network.blocks[1][0].norm.weight.shape == (17,)
    assert torch.equal(network.blocks[1][0].mixer.weight, torch.eye(12))
    assert attention_over_patches(network)
    patches = 2 * 16 * 12 * 2 * 2
    assert count(network).flops == patches + 2 * 2 * 17 * 12 * 12


def test_a_mixer_on_the_grid_sees_an_image(package):
    ffvit.register_mixer(Mixer("flip", lambda args: Flip(), axes=("patches",), on_grid=True))
    branch = Backbone(Architecture(**SIZES, block=(Branch("flip", "patches"),))).blocks[0][0]
    x = torch.randn(3, 16, 12)
    assert torch.equal(branch.mixer(x), x.unflatten(1, (4, 4)).flip(1).flatten(1, 2))


class Flip(torch.nn.Module):
    def forward(self, x):
        return x.flip(2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ffvit.register_mixer(Mixer("attention", Flip)), "a built-in mixer is called 'attention'"),
        (lambda: Mixer("flip", Flip, settings=("kernal",)), "settings must be of .*; got 'kernal', did you mean 'kernel'"),
        (lambda: Mixer("flip", Flip, on_grid=True), "features form no grid"),
        (lambda: mixers.find_mixer("mypackage.mixers:Shiftt"), "mixer 'mypackage.mixers:Shiftt' cannot be imported: "),
        (lambda: mixers.find_mixer("mypackage.mixer:Shift"), "cannot be imported: No module named 'mypackage.mixer'"),
        (lambda: mixers.find_mixer("torch.nn:Linear"), "torch.nn:Linear is no mixer: its module must register it"),
        (lambda: mixers.find_mixer("shift"), r"no mixer is called 'shift'.* must be registered in this process"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(package, make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_settings_and_axes_that_it_does_not_have_are_refused(package):
    with pytest.raises(ValueError, match="kernel means nothing to the mixer 'shift', which has no settings"):
        Branch("mypackage.mixers:Shift", "patches", kernel=3)
    with pytest.raises(ValueError, match=r"shift along features means nothing\. Use axis 'patches'"):
        Branch("mypackage.mixers:Shift", "features")
