"""Attention rollout: products that can be done on paper."""

import pytest
import timm
import torch

import ffvit
from ffvit.config.architecture import FF_ONLY, Branch, transformer
from ffvit.insight.image.attention_rollout import attention_rollout


def built(readout="class_token", block=None):
    torch.manual_seed(0)
    return ffvit.create_model(
        ffvit.Architecture(
            width=12, depth=2, block=block or transformer(3), img_size=(6, 4), patch=2, num_classes=3, readout=readout
        )
    ).eval()


IMAGE = torch.zeros(1, 3, 6, 4)


@pytest.mark.parametrize(("readout", "share"), [("class_token", 3 / 4 / 7), ("mean", 1 / 6)])
def test_uniform_maps_leave_three_quarters_in_equal_parts_after_two_layers(readout, share):
    network = built(readout)
    for block in network.blocks:
        torch.nn.init.zeros_(block[0].mixer.qkv.weight)
    # ((U + I) / 2)^2 = 3/4 U + 1/4 I, where U is 1/7 everywhere; without a class token 1/6.
    assert attention_rollout(network, IMAGE) == pytest.approx([share] * 6)


def test_later_layers_stand_on_the_left(monkeypatch):
    first, second = torch.rand(2, 7, 7, dtype=torch.float64).softmax(dim=-1)
    maps = iter([first, second])
    monkeypatch.setattr(
        "ffvit.insight.image.attention_rollout.attention_maps", lambda module, x: next(maps)[None, None]
    )
    unit = torch.eye(7, dtype=torch.float64)
    expected = (second + unit) @ (first + unit) / 4
    assert attention_rollout(built(), IMAGE) == pytest.approx(expected[0, 1:].numpy())


@pytest.mark.parametrize("block", [FF_ONLY, (*transformer(3), Branch("feedforward", "patches"))])
def test_networks_that_mix_patches_otherwise_have_none(block):
    assert attention_rollout(built(block=block), IMAGE) is None


def test_a_network_that_mixes_otherwise_in_one_block_has_none():
    network = built()
    static = (Branch("static_attention", "patches"), network.architecture.block[1])
    converted = ffvit.create_model(network.architecture.with_blocks([network.architecture.block, static])).eval()
    assert attention_rollout(network, IMAGE) is not None
    assert attention_rollout(converted, IMAGE) is None


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_timms_networks_have_one_if_their_readout_is_known(pool):
    network = timm.create_model("test_vit", num_classes=3, global_pool=pool, class_token=False).eval()
    weights = attention_rollout(network, torch.zeros(1, 3, 160, 160))
    assert (weights is None) == (pool == "map")
    if weights is not None:
        assert weights.shape == (100,)
        assert weights.sum() == pytest.approx(1)
