from __future__ import annotations

import pytest
import timm
import torch

from ffvit.models.convnet import CONVNETS, convnet_by_flops
from ffvit.models.create import create_model
from ffvit.models.description import network_of, preprocess_of
from ffvit.profiling.count import count


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image", [(8, 8), (28, 28), (33, 50)])
@pytest.mark.parametrize("name", ["convnet_w8_s1", "convnet_w8_s2", "convnet_w8_s4"])
def test_takes_images_of_any_size_and_channels(name: str, image: tuple[int, int], channels: int):
    network = create_model(name, num_classes=5, in_chans=channels, img_size=image)
    assert network(torch.rand(2, channels, *image)).shape == (2, 5)
    assert (preprocess_of(network).img_size, preprocess_of(network).in_chans) == (image, channels)
    again = create_model(network_of(network))
    again.load_state_dict(network.state_dict())


def test_keeps_timms_contract():
    network = timm.create_model("convnet_w8_s1", num_classes=4, drop_rate=0.1).eval()
    images = torch.rand(2, 3, 16, 16)
    features = network.forward_features(images)
    assert features.shape == (2, network.num_features, 4, 4)
    assert torch.equal(network.forward_head(features), network(images))
    assert network.get_classifier() is network.head
    network.reset_classifier(0)
    assert torch.equal(network(images), features.mean((2, 3)))
    with pytest.raises(ValueError, match="global_pool"):
        network.reset_classifier(4, "max")


def test_every_parameter_gets_a_gradient():
    network = create_model("convnet_w8_s1", num_classes=5)
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in network.parameters())


def test_a_recipe_with_stochastic_depth_can_be_used():
    assert create_model("convnet_w8_s1", num_classes=5, drop_path=0.1, dropout=0.1) is not None


@pytest.mark.parametrize(
    ("side", "flops"), [(8, 5e6), (28, 2e7), (64, 3e7), (64, 300_000_000), (224, 2.5e9), (224, 3.5e10)]
)
def test_the_nearest_in_flops_is_within_a_quarter(side: int, flops: int | float):
    name = convnet_by_flops(flops, (side, side), 3, 10)
    assert name in CONVNETS
    assert count(create_model(name, num_classes=10, img_size=side)).flops == pytest.approx(flops, rel=0.27)
