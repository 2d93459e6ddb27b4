from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
import timm
import torch

import ffvit
from ffvit.models import registry


@pytest.mark.parametrize("imports", ["import timm, ffvit", "import ffvit, timm"])
def test_timm_knows_our_networks_only_once_they_are_registered(imports):
    code = (
        f"{imports}; from ffvit.models import registry, weights; assert not timm.is_model('ff_micro_patch2_8'); "
        "ffvit.register_with_timm(); ffvit.register_with_timm(); "
        "assert timm.create_model('ff_micro_patch2_8').architecture.width == 64; assert timm.is_model('convnet_w8_s1')"
    )
    subprocess.run([sys.executable, "-W", "error:Overwriting", "-c", code], check=True)


def test_importing_ffvit_imports_nothing_heavy():
    code = "import sys, ffvit; assert not {'torch', 'timm', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_promised_is_there():
    for name in ffvit.__all__:
        assert getattr(ffvit, name) is not None
    assert set(ffvit.__all__) == set(ffvit._HOME)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ffvit.nothing  # noqa: B018


ffvit.register_with_timm()


@pytest.mark.parametrize("name", ffvit.NAMED)
def test_default_cfg_is_complete(name):
    config = timm.get_pretrained_cfg(name)
    assert config.input_size == (ffvit.NAMED[name].in_chans, *ffvit.NAMED[name].img_size)
    assert config.num_classes == ffvit.NAMED[name].num_classes
    assert (config.first_conv, config.classifier) == ("patch_embed.proj", "head")
    assert set(timm.create_model("vit_tiny_patch16_224").default_cfg) - {"hf_hub_id", "custom_load"} <= {
        *timm.create_model(name, img_size=config.input_size[1:]).default_cfg, "architecture", "tag", "url", "file"
    }  # fmt: skip


@pytest.mark.parametrize(("name", "file"), [("ff_tiny_patch16_224", "linear-tiny-checkpoint.pth"), ("ff_base_patch16_224", "linear-base-checkpoint.pth")])  # fmt: skip
def test_pretrained_weights_are_the_released_ones(name, file):
    assert timm.get_pretrained_cfg(name).url == (
        f"https://github.com/lukemelas/do-you-even-need-attention/releases/download/v0.0.1/{file}"
    )


def test_pretrained_loads_a_released_file(monkeypatch, tmp_path):
    """The download itself is timm's and torch's; what comes back is a dictionary as the reference describes it."""
    from timm.models import _builder

    net = ffvit.create_model("ff_tiny_patch16_224")
    theirs = {_released(name): tensor for name, tensor in net.state_dict().items()}
    torch.save({"model": theirs, "epoch": 299, "args": argparse.Namespace(lr=5e-4)}, tmp_path / "file.pth")

    def download(url, **_):
        assert url == registry.RELEASED["ff_tiny_patch16_224"]
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(tmp_path / "file.pth", weights_only=True)

    monkeypatch.setattr(_builder, "load_state_dict_from_url", download)
    again = timm.create_model("ff_tiny_patch16_224", pretrained=True)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    fewer = ffvit.create_model("ff_tiny_patch16_224", num_classes=5, pretrained=True)
    assert fewer.head.weight.shape == (5, 192)
    assert torch.equal(
        fewer.state_dict()["blocks.3.1.mixer.fc1.weight"], net.state_dict()["blocks.3.1.mixer.fc1.weight"]
    )


def _released(name: str) -> str:
    pieces = name.split(".")
    if pieces[0] == "blocks":
        branch = int(pieces[2]) + 1
        layer = f"norm{branch}" if pieces[3] == "norm" else f"mlp{branch}"
        return ".".join(["blocks", pieces[1], layer, *pieces[4:]])
    return {"position.map": "pos_encoding.pos_embed", "position.class_token": "pos_encoding.cls_pos_embed"}.get(
        name, name
    )
