"""What is served by another engine, or from an exported file, says the same as `ffvit predict` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

import ffvit
from ffvit.config.architecture import FF_ONLY
from ffvit.config.recipe import named_recipe
from ffvit.exporting.formats import FORMATS
from ffvit.serving.app import make_app
from ffvit.serving.limits import Limits
from ffvit.serving.service import Service
from serve_process import CPU

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos) -> Path:
    """Its images are cropped, which an exported file does by itself."""
    recipe = named_recipe("small").replace(epochs=1, warmup_epochs=0, batch_size=8, evaluation_crop=0.6, exact="always")
    architecture = ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=24, patch=8, init="pytorch")
    out = tmp_path_factory.mktemp("engines") / "run"
    return ffvit.train(architecture, photos, recipe, hardware=CPU, out=out).path


@pytest.mark.parametrize(
    ("engine", "form"),
    [
        ("onnx", None),
        ("openvino", None),
        ("onnx-int8", None),
        ("torch", "onnx"),
        ("torch", "openvino"),
        ("torch", "pt2"),
    ],
)
def test_every_engine_and_file_is_served_as_it_predicts(run, photos, tmp_path, engine, form):
    weights = run
    if form is not None:
        weights = ffvit.export(run, format=form, out=tmp_path / f"network{FORMATS[form].suffix}").path
    images = sorted((photos / "val").rglob("*.jpg"))[:3]
    expected = list(ffvit.predict(weights, images, engine=engine, hardware=CPU))
    name, _, int8 = engine.partition("-")
    other = ffvit.Predictor(weights, engine=name, precision=int8 or "fp32", hardware=CPU)
    service = Service({"run": ffvit.Predictor(run, hardware=CPU), "other": other}, Limits(seconds=60.0), batch_size=4)
    service.warm()
    with TestClient(make_app(service)) as client:
        answer = client.post("/predict", files=[("file", (path.name, path.read_bytes())) for path in images])
        assert answer.status_code == 200, answer.text
        for image, said in zip(answer.json()["images"], expected, strict=True):
            classes = image["predictions"][1]["classes"]
            assert [entry["name"] for entry in classes] == list(said.classes)
            assert [entry["probability"] for entry in classes] == pytest.approx(said.probabilities, abs=1e-4)
        explained = client.post("/explain?model=other", files={"file": images[0].read_bytes()}).json()
        assert explained["probability"] == pytest.approx(expected[0].probabilities[0], abs=1e-4)
        described = client.get("/models").json()
    # The page draws the part of the image that the patches cover.
    assert [model["image_size"] for model in described] == [[24, 24], [40, 40] if form else [24, 24]]
    assert [model["crop"] for model in described] == [0.6, pytest.approx(1.0) if form else 0.6]
