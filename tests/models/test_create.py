from __future__ import annotations

import pytest
import timm
import timm.data
import torch

import ffvit
from ffvit import UserError
from ffvit.config.preprocess import Preprocess
from ffvit.models import weights
from ffvit.models.create import create_model, list_models
from ffvit.models.description import network_of, preprocess_of, set_preprocess
from ffvit.models.weights import save_weights

ffvit.register_with_timm()


@pytest.mark.parametrize(
    "name", ["resmlp_12_224", "mixer_s16_224", "vit_tiny_patch16_224", "resnet18", "ff_tiny_patch16_224"]
)
def test_a_size_and_classes_of_ones_own_and_built_again_from_what_it_tells(name):
    net = create_model(name, 7, img_size=(64, 32) if name != "mixer_s16_224" else 64)
    height, width = preprocess_of(net).img_size
    assert net(torch.randn(2, 3, height, width)).shape == (2, 7)
    again = create_model(network_of(net))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert preprocess_of(again) == preprocess_of(net)
    assert network_of(again).name == name


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize(
    "name", [*ffvit.NAMED, "vit_tiny_patch16_224", "deit_tiny_patch16_224", "resnet18", "convnet_w8_s2"]
)
def test_images_are_prepared_alike_after_saving_and_loading(name, channels, tmp_path, monkeypatch):
    with torch.device("meta"):  # the large ones are only described
        net = create_model(name, in_chans=channels)
        before = preprocess_of(net)
        save_weights(tmp_path / "w.safetensors", net, None, state={})
        monkeypatch.setattr(weights, "fit", lambda *_: None)
        assert preprocess_of(ffvit.load(tmp_path / "w.safetensors")) == before
        assert preprocess_of(create_model(network_of(net))) == before
        assert preprocess_of(timm.create_model(name, **{"in_chans": channels} if channels else {})) == before
    own = timm.get_pretrained_cfg(name)
    wanted = channels or own.input_size[0]
    assert before.in_chans == wanted
    assert before.mean == (own.mean if wanted == len(own.mean) else (sum(own.mean) / len(own.mean),) * wanted)
    assert net.pretrained_cfg["mean"] == before.mean
    assert net.pretrained_cfg["input_size"] == (wanted, *before.img_size)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_is_set_is_saved_with_the_weights(tmp_path, channels):
    net = create_model("ff_micro_patch2_8", in_chans=channels)
    chosen = Preprocess(
        img_size=(8, 8), in_chans=channels, crop_pct=0.7, interpolation="bilinear", mean=(0.1,) * channels,
        std=(0.2,) * channels, pixel_backend="fast",
    )  # fmt: skip
    set_preprocess(net, chosen)
    save_weights(tmp_path / "w.safetensors", net, None)
    loaded = ffvit.load(tmp_path / "w.safetensors")
    assert preprocess_of(loaded) == chosen
    assert timm.data.resolve_model_data_config(loaded)["mean"] == (0.1,) * channels


def test_a_network_that_does_not_say_what_images_it_takes():
    with pytest.raises(UserError, match=r"does not say what images it takes: make it with ffvit\.create_model"):
        preprocess_of(torch.nn.Linear(1, 1))


def test_channels():
    assert preprocess_of(create_model("ff_micro_patch2_8")).mean == (0.5,)
    grey = create_model("test_vit", 3, in_chans=1)
    assert preprocess_of(grey).in_chans == len(preprocess_of(grey).mean) == 1
    assert create_model("ff_micro_patch2_8", in_chans=3)(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    assert len(preprocess_of(create_model("ff_micro_patch2_8", in_chans=3)).mean) == 3


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
        ({"model": "ff_tiny_patch16_224", "img_size": 225}, "the nearest is 224 or 240"),
        ({"model": "ff_small_patch16_224", "pretrained": True}, "no weights were published for ff_small_patch16_224"),
        ({"model": ffvit.NAMED["ff_micro_patch2_8"], "pretrained": True}, "an architecture of your own has no published weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        create_model(**arguments)


@pytest.mark.parametrize("name", ["ff_micro_patch2_8", "test_vit", "convnet_w8_s1"])
def test_num_classes_0_means_no_head_also_for_a_network_that_is_given(name):
    network = network_of(create_model(name, 7))
    for headless in (create_model(network, 0), create_model(network_of(create_model(name, 0)))):
        assert headless.num_classes == 0
        assert isinstance(headless.get_classifier(), torch.nn.Identity)


def test_a_network_of_nobodys_cannot_be_named():
    with pytest.raises(UserError, match=r"make it with ffvit\.create_model"):
        network_of(torch.nn.Linear(2, 3))


def test_names_are_listed_ours_first():
    names = list_models("*small_patch16_224")
    assert names[0] == "ff_small_patch16_224"
    assert {"deit_small_patch16_224", "vit_small_patch16_224"} <= set(names)


def test_a_network_whose_parts_are_called_network_can_be_built():
    """VOLO keeps its stages in `network`, which the note of what it was built from must leave alone."""
    with torch.device("meta"):
        volo = create_model("volo_d1_224", 10)
    assert isinstance(volo.network, torch.nn.ModuleList)
    assert network_of(volo).name == "volo_d1_224"
