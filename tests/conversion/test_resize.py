from __future__ import annotations

import PIL.Image
import pytest
import timm
import torch

import ffvit
from ffvit.errors import UserError
from ffvit.models.description import network_of, preprocess_of
from ffvit.models.image_size import set_image_size
from ffvit.training.initial_network import initial_network
from ffvit.training.train import configure

CPU = ffvit.Hardware(accelerator="cpu", workers=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network whose every weight is drawn."""
    net = ffvit.create_model("ff_micro_patch2_8", 3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    ffvit.save_weights(path, net, ["a", "b", "c"], temperature=2.0, ood_threshold=1.0)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in "abc":
        (folder / name).mkdir()
        for number in range(3):
            pixels = torch.randint(0, 256, (16, 16), dtype=torch.uint8).numpy()
            PIL.Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_file_of_another_size_scores_as_the_weights_do_on_the_fly(weights, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = ffvit.resize(weights, image_size=16)
    assert file.name == "small-16.safetensors"
    net = ffvit.load(file)
    assert preprocess_of(net).img_size == net.architecture.img_size == (16, 16)
    assert net.class_names == ("a", "b", "c")
    assert (net.temperature, net.ood_threshold) == (None, None)  # they were fitted for 8 px
    from_file = ffvit.evaluate(file, images, hardware=CPU).predictions.loss
    there = ffvit.evaluate(weights, images, image_size=16, hardware=CPU).predictions.loss
    torch.testing.assert_close(torch.as_tensor(from_file), torch.as_tensor(there), rtol=0, atol=0)
    other = ffvit.evaluate(weights, images, image_size=16, resize_method="block", hardware=CPU).predictions.loss
    assert not torch.equal(torch.as_tensor(other), torch.as_tensor(there))
    patches = ffvit.load(
        ffvit.resize(weights, image_size=(16, 24), patch_size=(4, 6), out=tmp_path / "patches.safetensors")
    )
    assert patches.architecture.grid == (4, 4)


def test_nothing_of_the_users_is_replaced(weights, tmp_path):
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    with pytest.raises(UserError, match="is there, and is no file of weights"):
        ffvit.resize(weights, image_size=16, out=out, overwrite=True)
    out.unlink()
    ffvit.resize(weights, image_size=16, out=out)
    with pytest.raises(UserError, match="is there; --overwrite replaces it"):
        ffvit.resize(weights, image_size=12, out=out)
    ffvit.resize(weights, image_size=12, out=out, overwrite=True)
    assert ffvit.load(out).architecture.img_size == (12, 12)
    with pytest.raises(UserError, match=r"weights are written to \.safetensors files"):
        ffvit.resize(weights, image_size=12, out=tmp_path / "x.onnx")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_networks_of_timm_are_as_timm_makes_them(name, tmp_path):
    net = ffvit.create_model(name, 4, img_size=64).eval()
    file = ffvit.resize(net, image_size=96, out=tmp_path / "net.safetensors")
    resized, seen = ffvit.load(file), torch.randn(2, 3, 96, 96)
    assert preprocess_of(net).img_size == (64, 64)
    assert preprocess_of(resized).img_size == (96, 96)
    theirs = timm.create_model(name, num_classes=4, **({"img_size": 64} if name == "test_vit" else {})).eval()
    theirs.load_state_dict(net.state_dict())
    if name == "test_vit":
        theirs.set_input_size(img_size=96)
    torch.testing.assert_close(resized(seen), theirs(seen))


@pytest.mark.parametrize(
    ("make", "size", "said"),
    [
        (lambda: ffvit.create_model("ff_micro_patch2_8"), (15, 15), "height 15 is no multiple of the patch's 2"),
        (lambda: ffvit.create_model("attention_only_micro_patch2_8"), (16, 16), "attention along features has weights"),
        (lambda: ffvit.create_model("gmixer_12_224", 2), (256, 256), "gmixer_12_224: its weights fit one image size"),
    ],
)
def test_what_cannot_be_resized_says_why(make, size, said):
    with pytest.raises(UserError, match=said):
        set_image_size(make(), size)


def test_training_goes_on_at_another_size(weights):
    config = configure(start_from=weights, image_size=16)
    assert config.network.architecture is not None
    assert config.network.architecture.hidden(config.network.architecture.block[1]) == 68  # as it was
    net, about = initial_network(config, 3)
    assert "resized from 8 x 8 px" in about
    wanted = ffvit.load(weights)
    wanted.set_input_size(16)
    torch.testing.assert_close(net.state_dict(), wanted.state_dict(), rtol=0, atol=0)
    # A run that is resumed builds the same network without these weights.
    again, _ = initial_network(config.replace(start_from=None), 3)
    again.load_state_dict(net.state_dict())
    assert network_of(again) == network_of(net)
    with pytest.raises(UserError, match=r"ff_micro_patch2_8 at 15 x 15 px: .*height 15 is no multiple"):
        configure(start_from=weights, image_size=15)
    named = configure("ff_micro_patch2_8", start_from=weights, image_size=16)
    assert named == config
