"""Errors of ours that no other test reaches: each is one sentence that says what was wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from torch import nn

import ffvit
from ffvit.data import parts as splits
from ffvit.data.config import Data
from ffvit.data.images import BadImageError
from ffvit.data.lists import read_list
from ffvit.data.parts import open_images, open_parts
from ffvit.data.prepare.packing import Form
from ffvit.deploy.predict import predict
from ffvit.errors import ConfigError, DataError, ModelError, RunFolderError, UserError
from ffvit.json_file import read_json
from ffvit.machine import Machine
from ffvit.network.create import create_model
from ffvit.recipe import named
from ffvit.run import Run
from ffvit.study.arms import arms_of
from ffvit.study.jobs import runs_of
from ffvit.study.pixels import read_pixels
from ffvit.study.plan import Plan
from ffvit.study.results import Result, paired
from ffvit.training.optimizer import build_optimizer


def test_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"not a run folder: it holds no config\.yaml"):
        Run(tmp_path)
    with pytest.raises(RunFolderError, match="not a run folder: it does not exist"):
        Run(tmp_path / "none")


def test_predicting_on_two_devices(tmp_path: Path):
    with pytest.raises(UserError, match="predicting uses one device: leave out --devices and --nodes"):
        list(predict(nn.Identity(), [tmp_path], machine=Machine(devices=2)))


def test_a_network_that_knows_no_stochastic_depth():
    with pytest.raises(ModelError, match="vgg11 has no drop_path_rate: set it to 0 in the recipe"):
        create_model("vgg11", 2, drop_path=0.1)


def test_an_optimizer_whose_package_is_missing():
    with pytest.raises(ConfigError, match=r"recipe\.optimizer 'fusedadam': "):
        build_optimizer(nn.Linear(2, 2), named("small").replace(optimizer="fusedadam"))


def test_json_that_is_a_folder(tmp_path: Path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_json(tmp_path, "again")


def test_lists_that_are_none(tmp_path: Path):
    (tmp_path / "list.csv").mkdir()
    with pytest.raises(DataError, match="is no regular file"):
        read_list(tmp_path / "list.csv")


def test_images_without_labels_cannot_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(splits, "_openers", lambda *_: {"test": lambda: None})
    with pytest.raises(DataError, match="has no labels to compare answers with"):
        open_images(str(tmp_path), None, None)


def test_an_image_that_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def fails(*_: object) -> bytes:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Form, "_jpeg", fails)
    photo = tmp_path / "photo.jpg"
    PIL.Image.new("RGB", (8, 8)).save(photo)
    with pytest.raises(BadImageError, match=r"cannot be stored \(encoder error -2\)"):
        Form(max_side=4).applied(photo.read_bytes(), photo.name)


def test_images_of_which_none_can_be_read(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(12):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DataError, match=r"none of the .* images could be read"):
        read_pixels(open_parts(Data(source=str(tmp_path))).train, 100, 8, seed=0)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "words"),
    [
        (2000, None, "recipe.batch_size 2000 is more than the 1294 training images"),
        (1, 1, "recipe.batch_size 1 is too small to share"),
    ],
)
def test_a_batch_that_does_not_fit_the_images_or_the_devices(tmp_path, batch_size, micro_batch, words):
    recipe, machine = named("digits").replace(batch_size=batch_size), Machine(micro_batch=micro_batch)
    with pytest.raises(ConfigError, match=words):
        ffvit.train("ff_micro_patch2_8", ffvit.Data(source="digits"), recipe, machine=machine, out=tmp_path / "run")


BODY = {"width": 8, "depth": 1, "image": 8, "patch": 2, "readout": "mean"}
BLOCK = [{"mixer": "feedforward", "axis": "patches"}]


@pytest.mark.parametrize("path", ["block.9", "image.x"])
def test_a_factor_that_leads_nowhere(path: str):
    plan = Plan(
        network=BODY | {"block": BLOCK}, recipe="digits", data="digits", factors={"x": {"a": {path: 1}, "b": {}}}
    )
    with pytest.raises(ConfigError, match="there is no"):
        arms_of(plan)


def test_two_runs_that_predicted_different_images(tmp_path: Path):
    plan = Plan(network=BODY | {"block": BLOCK}, recipe="digits", data="digits", factors={"width": [8, 16]}, seeds=1)
    one, other = (
        Result(job, {}, [], pd.DataFrame({"image": [f"{number}.png"], "correct": np.array([True])}))
        for number, job in enumerate(runs_of(plan, arms_of(plan), tmp_path, (0,), {})[:2])
    )
    with pytest.raises(RunFolderError, match=r"answered different test images .* so they cannot be paired"):
        paired([one], [other])
