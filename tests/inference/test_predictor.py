from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import ffvit
from ffvit.config.architecture import FF_ONLY

CPU = ffvit.Hardware(accelerator="cpu")
PIXELS = np.ascontiguousarray(load_sample_image("flower.jpg")[::4, ::4])


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    net = ffvit.create_model(ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=24, patch=8, num_classes=3))
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    net.class_names = ("cat", "dog", "owl")
    return net


@pytest.fixture(scope="module")
def predictor(network) -> ffvit.Predictor:
    return ffvit.Predictor(network, hardware=CPU)


def test_an_image_predicts_the_same_however_it_is_given(predictor, tmp_path: Path):
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    given = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        PIXELS,
        tensor,
        np.dstack([PIXELS, PIXELS[..., :1] * 0 + 255]),
    ]
    (expected,) = predictor(path)
    assert expected.image == str(path)
    for image in given:
        (prediction,) = predictor(image)
        assert (prediction.classes, prediction.probabilities) == (expected.classes, expected.probabilities)
    for batch in (given, iter(given), np.stack([PIXELS] * 7), tensor.expand(7, -1, -1, -1)):
        np.testing.assert_allclose(
            predictor.logits(batch), predictor.logits(path).repeat(7, axis=0), rtol=1e-5, atol=1e-6
        )


def test_probabilities_are_the_softmax_at_the_temperature(network):
    network.temperature = 2.5
    predictor = ffvit.Predictor(network, hardware=CPU)
    del network.temperature
    (prediction,) = predictor(PIXELS, top=2)
    shares = (torch.from_numpy(predictor.logits(PIXELS))[0] / 2.5).softmax(0).sort(descending=True)
    assert prediction.classes == tuple(predictor.class_names[number] for number in shares.indices[:2])
    assert prediction.probabilities == pytest.approx(shares.values[:2].tolist())


def test_grey_levels_are_grey_in_colour(predictor):
    grey = PIXELS[..., 0]
    assert (predictor.logits(grey) == predictor.logits(np.stack([grey] * 3, axis=2))).all()
    assert (predictor.logits(torch.from_numpy(grey)[None]) == predictor.logits(grey)).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (PIXELS / 255, "image 0: levels must be 0 to 255 in uint8; got float64"),
        (PIXELS.transpose(2, 0, 1), "image 0: must be height width channels with 1, 3 or 4 channels; got 3 x 107 x 160"),
        (torch.from_numpy(PIXELS), "image 0: must be channels height width with 1, 3 or 4 channels; got 107 x 160 x 3"),
        (PIXELS[:0], "image 0: must be height width channels with 1, 3 or 4 channels; got 0 x 160 x 3"),
        (iter([PIXELS, 3]), "image 1: a int is no image: give a path, bytes"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told(predictor, image, words):
    with pytest.raises(ffvit.UserError, match=words):
        predictor(image)


@pytest.mark.parametrize(
    ("image", "words"),
    [("nowhere.jpg", "nowhere.jpg: there is no such file"), (b"text", "image 0: is empty, damaged, or no image")],
)
def test_an_unreadable_image_is_told(predictor, image, words):
    with pytest.raises(ffvit.BadImageError, match=words):
        predictor(image)


def test_a_stream_of_files_names_those_that_cannot_be_read(predictor, tmp_path: Path):
    for number in range(40):  # more than a batch
        Image.fromarray(PIXELS[number:]).save(tmp_path / f"{number}.png")
    files = [tmp_path / f"{number}.png" for number in range(40)]
    found = list(predictor.stream([*files[:35], tmp_path / "nowhere.png", *map(str, files[35:])], top=2))
    assert str(found.pop(35)) == f"{tmp_path / 'nowhere.png'}: there is no such file"
    for prediction, expected in zip(found, predictor(files, top=2), strict=True):
        assert (prediction.image, prediction.classes) == (expected.image, expected.classes)
        assert prediction.probabilities == pytest.approx(expected.probabilities, rel=1e-5)
    assert list(predictor.stream([])) == []


def test_no_images_have_no_predictions(predictor):
    assert predictor([]) == []
    assert predictor.logits([]).shape == (0, 3)


def test_threads_get_their_own_predictions(predictor):
    images = [PIXELS[number:, number:] for number in range(16)]
    alone = [predictor(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(predictor, images)) == alone


def test_the_callers_network_is_left_as_it_is(network):
    ffvit.Predictor(network.train(), hardware=CPU)
    assert network.training
    before = ffvit.Predictor(network, hardware=CPU)
    expected = before.logits(PIXELS)
    with torch.no_grad():
        network.head.bias += 1
    assert (before.logits(PIXELS) == expected).all()
    with torch.no_grad():
        network.head.bias -= 1


def test_int8_needs_a_run_to_be_calibrated_on(network):
    with pytest.raises(ffvit.UserError, match="int8 is calibrated on the images of a run: give its run folder"):
        ffvit.Predictor(network, engine="onnx", precision="int8", hardware=CPU)
