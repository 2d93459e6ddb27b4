"""Folders in the Hub's format, as timm, transformers and ffvit open them."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec

import pytest
import timm
import torch
from safetensors import safe_open
from timm.models._hub import save_for_hf

import ffvit
from ffvit import Architecture, Branch
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.errors import OutputError
from ffvit.models.description import preprocess_of, set_preprocess
from ffvit.models.hub import write_hub_folder

ffvit.register_with_timm()
NAMES = ["ant", "bee", "cat", "dog", "[eel]"]
CELL = Architecture(
    width=8, depth=1, block=(*FF_ONLY, Branch("pooling", "patches")), img_size=(4, 6), patch=2, num_classes=5,
    in_chans=1, position="sincos", init="pytorch",
)  # fmt: skip
VIT = CELL.replace(block=transformer(heads=2), position="vectors")


def made(kind: str) -> torch.nn.Module:
    if kind == "resized":
        network = ffvit.create_model("ff_micro_patch2_8", 5)
        network.set_input_size(16)
    elif kind in ("cell", "vit"):
        network = ffvit.create_model({"cell": CELL, "vit": VIT}[kind])
    else:
        network = ffvit.create_model(kind, 5, in_chans=1, img_size=16)
    set_preprocess(network, preprocess_of(network).replace(crop_pct=0.7, std=(0.3,)))
    return network.eval()


KINDS = ["ff_micro_patch2_8", "cell", "vit", "resized", "convnet_w8_s1", "test_vit", "test_resnet"]


@pytest.fixture(params=KINDS)
def network(request) -> torch.nn.Module:
    return made(request.param)


def check(folder, network, caplog) -> torch.nn.Module:
    """timm and ffvit open it, with the same logits."""
    images = torch.randn(2, *preprocess_of(network).shape, generator=torch.Generator().manual_seed(5))
    expected = network(images)
    with caplog.at_level(logging.WARNING):
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert not caplog.records
    assert torch.equal(theirs(images), expected)
    assert timm.data.resolve_data_config(model=theirs)["crop_pct"] == 0.7
    ours = ffvit.load(folder)
    assert torch.equal(ours(images), expected)
    assert ours.class_names == tuple(NAMES)
    assert preprocess_of(ours) == preprocess_of(network)
    return ours


def test_timm_and_ffvit_open_what_ffvit_writes(network, tmp_path, caplog):
    write_hub_folder(network, tmp_path / "hub", NAMES, 1.5)
    assert check(tmp_path / "hub", network, caplog).temperature == 1.5
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (config["label_names"], config["num_classes"]) == (NAMES, 5)
    assert config["pretrained_cfg"]["crop_pct"] == 0.7
    assert "num_classes" not in config["model_args"]  # transformers would give it a second time
    with safe_open(tmp_path / "hub" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_transformers_opens_it_with_the_same_logits(network, tmp_path):
    from transformers import AutoModelForImageClassification  # late: it imports for a second

    write_hub_folder(network, tmp_path / "hub", NAMES)
    images = torch.randn(2, *preprocess_of(network).shape)
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "hub")
    with torch.inference_mode():
        # Where weights lie in memory decides how convolutions round.
        torch.testing.assert_close(theirs(images).logits, network(images), rtol=1e-5, atol=1e-6)
    assert theirs.config.id2label == dict(enumerate(NAMES))


@pytest.mark.skipif(
    find_spec("timm.models._input") is None, reason="an older timm does not note how a network was built"
)
def test_timm_writes_what_ffvit_loaded(network, tmp_path, caplog):
    ffvit.save_weights(str(tmp_path / "w.safetensors"), network, NAMES)
    save_for_hf(ffvit.load(tmp_path / "w.safetensors"), str(tmp_path / "hub"), safe_serialization=True)
    check(tmp_path / "hub", network, caplog)


def test_a_new_head_is_described(tmp_path):
    network = made("cell")
    network.reset_classifier(3)
    write_hub_folder(network, tmp_path / "hub", None)
    assert timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).head.bias.shape == (3,)
    assert ffvit.load(tmp_path / "hub").head.bias.shape == (3,)


@pytest.mark.parametrize("kind", ["vit", "test_vit"])
def test_a_vit_is_written_as_timms_own_class(kind, tmp_path):
    write_hub_folder(made(kind), tmp_path / "hub", NAMES)
    assert type(timm.create_model(f"local-dir:{tmp_path / 'hub'}")).__name__ == "VisionTransformer"


def test_nothing_is_replaced(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(OutputError, match="is there, and is no empty folder"):
        write_hub_folder(made("cell"), tmp_path, NAMES)
    with pytest.raises(OutputError, match="is there, and is no empty folder"):
        write_hub_folder(made("cell"), tmp_path / "mine", NAMES)


def test_a_network_that_pools_otherwise_is_timms_alone(tmp_path):
    network = made("cell")
    network.reset_classifier(5, "avg")
    write_hub_folder(network, tmp_path / "hub", NAMES)
    images = torch.randn(2, 1, 4, 6)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert torch.equal(theirs(images), network(images))
    with pytest.raises(ffvit.UserError, match="its network pools by 'avg', and ffvit builds it with 'token'"):
        ffvit.load(tmp_path / "hub")


def test_an_architecture_names_no_code_to_import(tmp_path):
    write_hub_folder(made("cell"), tmp_path / "hub", NAMES)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    config["model_args"]["architecture"]["block"][0]["mixer"] = config["ffvit"]["network"]["architecture"]["block"][0][
        "mixer"
    ] = "somewhere.evil:Mixer"
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    for opened in (lambda: timm.create_model(f"local-dir:{tmp_path / 'hub'}"), lambda: ffvit.load(tmp_path / "hub")):
        with pytest.raises(ffvit.UserError, match=r"ask to import .somewhere\.evil:Mixer., which would run its code"):
            opened()
    with pytest.raises(ffvit.UserError, match="ffvit_backbone needs an architecture"):
        timm.create_model("ffvit_backbone")
    assert "ffvit_backbone" not in ffvit.list_models("*ff*")
