from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

import ffvit
from ffvit.config.hardware import Hardware
from ffvit.hardware.launch import start_fabric
from ffvit.inference.evaluator import Evaluator
from ffvit.models.description import preprocess_of


def test_images_are_those_of_an_evaluation():
    net = ffvit.create_model("ff_micro_patch2_8", num_classes=10).eval()
    data = ffvit.open_datasets("digits", net)
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    assert preprocess_of(net).crop_pct == 1.0  # the recipe's
    fabric = start_fabric(Hardware(accelerator="cpu"))
    own, _ = Evaluator(fabric, data.test.images, preprocess_of(net), data.classes, 128, 0)(net)
    loader = DataLoader(data.test, batch_size=128)
    with torch.inference_mode():
        predicted = torch.cat([net(images).argmax(1) for images, _ in loader])
    assert predicted.tolist() == own.predicted.tolist()
    assert torch.cat([labels for _, labels in loader]).tolist() == own.labels.tolist()


def test_training_images_are_augmented_and_erased():
    net = ffvit.create_model("ff_micro_patch2_8", num_classes=10)
    data = ffvit.open_datasets("digits", net, recipe={"base": "digits", "random_erase_prob": 1.0})
    torch.manual_seed(0)
    first, again = data.train[3][0], data.train[3][0]
    assert first.shape == (1, 8, 8)
    assert not torch.equal(first, again)
    assert torch.equal(data.test[3][0], data.test[3][0])


def test_another_number_of_classes_is_refused():
    with pytest.raises(ffvit.UserError, match=r"digits: has 10 classes, and the network 5: .*num_classes=10\)"):
        ffvit.open_datasets("digits", ffvit.create_model("ff_micro_patch2_8", num_classes=5))
