from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import ffvit
from ffvit import Architecture, Branch
from ffvit.models.backbone import Backbone
from ffvit.profiling.op_profile import part_by_module, profile_ops, seconds_by_part

BATCH = 2


def network() -> Backbone:
    """2 x 3 patches of 5 x 7 px and 2 channels, a class token; width 11, hidden sizes 13 (patches) and 17 (features)."""
    block = (Branch("feedforward", "patches", hidden=13), Branch("feedforward", "features", hidden=17))
    return Backbone(
        Architecture(width=11, depth=3, block=block, img_size=(10, 21), patch=(5, 7), in_chans=2, num_classes=3)
    ).eval()


def images() -> torch.Tensor:
    return torch.rand(BATCH, 2, 10, 21)


def test_parts_by_hand():
    found = profile_ops(network(), images())
    tokens, patches, width, depth = 7, 6, 11, 3
    assert set(found) == {
        "embedding", "feed-forward along patches", "feed-forward along features", "norms", "head", "rest",
    }  # fmt: skip
    assert {name: work.flops for name, work in found.items() if work.flops} == {
        "embedding": BATCH * 2 * patches * width * (5 * 7 * 2),
        "feed-forward along patches": BATCH * 2 * depth * width * 2 * tokens * 13,
        "feed-forward along features": BATCH * 2 * depth * tokens * 2 * width * 17,
        "head": BATCH * 2 * width * 3,
    }
    # Two norms a block and the last one; read and written once, and of each token (or feature) a mean and a deviation.
    along_patches, along_features = BATCH * width, BATCH * tokens
    numbers = BATCH * tokens * width
    patch_norms = depth * (2 * numbers + 2 * tokens + 2 * along_patches)
    feature_norms = (depth + 1) * (2 * numbers + 2 * width + 2 * along_features)
    assert found["norms"].moved == 4 * (patch_norms + feature_norms)
    assert found["norms"].pointwise == 7 * numbers * (2 * depth + 1)
    assert found["rest"].pointwise >= 2 * depth * numbers  # residual sums
    head = found["head"]
    assert head.moved == 4 * (BATCH * width + width * 3 + 3 + BATCH * 3)
    assert head.intensity == head.operations / head.moved


@pytest.mark.parametrize(
    "name", ["ff_micro_patch2_8", "vit_tiny_patch16_224", "mixer_s32_224", "resnet10t", "gmlp_ti16_224"]
)
def test_they_add_up_to_what_torch_counts(name):
    """Of networks of all kinds; nothing is computed on the meta device."""
    with torch.device("meta"):
        net = ffvit.create_model(name).eval()
    takes = net.pretrained_cfg["input_size"]
    batch = torch.empty(BATCH, *takes, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(batch)
    found = profile_ops(net, batch)
    assert sum(work.flops for work in found.values()) == counter.get_total_flops() > 0
    assert all(work.moved >= 0 and work.operations >= 0 for work in found.values())


def test_fused_attention_is_counted_by_its_products():
    net = Backbone(
        Architecture(
            width=6, depth=1, block=(Branch("attention", "patches", heads=2),), img_size=8, patch=4, num_classes=0
        )
    ).eval()
    tokens = 5
    found = profile_ops(net, torch.rand(1, 3, 8, 8))["attention along patches"]
    assert found.flops == 2 * (tokens * 6 * 18 + 2 * tokens * tokens * 6 + tokens * 6 * 6)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vit_tiny_patch16_224", {"attention along patches", "feed-forward along features"}),
        ("mixer_s32_224", {"feed-forward along patches", "feed-forward along features"}),
        ("resmlp_12_224", {"linear along patches", "feed-forward along features"}),
        ("gmlp_ti16_224", {"gating along patches"}),
        ("resnet10t", {"convolutions"}),
        ("twins_svt_small", {"attention along patches", "feed-forward along features", "convolutions"}),
        ("edgenext_xx_small", {"attention along features", "feed-forward along features", "convolutions"}),
        ("fastvit_sa12", {"attention along patches", "feed-forward along features", "convolutions"}),
    ],
)
def test_parts_of_timms_networks(name, parts):
    with torch.device("meta"):
        net = ffvit.create_model(name)
    assert set(part_by_module(net).values()) == {"embedding", "norms", "head", *parts}


def test_weights_are_read_once_a_batch():
    """So a larger batch has more operations a byte."""
    net = network()
    one, four = (profile_ops(net, torch.rand(batch, 2, 10, 21))["feed-forward along features"] for batch in (1, 4))
    assert four.flops == 4 * one.flops
    weights = 4 * 3 * (2 * 11 * 17 + 11 + 17)
    assert four.moved - weights == 4 * (one.moved - weights)
    assert four.intensity > one.intensity


def test_every_part_is_timed_and_no_trace_is_left():
    net = network()
    found = seconds_by_part(net, images())
    assert set(found) == set(profile_ops(net, images()))
    assert min(found.values()) > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
