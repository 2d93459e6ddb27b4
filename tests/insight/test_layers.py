"""A network in layers computes what the network computes, and others are refused in a sentence."""

import pytest
import timm
import torch

from ffvit.config.architecture import Branch
from ffvit.config.mixers import MIXERS
from ffvit.errors import ModelError
from ffvit.insight.layers import layers_of
from insight_networks import small


@pytest.mark.parametrize("mixer", [row.name for row in MIXERS.values() if row.is_built_in])
def test_layers_of_every_mixer_compute_what_the_network_computes(mixer):
    network = small(Branch(mixer, "patches"), Branch("feedforward", "features"))
    layered = layers_of(network)
    images = torch.randn(3, 1, 6, 8)
    layered.check(images)
    with torch.no_grad():
        torch.testing.assert_close(layered.readout(layered.after(layered.embed(images))), network(images))
    assert [(layer.block, layer.branch, layer.mixer) for layer in layered.layers[:3]] == [
        (0, 0, mixer), (0, 1, "feedforward"), (1, 0, mixer),
    ]  # fmt: skip
    assert (layered.tokens, layered.depth, layered.center) == (12, 2, 6)


def test_timms_vit_is_taken_apart():
    torch.manual_seed(0)
    network = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, embed_dim=24, num_heads=3, depth=2, num_classes=4, init_values=0.3
    ).eval()
    layered = layers_of(network)
    layered.check(torch.randn(2, 3, 32, 32))
    assert layered.has_class_token
    assert [(layer.mixer, layer.axis) for layer in layered.layers] == 2 * [
        ("attention", "patches"), ("feedforward", "features"),
    ]  # fmt: skip


def test_other_bodies_are_refused_with_those_that_work():
    with pytest.raises(ModelError, match=r"ResNet is not a stack of residual branches.*plain ViT and DeiT"):
        layers_of(timm.create_model("resnet10t", num_classes=3).eval())
    with pytest.raises(ModelError, match="no head"):
        layers_of(small(Branch("feedforward", "patches"), num_classes=0))


def test_a_network_that_computes_something_else_is_refused():
    class Doubled(timm.models.VisionTransformer):
        def forward_features(self, x, **options):
            return super().forward_features(x, **options).square()

    torch.manual_seed(0)
    doubled = Doubled(img_size=8, patch_size=4, embed_dim=8, num_heads=2, depth=1, num_classes=3).eval()
    torch.nn.init.normal_(doubled.head.weight)
    with pytest.raises(ModelError, match="no stack of residual branches"):
        layers_of(doubled).check(torch.randn(2, 3, 8, 8))


def test_logits_that_are_not_finite_are_told():
    network = small(Branch("feedforward", "patches"))
    network.head.bias.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        layers_of(network).check(torch.randn(2, 1, 6, 8))
