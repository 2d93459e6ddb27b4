"""All that is found in one image."""

import numpy as np
import pytest
import timm
import torch
from scipy.special import softmax

from explained import NAMES, PATCH, PREPROCESS, ReadsOnePatch, bright, linear, noise
from ffvit.config.preprocess import Preprocess
from ffvit.errors import MissingPackageError, ModelError, UserError
from ffvit.insight.image.image_findings import image_findings


def test_the_patch_that_is_read_is_found():
    findings = image_findings(ReadsOnePatch(), PREPROCESS, bright(1), NAMES)
    assert findings.class_names[findings.predicted] == "full"
    assert findings.class_index == findings.predicted
    assert findings.grid == (4, 4)
    assert findings.probabilities.sum() == pytest.approx(1)
    assert findings.removal.patches == (PATCH,)
    assert findings.removal.method == "integrated gradients"
    assert findings.class_names[findings.removal.becomes] == "empty"


def test_another_class_is_explained_while_the_removal_is_of_the_predicted_one():
    network, image = linear(), noise(1)
    names = ("a", "b", "c")
    own = image_findings(network, PREPROCESS, image, names)
    other = image_findings(network, PREPROCESS, image, names, class_index=(own.predicted + 1) % 3)
    assert other.predicted == own.predicted != other.class_index
    assert other.removal.patches == own.removal.patches
    assert not np.allclose(other.attributions[0].patches, own.attributions[0].patches)


def test_probabilities_are_those_at_the_temperature_and_the_same_seed_gives_the_same():
    network, image = linear(), noise(1)
    first, again = (image_findings(network, PREPROCESS, image, ("a", "b", "c"), temperature=2.0) for _ in range(2))
    whole = image_findings(network, PREPROCESS, image, ("a", "b", "c"))
    assert first.probabilities == pytest.approx(softmax(np.log(whole.probabilities) / 2))
    assert first.removal.random_counts == again.removal.random_counts
    for one, two in zip(first.attributions, again.attributions, strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_any_network_of_timms_is_left_as_it_was(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, drop_rate=0.5).train()
    preprocess = Preprocess(img_size=(160, 160))
    findings = image_findings(network, preprocess, noise(0, preprocess), ("a", "b", "c"), steps=2, random_orders=1)
    assert len(findings.attributions) == (4 if name == "test_vit" else 3)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_damaged_weights_and_wrong_classes_are_errors():
    network = linear()
    with pytest.raises(ModelError, match="the network has 3 classes, but 2 names were given"):
        image_findings(network, PREPROCESS, noise(0), NAMES)
    with pytest.raises(UserError, match="class_index: must be 0 to 2; got 3"):
        image_findings(network, PREPROCESS, noise(0), ("a", "b", "c"), class_index=3)
    network[1].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="logits are NaN or infinite: its training diverged"):
        image_findings(network, PREPROCESS, noise(0), ("a", "b", "c"))


def test_without_captum_nothing_is_computed(monkeypatch):
    monkeypatch.setattr("ffvit.inference.exported.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"ffvit\[insight\]"):
        image_findings(linear(), PREPROCESS, noise(0), ("a", "b", "c"))
