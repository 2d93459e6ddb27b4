"""Attributions: what is known of them, and that they add up."""

import numpy as np
import pytest
import timm
import torch
from captum.attr import FeatureAblation
from torch import nn

from explained import PATCH, PREPROCESS, ReadsOnePatch, bright, linear, noise
from ffvit.config.preprocess import Preprocess
from ffvit.errors import MissingPackageError, ModelError
from ffvit.insight.image.attribution import attributions, gradient_times_input, integrated_gradients, occlusion
from ffvit.insight.image.patches import PatchedImage
from untrained import network as untrained

SMALL = Preprocess(img_size=(16, 16), in_chans=3)


def test_of_a_linear_network_every_method_gives_weight_times_distance_from_the_mean_colour():
    network = linear()
    image = PatchedImage(network, PREPROCESS, noise(1))
    known = (network[1].weight[2].unflatten(0, (3, 8, 12)) * image.normalized[0]).detach().double().sum(dim=0).numpy()
    found = attributions(image, 2, steps=3)
    assert [attribution.method for attribution in found] == ["integrated gradients", "gradient x input", "occlusion"]
    for attribution in found:
        np.testing.assert_allclose(attribution.patches, image.summed(known), atol=1e-5)
        np.testing.assert_allclose(image.summed(attribution.pixels), attribution.patches, atol=1e-12)
    for attribution in found[:2]:
        np.testing.assert_allclose(attribution.pixels, known, atol=1e-5)
    assert found[0].error == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("class_index", [0, 7])
def test_integrated_gradients_sum_to_the_difference_of_the_logits(class_index):
    image = PatchedImage(untrained(3).eval(), SMALL, noise(2, SMALL))
    levels = np.concatenate((np.zeros((1, 16), dtype=bool), np.ones((1, 16), dtype=bool)))
    whole, nothing = image.logits(levels)[:, class_index]
    attribution = integrated_gradients(image, class_index, steps=64)
    assert abs(whole - nothing) > 0.1
    assert attribution.patches.sum() == pytest.approx(whole - nothing, rel=1e-3)
    assert attribution.error == pytest.approx(attribution.patches.sum() - (whole - nothing), abs=1e-9)
    # What a single gradient adds up to is something else, so the sum is no matter of course.
    assert gradient_times_input(image, class_index).patches.sum() != pytest.approx(whole - nothing, rel=0.05)


def test_occlusion_is_captums():
    network = untrained(5).eval()
    image = PatchedImage(network, SMALL, noise(3, SMALL))
    mask = torch.from_numpy(image.numbers)[None, None]
    with torch.no_grad():
        captums = FeatureAblation(network).attribute(image.normalized, 0.0, target=4, feature_mask=mask)
    own = occlusion(image, 4)
    np.testing.assert_allclose(own.patches[image.numbers // 4, image.numbers % 4], captums[0, 0], atol=1e-5)


def test_only_the_patch_that_is_read_has_a_share():
    image = PatchedImage(ReadsOnePatch(), PREPROCESS, bright(0))
    for attribution in attributions(image, 1):
        others = attribution.patches.copy()
        others[PATCH] = 0
        assert attribution.patches[PATCH] > 0.1
        assert not others.any(), attribution.method
        assert attribution.order[0] == 4 * PATCH[0] + PATCH[1]


def test_rollout_is_there_for_networks_with_attention_over_patches():
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=5).eval()
    preprocess = Preprocess(img_size=(160, 160))
    *_, rollout = attributions(PatchedImage(network, preprocess, noise(0, preprocess)), 0, steps=2)
    assert rollout.method == "attention rollout"
    assert rollout.patches.shape == (5, 5)
    assert (rollout.patches > 0).all()
    assert rollout.patches.sum() < 1  # the class token keeps a part


def test_gradients_that_are_not_finite_are_an_error_though_logits_are():
    class Root(nn.Module):
        def forward(self, images):
            return images.abs().sqrt().sum(dim=(1, 2, 3))[:, None]

    preprocess = PREPROCESS.replace(mean=(0.0, 0.0, 0.0))
    image = PatchedImage(Root(), preprocess, np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(ModelError, match="gradients are NaN or infinite"):
        gradient_times_input(image, 0)


def test_without_captum_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("ffvit.inference.exported.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"explaining an image needs captum: pip install 'ffvit\[insight\]'"):
        integrated_gradients(PatchedImage(linear(), PREPROCESS, noise(0)), 0)
