"""Attention maps: those that PyTorch computes with, and what is the same in all of them."""

import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import Attention

from ffvit.insight.attention_maps import MapStatistics, attention_maps, attention_over_patches
from ffvit.models.create import create_model


def test_maps_reproduce_the_modules_output():
    torch.manual_seed(0)
    attention = Attention(12, num_heads=3, qkv_bias=True).eval()
    x = torch.randn(5, 7, 12)
    values = attention.qkv(x).unflatten(2, (3, 3, 4)).permute(2, 0, 3, 1, 4)[2]
    mixed = (attention_maps(attention, x) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.proj(mixed), attention(x))


def test_modules_are_named_in_order_and_those_over_features_left_out():
    assert list(attention_over_patches(create_model("vit_micro_patch2_8"))) == [f"blocks.{i}.0.mixer" for i in range(4)]
    assert list(attention_over_patches(create_model("attention_only_micro_patch2_8"))) == [
        f"blocks.{i}.0.mixer" for i in range(4)
    ]
    assert attention_over_patches(create_model("ff_micro_patch2_8")) == {}
    assert list(attention_over_patches(timm.create_model("vit_tiny_patch16_224"))) == [
        f"blocks.{i}.attn" for i in range(12)
    ]


@given(st.integers(2, 6), st.integers(0, 1000))
def test_share_is_that_of_the_variance_formula_and_does_not_depend_on_batches(images, seed):
    maps = torch.randn(images, 2, 3, 3, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)
    whole, parts = MapStatistics(), MapStatistics()
    whole.add(maps)
    for image in maps:
        parts.add(image[None])
    exact = maps.double()
    variance = exact.var(dim=0, correction=0).sum(dim=(1, 2))
    expected = 1 - variance / exact.square().sum(dim=(2, 3)).mean(dim=0)
    torch.testing.assert_close(whole.static_share, expected)
    torch.testing.assert_close(parts.static_share, whole.static_share)
    torch.testing.assert_close(parts.mean, exact.mean(dim=0))


def test_the_same_map_for_every_image_is_wholly_static():
    statistics = MapStatistics()
    statistics.add(torch.rand(1, 4, 5, 5).softmax(dim=-1).expand(6, 4, 5, 5))
    torch.testing.assert_close(statistics.static_share, torch.ones(4, dtype=torch.float64))
