"""`ffvit inspect`: what it measures, as typed, on bad input, and its page in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ffvit
from chromium import chromium, needs_chromium
from ffvit.cli import make_app
from ffvit.errors import DataError, ModelError, OutputError, UserError
from ffvit.insight.inspect import names_of
from ffvit.insight.measure import image_counts
from ffvit.insight.report.tables import summary
from ffvit.models.create import create_model
from ffvit.models.weights import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("<img src=x onerror=alert(1)>", *"123456789")
CPU = {"accelerator": "cpu", "workers": 0}
IMAGES = 24


def weights(path: Path, name: str, classes: tuple[str, ...] = tuple("0123456789")) -> Path:
    torch.manual_seed(0)
    save_weights(path, create_model(name, len(classes)), classes)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of one network without attention and one with it."""
    folder = tmp_path_factory.mktemp("inspected")
    weights(folder / "ff.safetensors", "ff_micro_patch2_8")
    weights(folder / "<b>vit.safetensors", "vit_micro_patch2_8")
    return folder


@pytest.fixture(scope="module")
def both(folder) -> ffvit.Inspection:
    networks = [folder / "ff.safetensors", folder / "<b>vit.safetensors"]
    return ffvit.inspect(
        networks, data="digits", images=IMAGES, out=folder / "both.html", json=folder / "both.json", hardware=CPU
    )


def test_two_networks_are_measured_on_the_same_images(both, folder):
    ff, vit = both.networks
    assert both.data == "digits"
    assert ff.images == vit.images
    assert ff.images.observed == ff.images.lesions == IMAGES
    assert both.cross_cka.shape == (5, 5)
    torch.testing.assert_close(ff.cka.diagonal(), torch.ones(5, dtype=torch.float64))
    assert [len(network.mixing) for network in both.networks] == [4, 4]
    assert not ff.class_attention
    assert len(vit.class_attention) == len(vit.class_token) == 4
    assert all(0 < found.jacobian.distance < 4.3 for network in both.networks for found in network.mixing)
    # A norm over patches takes their mean away; attention has none.
    assert max(found.jacobian.uniform for found in ff.mixing) < 1e-6
    # Untrained attention is nearly uniform: static, and almost all of that the uniform map.
    heads = [head for found in vit.layers for head in found.heads]
    assert all(head.uniform <= head.static + 1e-9 <= 1 + 2e-9 for head in heads)
    assert min(head.uniform for head in heads) > 0.9
    assert json.loads((folder / "both.json").read_text()) == both.to_dict()


def test_a_network_with_itself_is_as_similar_as_within(folder):
    same = folder / "ff.safetensors"
    found = ffvit.inspect([same, same], data="digits", images=8, out=folder / "same.html", hardware=CPU)
    torch.testing.assert_close(found.cross_cka, found.networks[0].cka)
    assert [network.name for network in found.networks] == [f"{same} (1)", f"{same} (2)"]


def test_a_network_in_memory_stays_as_it_is(tmp_path):
    network = create_model("ff_micro_patch2_8").train()
    found = ffvit.inspect(network, data="digits", images=8, out=tmp_path / "page.html", hardware=CPU)
    assert network.training
    assert [row[0] for row in summary(found)][:2] == ["", "a block"]


def test_the_command_as_typed(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["inspect", str(folder / "ff.safetensors"), "--data", "digits", "--images", "8", "--device", "cpu"]
    app = make_app()
    assert app([*words, "--workers", "0", "--json", "numbers.json"], exit_on_error=False) == 0
    printed = capsys.readouterr().out
    assert "open inspect.html" in printed
    assert "feedforward over patches" in printed
    before = (tmp_path / "inspect.html").read_bytes()
    with pytest.raises(OutputError, match=re.escape("--out inspect.html: is there; --overwrite replaces it")):
        app(words, exit_on_error=False)
    app([*words, "--workers", "0", "--overwrite"], exit_on_error=False)
    assert (tmp_path / "inspect.html").read_bytes() == before  # the same numbers give the same page


def test_what_cannot_be_inspected_is_said_in_a_sentence(folder, tmp_path):
    ff = folder / "ff.safetensors"

    def inspect(*networks: object, **fields: object) -> None:
        ffvit.inspect(list(networks), **{"data": "digits", "out": tmp_path / "page.html", "hardware": CPU} | fields)

    with pytest.raises(UserError, match="one network is inspected, or two side by side; got 3"):
        inspect(ff, ff, ff)
    letters = weights(tmp_path / "letters.safetensors", "ff_micro_patch2_8", tuple("abcdefghij"))
    with pytest.raises(ModelError, match=re.escape("letters.safetensors: has other classes than ff.safetensors")):
        inspect(ff, letters)
    with pytest.raises(UserError, match=r"lies in no run folder.*give --data"):
        inspect(ff, data=None)
    with pytest.raises(OutputError, match=r"ends in \.html"):
        inspect(ff, out=tmp_path / "page.pdf")
    (tmp_path / "mine.html").write_text("<p>mine")
    with pytest.raises(OutputError, match="is there, and is no page that ffvit inspect wrote"):
        inspect(ff, out=tmp_path / "mine.html", overwrite=True)
    with pytest.raises(UserError, match="images"):
        inspect(ff, images=3)
    damaged = create_model("ff_micro_patch2_8", 10)
    damaged.head.weight.data[0] = float("nan")
    save_weights(tmp_path / "nan.safetensors", damaged, "0123456789")
    with pytest.raises(ModelError, match=re.escape("nan.safetensors: weights are not finite (the first: head.weight)")):
        inspect(tmp_path / "nan.safetensors")
    resnet = weights(tmp_path / "resnet.safetensors", "test_resnet")
    with pytest.raises(
        ModelError, match=r"resnet\.safetensors: ResNet is not a stack of residual branches.*--image alone is possible"
    ):
        inspect(resnet)
    with pytest.raises(DataError, match=r"--image .*absent\.png"):
        inspect(ff, image=tmp_path / "absent.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "letters.safetensors", "mine.html", "nan.safetensors", "resnet.safetensors",
    ]  # fmt: skip


def test_the_number_of_images_goes_by_size_and_device():
    small, base = (
        image_counts(20_000_000, 12, gpu=False, asked=None),
        image_counts(28_300_000_000, 24, gpu=False, asked=None),
    )
    assert (small.observed, small.lesions, small.jacobians) == (1000, 1000, 16)
    assert (base.observed, base.lesions, base.jacobians, base.fields) == (35, 8, 4, 8)
    assert (small.attributions, base.attributions) == (32, 0)
    gpu = image_counts(28_300_000_000, 24, gpu=True, asked=None)
    assert gpu.lesions > 40 * base.lesions
    assert image_counts(28_300_000_000, 24, gpu=False, asked=200).lesions == 200
    assert base.at_most(5).observed == 5


def test_networks_are_called_by_the_last_parts_of_their_paths():
    assert names_of(["runs/ff", "runs/vit"]) == ["ff", "vit"]
    assert names_of(["a/run", "b/run"]) == ["a/run", "b/run"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'ffvit[browser]'")
    with chromium() as browser:
        yield browser


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_desktop_and_phone_and_asks_for_nothing(browser, both, folder, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else faults.append(asked.url))
    page.goto((folder / "both.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the screen"
    assert page.locator("section").count() == 9
    assert page.locator("section svg").count() >= 15
    assert page.locator("b").count() == 0  # the name of the second network is no markup
    assert "<b>vit.safetensors" in page.locator("main").inner_text()
    for figure in page.locator("figure svg").all():
        assert figure.bounding_box()["width"] <= width
    context.close()
    assert faults == []


def test_names_of_classes_and_of_files_are_escaped(tmp_path):
    path = weights(tmp_path / "a & <i>.safetensors", "ff_micro_patch2_8", CLASSES)
    draw = np.random.default_rng(0)
    for name in CLASSES[:2]:
        for number in range(3):
            file = tmp_path / "images" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    ffvit.inspect(path, data=tmp_path / "images", out=tmp_path / "page.html", hardware=CPU)
    text = (tmp_path / "page.html").read_text()
    assert text.startswith("<!doctype html>\n<!-- ffvit inspect -->")
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "a &amp; &lt;i&gt;.safetensors" in text
    assert "<i>" not in text


def test_an_image_is_shown_too_and_alone_where_a_network_cannot_be_taken_apart(folder, tmp_path):
    pytest.importorskip("captum", reason="needs captum: pip install 'ffvit[insight]'")
    photo = tmp_path / "7 & <b>.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(photo)
    found = ffvit.inspect(
        folder / "ff.safetensors", data="digits", images=8, image=photo, out=tmp_path / "page.html", hardware=CPU
    )
    ((name, seen),) = found.image
    assert (name, seen.grid) == ("ff.safetensors", (4, 4))
    text = (tmp_path / "page.html").read_text()
    assert text.count("<section") == 11
    ((_, results),) = found.faithfulness
    assert [result.method for result in results] == [
        "integrated gradients",
        "gradient x input",
        "occlusion",
        "random order",
    ]
    assert {result.images for result in results} == {32}
    for result in results[:3]:
        assert f"{result.method} {result.deletion_gain.value:+.2f}" in text
    assert found.to_dict()["faithfulness"]["ff.safetensors"][3]["deletion_gain"] is None
    assert "7 &amp; &lt;b&gt;.png" in text
    assert found.to_dict()["image_predictions"][0]["patches"] == 16
    resnet = weights(tmp_path / "resnet.safetensors", "test_resnet")
    alone = ffvit.inspect(resnet, image=photo, out=tmp_path / "alone.html", hardware=CPU)
    assert not alone.networks
    assert "only the image is shown, for ResNet is not a stack of residual branches" in alone.warnings[0]
    assert (tmp_path / "alone.html").read_text().count("<section") == 1
