from __future__ import annotations

import argparse
import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3

import ffvit
from ffvit.models.description import preprocess_of

ffvit.register_with_timm()


def saved_by_timm(folder, network, average=None, **args) -> None:
    """As timm's train.py saves it."""
    optimizer = torch.optim.AdamW(network.parameters())
    args = argparse.Namespace(**({"model": "test_vit", "num_classes": 5, "lr": 1e-3, "aug_splits": 0} | args))
    CheckpointSaver(network, optimizer, args, average, checkpoint_dir=str(folder)).save_checkpoint(3, 81.2)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "ff_micro_patch2_8"])
def test_timms_checkpoints_name_their_network(tmp_path, name):
    channels = 1 if "micro" in name else 3
    network = timm.create_model(name, num_classes=5).eval()
    saved_by_timm(tmp_path, network, model=name, mean=[0.25], std=[0.5], crop_pct=0.6, interpolation="bilinear")
    loaded = ffvit.load(tmp_path / "model_best.pth.tar")
    images = torch.randn(2, channels, *preprocess_of(loaded).img_size)
    assert torch.equal(loaded(images), network(images))
    preprocess = preprocess_of(loaded)
    assert (preprocess.mean, preprocess.std) == ((0.25,) * channels, (0.5,) * channels)
    assert (preprocess.crop_pct, preprocess.interpolation) == (0.6, "bilinear")


def test_sizes_and_channels_come_from_the_arguments(tmp_path):
    network = timm.create_model("test_vit", num_classes=5, img_size=96, in_chans=1)
    saved_by_timm(tmp_path, network, num_classes=None, input_size=[1, 96, 96])
    loaded = ffvit.load(tmp_path / "model_best.pth.tar")
    assert preprocess_of(loaded).shape == (1, 96, 96)
    assert loaded.num_classes == 5


def test_the_moving_average_is_taken_as_by_timm(tmp_path):
    network = timm.create_model("test_vit", num_classes=5)
    average = ModelEmaV3(network)
    torch.nn.init.ones_(average.module.head.bias)
    saved_by_timm(tmp_path, network, average)
    assert (ffvit.load(tmp_path / "model_best.pth.tar").head.bias == 1).all()


def test_a_class_for_a_name_tells_nothing(tmp_path):
    network = timm.create_model("test_vit", num_classes=5)
    torch.save({"arch": "visiontransformer", "state_dict": network.state_dict()}, tmp_path / "w.pth")
    assert ffvit.load(tmp_path / "w.pth", "test_vit").num_classes == 5
    torch.save({"arch": ["list"], "args": {"lr": 1}, "state_dict": network.state_dict()}, tmp_path / "w.pth")
    assert ffvit.load(tmp_path / "w.pth", "test_vit").num_classes == 5


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"mean": "grey", "std": 3}, "args: cannot be read as those of timm's train.py"),
        ({"crop_pct": -1.0}, "args.crop_pct: input should be greater than or equal to 0.05"),
        ({"num_classes": "many"}, r"args\.network\.num_classes: must be a whole number"),
        ({"num_classes": 7, "model": "test_resnet"}, "weights of another network"),
    ],
)
def test_arguments_that_cannot_be_used_are_said(tmp_path, args, sentence):
    saved_by_timm(tmp_path, timm.create_model("test_vit", num_classes=5), **args)
    with pytest.raises(ffvit.UserError, match=sentence):
        ffvit.load(tmp_path / "model_best.pth.tar")


@pytest.mark.parametrize("name", [name for name in ffvit.NAMED if "micro" in name])
@pytest.mark.parametrize("writer", ["torch.save", "DDP", "accelerate safetensors", "accelerate pickle"])
def test_state_dictionaries_of_our_named_networks_tell_what_they_are(tmp_path, name, writer):
    network = ffvit.create_model(name, 7, in_chans=2).eval()
    state = network.state_dict()
    if writer == "accelerate safetensors":  # a folder, as Accelerate.save_model writes it
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    elif writer == "accelerate pickle":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        prefix = "module." if writer == "DDP" else ""
        torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "w.pt")
    loaded = ffvit.load(tmp_path if writer.startswith("accelerate") else tmp_path / "w.pt")
    images = torch.randn(2, 2, 8, 8)
    assert torch.equal(loaded(images), network(images))
    assert loaded.architecture == network.architecture


def test_another_of_our_networks_must_be_named(tmp_path):
    network = ffvit.create_model(ffvit.NAMED["ff_micro_patch2_8"].replace(depth=2))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ffvit.UserError, match="do not tell which network they belong to"):
        ffvit.load(tmp_path / "w.pt")


def test_a_hub_config_without_words_of_ffvits(tmp_path):
    architecture = ffvit.NAMED["ff_micro_patch2_8"].model_dump(mode="json")
    config = {"architecture": "ffvit_backbone", "num_classes": 3, "model_args": {"architecture": architecture}}
    config["pretrained_cfg"] = {"input_size": [1, 8, 8], "label_names": ["a", "b", "c"]}
    network = ffvit.create_model("ff_micro_patch2_8", 3)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = ffvit.load(tmp_path)
    assert loaded.architecture == network.architecture
    assert loaded.class_names == ("a", "b", "c")
