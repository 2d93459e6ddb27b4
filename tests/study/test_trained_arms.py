"""Arms that start from trained weights: converted and resized networks in a study."""

from __future__ import annotations

import pytest
import torch

import ffvit
from commands import here
from ffvit.config.architecture import Architecture, Branch, transformer
from ffvit.errors import UserError
from ffvit.run_folder import Run
from ffvit.study.arms import make_arms
from ffvit.study.matching import match_arms
from ffvit.study.plan import Plan

SMALL = {"width": 16, "depth": 2, "img_size": 16, "patch": 8, "readout": "mean", "num_classes": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A ViT, and the same with a linear layer in one block."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    vit = ffvit.create_model(Architecture(**SMALL, block=transformer(heads=2)))
    block = (Branch("linear", "patches", norm="features"), Branch("feedforward", "features"))
    other = ffvit.create_model(vit.architecture.with_blocks([vit.architecture.block, block]))
    for name, network in (("vit", vit), ("less", other)):
        ffvit.save_weights(folder / f"{name}.safetensors", network, ["class_0", "class_1", "class_2", "class_3"])
    return folder


def plan(weights, photos, **fields) -> Plan:
    levels = {name: {"start_from": str(weights / f"{name}.safetensors")} for name in ("vit", "less")}
    given = {
        "network": "ff_tiny_patch16_224", "data": str(photos), "recipe": {"base": "small", "epochs": 1, "batch_size": 16},
        "factors": {"network": levels}, "seeds": 1, "search": None, "controls": False,
    }  # fmt: skip
    return Plan(**given | fields)


def test_an_arm_has_the_network_of_its_weights_also_at_another_size(weights, photos):
    vit, less = make_arms(plan(weights, photos))
    assert vit.start_from == str(weights / "vit.safetensors")
    assert [block[0].mixer for block in less.network.architecture.blocks] == ["attention", "linear"]
    larger = plan(weights, photos, network={"name": "ff_tiny_patch16_224", "img_size": (32, 32)})
    assert make_arms(larger)[1].network.architecture.img_size == (32, 32)


def test_what_would_not_be_those_weights_is_refused(weights, photos, tmp_path):
    with pytest.raises(UserError, match="change nothing in it"):
        make_arms(plan(weights, photos, factors={"n": {"a": {"start_from": "x", "network.depth": 3}}}))
    given = plan(weights, photos, match="parameters")
    arms = make_arms(given)
    with pytest.raises(UserError, match="match epochs, flops or time"):
        match_arms(given, arms, 4)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pth")
    with pytest.raises(UserError, match="does not say which network"):
        make_arms(plan(weights, photos, factors={"n": {"a": {"start_from": str(tmp_path / "plain.pth")}}}))


@pytest.mark.slow
def test_a_study_trains_them_on_and_refuses_images_they_may_have_been_trained_on(weights, photos, tmp_path):
    files = weights / "vit.safetensors", weights / "less.safetensors"
    options = [
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--seeds",
        "1",
        "--no-search",
        "--workers",
        "0",
        "--precision",
        "fp32",
    ]
    drawn = here("compare", *files, "--data", photos / "train", "--out", tmp_path / "drawn", *options)
    assert (drawn.returncode, "may have been trained on them" in drawn.stderr) == (2, True)
    done = here("compare", *files, "--data", photos, "--out", tmp_path / "study", *options)
    assert done.returncode == 0, done.stderr
    runs = [Run(path.parent) for path in sorted((tmp_path / "study" / "runs").rglob("config.yaml"))]
    assert sorted(str(run.config.start_from) for run in runs) == sorted(map(str, files))  # and no controls
    assert "in block 1: linear over patches" in (tmp_path / "study" / "report.md").read_text()
