"""Logit lens, branches removed and sizes of updates, against computing them by hand."""

import numpy as np
import pytest
import torch

from ffvit.config.architecture import Branch
from ffvit.config.preprocess import Preprocess
from ffvit.insight.layers import layers_of
from ffvit.insight.observation import PreparedImages, correct_without, observe
from ffvit.models.mixers import FeedForward
from insight_networks import small

PREPROCESS = Preprocess(img_size=(6, 8), in_chans=1, mean=(0.4,), std=(0.2,))


@pytest.fixture
def images() -> PreparedImages:
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (70, 1, 6, 8), generator=generator, dtype=torch.uint8)
    return PreparedImages(levels, torch.randint(0, 5, (70,), generator=generator), PREPROCESS, torch.device("cpu"))


def silent(_: int) -> None:
    pass


def feed_forward() -> torch.nn.Module:
    return small(Branch("feedforward", "patches"), Branch("feedforward", "features"), readout="class_token")


@torch.no_grad()
def test_without_a_branch_is_as_with_its_last_matrix_at_zero(images):
    network = feed_forward()
    counted = []
    whole, without = correct_without(layers_of(network), images, counted.append)
    numbers, labels = images.normalized(), images.labels
    np.testing.assert_array_equal(whole, network(numbers).argmax(dim=1) == labels)
    assert sum(counted) == 4 * 70
    for number in range(4):
        removed = feed_forward()
        mixer = layers_of(removed).layers[number].module
        assert isinstance(mixer, FeedForward)
        mixer.fc2.weight.zero_()
        mixer.fc2.bias.zero_()
        np.testing.assert_array_equal(without[number], removed(numbers).argmax(dim=1) == labels)
    assert (without != whole).any(axis=1).all()  # each branch matters to some image


@torch.no_grad()
def test_the_lens_ends_in_the_networks_own_answer_and_begins_at_the_embedding(images):
    network = feed_forward()
    layered = layers_of(network)
    counted = []
    seen = observe(layered, images, counted.append)
    numbers = images.normalized()
    np.testing.assert_array_equal(seen.correct[-1], network(numbers).argmax(dim=1) == images.labels)
    first = network.forward_head(network.norm(network.embed(numbers))).argmax(dim=1)
    np.testing.assert_array_equal(seen.correct[0], first == images.labels)
    assert seen.correct.shape == seen.agrees.shape == (3, 70)
    assert seen.agrees[-1].all()
    assert sum(counted) == 70
    tokens = network.embed(numbers)
    update = network.blocks[0][0](tokens) - tokens
    ratio = update.flatten(1).norm(dim=1) / tokens.flatten(1).norm(dim=1)
    assert seen.ratios[0] == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert [gram.shape for gram in seen.grams] == [(3, 35, 35), (3, 35, 35)]  # 70 images in two even minibatches


@torch.no_grad()
def test_uses_of_hidden_units_are_mean_activations_and_no_hook_stays(images):
    network = feed_forward()
    seen = observe(layers_of(network), images, silent)
    assert sorted(seen.use) == [0, 2]
    branch, tokens = network.blocks[0][0], network.embed(images.normalized())
    hidden = torch.nn.functional.gelu(branch.mixer.fc1(branch.normalized(tokens)))
    torch.testing.assert_close(seen.use[0].float(), hidden.abs().mean(dim=(0, 2)))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_attention_maps_have_entropy_one_where_they_are_uniform(images):
    network = small(Branch("attention", "patches", heads=2), Branch("feedforward", "features"))
    layered = layers_of(network)
    network.blocks[0][0].mixer.qkv.weight.data.zero_()
    seen = observe(layered, images, silent)
    torch.testing.assert_close(seen.entropy[0], torch.ones(2, dtype=torch.float64))
    assert (seen.entropy[2] < 0.999).all()
    torch.testing.assert_close(seen.maps[0].mean, torch.full((2, 12, 12), 1 / 12, dtype=torch.float64))


def test_fewer_images_are_evenly_spaced(images):
    some = images.some(3)
    torch.testing.assert_close(some.levels, images.levels[[0, 34, 69]])
    assert len(images.some(1000)) == 70
