from __future__ import annotations

import pytest
import torch

import ffvit
from ffvit import UserError
from ffvit.network.create import create_model, input_of, list_names, network_of


@pytest.mark.parametrize(
    "name", ["resmlp_12_224", "mixer_s16_224", "vit_tiny_patch16_224", "resnet18", "ff_tiny_patch16_224"]
)
def test_a_size_and_classes_of_ones_own_and_built_again_from_what_it_tells(name):
    net = create_model(name, 7, image=(64, 32) if name != "mixer_s16_224" else 64)
    height, width = input_of(net).image
    assert net(torch.randn(2, 3, height, width)).shape == (2, 7)
    again = create_model(network_of(net))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert input_of(again) == input_of(net)
    assert network_of(again).name == name


def test_channels():
    assert input_of(create_model("ff_micro_patch2_8")).mean == (0.5,)
    grey = create_model("test_vit", 3, channels=1)
    assert input_of(grey).channels == len(input_of(grey).mean) == 1
    assert create_model("ff_micro_patch2_8", channels=3)(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    assert len(input_of(create_model("ff_micro_patch2_8", channels=3)).mean) == 3


def test_rates_reach_the_branches():
    ours = create_model("ff_micro_patch2_8", dropout=0.1, drop_path=0.3)
    assert ours.blocks[3][1].mixer.dropout.p == 0.1
    assert ours.blocks[3][1].drop_path.drop_prob == pytest.approx(0.3)
    theirs = create_model("vit_tiny_patch16_224", dropout=0.1, drop_path=0.3)
    assert theirs.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "ff_tinny_patch16_224"}, "no network is called 'ff_tinny_patch16_224', did you mean 'ff_tiny_patch16_224'"),
        ({"model": "ff_tiny_patch16_224", "image": 225}, "the nearest is 224 or 240"),
        ({"model": "ff_small_patch16_224", "pretrained": True}, "no weights were published for ff_small_patch16_224"),
        ({"model": ffvit.NAMED["ff_micro_patch2_8"], "pretrained": True}, "an architecture of your own has no published weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        create_model(**arguments)


def test_a_network_of_nobodys_cannot_be_named():
    with pytest.raises(UserError, match=r"make it with ffvit\.create_model"):
        network_of(torch.nn.Linear(2, 3))


def test_names_are_listed_ours_first():
    names = list_names("*small_patch16_224")
    assert names[0] == "ff_small_patch16_224"
    assert {"deit_small_patch16_224", "vit_small_patch16_224"} <= set(names)
