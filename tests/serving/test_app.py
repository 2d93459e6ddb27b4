"""The app, without a server around it."""

from __future__ import annotations

import base64
import io
import json
import logging
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import ffvit
from ffvit.errors import ModelError
from ffvit.serving.app import make_app
from ffvit.serving.limits import MIB, Limits
from ffvit.serving.service import Service
from serve_process import CLASSES, CPU, png

HOSTS = {"localhost", "127.0.0.1", "::1"}
TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def predictors(networks) -> dict[str, ffvit.Predictor]:
    return {path.stem: ffvit.Predictor(path, hardware=CPU) for path in networks}


@pytest.fixture(scope="module")
def service(predictors) -> Service:
    return Service(predictors, Limits(request_bytes=MIB, files=3, seconds=10.0), batch_size=4)


@pytest.fixture
def another(predictors) -> Service:
    """A service for an app of its own."""
    return Service({"first": predictors["first"]}, Limits(seconds=10.0), batch_size=4)


@pytest.fixture(scope="module")
def client(service) -> Iterator[TestClient]:
    with TestClient(make_app(service, hosts=HOSTS), "http://127.0.0.1:7860", raise_server_exceptions=True) as client:
        yield client


@pytest.fixture
def limited(service, monkeypatch):
    """The service with other limits."""

    def change(**limits) -> None:
        changed = replace(service.limits, **limits)
        monkeypatch.setattr(service, "limits", changed)
        monkeypatch.setattr(service.capacity, "limits", changed)

    return change


def problem(response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == status
    assert "Traceback" not in response.text
    return found["detail"]


def test_a_file_is_predicted_as_the_predictor_does(client, predictors):
    answer = client.post("/predict?top=3", files={"file": ("photo.png", png(), "image/png")}).json()
    (image,) = answer["images"]
    assert image["image"] == "photo.png"
    assert answer["seconds"] > 0
    for said in image["predictions"]:
        (expected,) = predictors[said["model"]](png(), top=3)
        assert [entry["name"] for entry in said["classes"]] == list(expected.classes)
        assert [entry["probability"] for entry in said["classes"]] == pytest.approx(expected.probabilities)
    assert [said["model"] for said in image["predictions"]] == ["first", "second"]


def test_an_image_of_none_of_the_classes_is_told(client, predictors, monkeypatch):
    monkeypatch.setattr(predictors["second"], "ood_threshold", 1e9)
    image = client.post("/predict", content=png(), headers={"content-type": "image/png"}).json()["images"][0]
    assert [said["none_of_these"] for said in image["predictions"]] == [None, True]
    assert [model["ood_threshold"] for model in client.get("/models").json()] == [None, 1e9]


def test_several_files_base64_and_the_image_itself_say_the_same(client):
    def first(response):
        assert response.status_code == 200, response.text
        return [image["predictions"] for image in response.json()["images"]]

    expected = first(client.post("/predict", content=png(1), headers={"content-type": "image/png"}))
    texts = [base64.b64encode(png(number)).decode() for number in (0, 1)]
    of_json = client.post("/predict", json={"images": [texts[0], f"data:image/png;base64,{texts[1]}"]})
    assert [image["image"] for image in of_json.json()["images"]] == ["image 0", "image 1"]
    of_files = client.post("/predict", files=[("file", (name, png(number))) for number, name in enumerate("ab")])
    for response in (of_json, of_files):
        np.testing.assert_allclose(
            [entry["probability"] for said in first(response)[1] for entry in said["classes"]],
            [entry["probability"] for said in expected[0] for entry in said["classes"]],
            rtol=1e-4,
        )


def test_one_network_can_be_asked_alone(client):
    answer = client.post("/predict?model=second&top=1", content=png(), headers={"content-type": "image/png"}).json()
    assert [said["model"] for said in answer["images"][0]["predictions"]] == ["second"]
    assert "first, second" in problem(client.post("/predict?model=third", content=png()), 422)


def test_patches_that_are_covered_change_the_answer_as_the_network_says(client, predictors):
    found = client.post("/explain?model=first", content=png(), headers={"content-type": "image/png"}).json()
    predictor = predictors["first"]
    (whole,) = predictor(png(), top=10)
    assert found["class_name"] == whole.classes[0]
    assert found["probability"] == pytest.approx(whole.probabilities[0], rel=1e-4)
    pixels = predictor.prepare(png()).copy()
    pixels[2:4, 6:8] = 128  # the second row's last patch; grey's mean is 0.5
    (covered,) = predictor.predictions(predictor.run(pixels[None]), ["it"], top=10)
    expected = covered.probabilities[covered.classes.index(found["class_name"])]
    assert np.shape(found["covered"]) == np.shape(found["evidence"]) == (4, 4)
    assert found["covered"][1][3] == pytest.approx(expected, rel=1e-4)
    odds = [np.log(share / (1 - share)) for share in (found["probability"], expected)]
    assert found["evidence"][1][3] == pytest.approx(odds[0] - odds[1], rel=1e-3)
    other = client.post("/explain", params={"class": CLASSES[3]}, content=png(), headers={"content-type": "image/png"})
    assert other.json()["class_name"] == CLASSES[3]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"files": {"file": ("a/b/../../../etc/passwd", b"no image")}}, 422, "passwd: is empty, damaged, or no image"),
        ({"files": {"file": ("x.png", png()[:70])}}, 422, "x.png: "),
        ({"files": [("file", (str(number), png())) for number in range(4)]}, 413, "more than 3 images"),
        ({"data": {"text": "no file"}, "files": []}, 415, "'application/x-www-form-urlencoded' is not read"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "missing boundary"),
        ({"content": b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "no file in the form"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "the form cannot be read"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"json": {"images": "x"}}, 422, "images: "),
        ({"json": {"images": []}}, 422, "images: "),
        ({"json": {"images": ["AAAA"] * 4}}, 413, "more than 3 images"),
        ({"json": {"images": ["?"]}}, 422, "images.0: is no base64"),
        ({"json": {"pictures": []}}, 422, 'must be {"images"'),
        ({"content": b"x" * (MIB + 1), "headers": {"content-type": "image/png"}}, 413, "more than 1 MiB"),
        ({"content": iter([b"x" * MIB, b"x"]), "headers": {"content-type": "image/png"}}, 413, "more than 1 MiB"),
        ({"content": b"", "headers": {"content-type": "image/png"}}, 422, "image: is empty"),
        ({"content": b"x", "headers": {"content-type": "text/html"}}, 415, "'text/html' is not read"),
        ({"content": png(), "params": {"top": 0}, "headers": {"content-type": "image/png"}}, 422, "top: input should be"),
        ({"content": png(), "params": {"top": "x"}}, 422, "top: input should be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_bad_input_gets_its_status_and_one_sentence(client, path, request_, status, words, service):
    if path == "/explain" and "params" in request_:
        words, request_ = (
            "class: ",
            request_ | {"params": {"class": "none"}, "content": png(), "headers": {"content-type": "image/png"}},
        )
    if "content" in request_ and not isinstance(request_["content"], bytes):
        request_ = request_ | {"content": iter([b"x" * MIB, b"x"])}
    assert words in problem(client.post(path, **request_), status)
    assert (service.capacity.images, service.capacity.held) == (0, 0)


def test_a_decompression_bomb_is_not_decoded(client):
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + png()[24:29]
    bomb = png()[:12] + header + struct.pack(">I", zlib.crc32(header)) + png()[33:]
    assert "is not decoded" in problem(client.post("/predict", files={"file": ("bomb.png", bomb)}), 422)


def test_paths_methods_and_classes_that_are_not_there_are_told(client):
    assert "no such path" in problem(client.get("/nothing"), 404)
    assert "no such path" in problem(client.get("/../../etc/passwd"), 404)
    assert "no such method" in problem(client.get("/predict"), 405)
    assert "/models lists them" in problem(
        client.post("/explain?class=x", content=png(), headers={"content-type": "image/png"}), 422
    )


def test_nothing_is_written_to_the_disk(client, monkeypatch):
    def rollover(self) -> None:
        raise AssertionError("a form was written to a file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 700), np.uint8)).save(noise, "BMP")
    file = ("large.bmp", noise.getvalue() + bytes(MIB - 2**12 - noise.tell()))
    assert client.post("/predict", files={"file": file, "text": (None, "x")}).status_code == 200


def test_a_full_queue_is_told_with_a_time_to_come_back(client, limited, service):
    service.capacity.seconds_per_image = 0.1
    service.capacity.images = 255
    limited(queue=256)
    try:
        response = client.post("/predict", files=[("file", ("a", png())), ("file", ("b", png()))])
    finally:
        service.capacity.images -= 255
    assert "busy" in problem(response, 503)
    assert response.headers["retry-after"] == "26"


def test_an_answer_that_comes_too_late_is_told(client, limited, service):
    limited(seconds=1e-9)
    assert "within 1e-09 s" in problem(client.post("/predict", files={"file": png()}), 504)
    assert (service.capacity.images, service.capacity.held) == (0, 0)


def test_logits_that_are_not_finite_are_told(client, predictors, monkeypatch, service):
    def run(images):
        raise ModelError("the network's logits are NaN or infinite")

    monkeypatch.setattr(service.served["first"].batcher, "_run", run)
    assert "NaN or infinite" in problem(client.post("/predict", files={"file": png()}), 500)


def test_what_nobody_foresaw_is_logged_and_not_shown(another, monkeypatch, caplog):
    monkeypatch.setattr(another.served["first"].batcher, "_run", lambda images: 1 / 0)
    with TestClient(make_app(another)) as client:
        assert "its log says why" in problem(client.post("/predict", files={"file": png()}), 500)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:7860"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": "localhost@evil.example"}, 421),
        ({"host": ""}, 421),
        ({"host": "localhost:7860"}, 200),
        ({"host": "[::1]:7860"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:7860"}, 200),
    ],
)
def test_only_this_servers_names_and_pages_are_let_in(client, headers, status):
    response = client.post("/predict", files={"file": png()}, headers=headers)
    assert response.status_code == status, response.text
    assert "access-control-allow-origin" not in response.headers
    if status != 200:
        problem(response, status)


def test_a_token_is_needed_but_for_the_page(another):
    with TestClient(make_app(another, token=TOKEN)) as client:
        for path in ("/", "/page.js", "/style.css", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Bearer é"}):
            response = client.post("/predict", files={"file": png()}, headers={k: v.encode() for k, v in given.items()})
            assert "token" in problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        problem(client.get("/metrics"), 401)
        bears = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict", files={"file": png()}, headers=bears).status_code == 200


def test_an_address_that_asks_too_often_is_told(another, monkeypatch):
    monkeypatch.setattr(another, "limits", replace(another.limits, rate=0.2))
    with TestClient(make_app(another)) as client:
        statuses = [client.get("/models").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert problem(client.get("/models"), 429) == "too many requests from this address: at most 0.2 per second"
        assert client.get("/healthz").status_code == 200


def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/models", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/models").headers["cache-control"] == "no-store"


def test_readiness_ends_as_the_server_is_about_to(client, service, monkeypatch):
    assert client.get("/readyz").json() == {"status": "ready"}
    monkeypatch.setattr(service, "draining", True)
    assert "about to end" in problem(client.get("/readyz"), 503)
    assert client.get("/healthz").status_code == 200


def test_requests_are_counted_and_logged_without_their_content(client, caplog):
    caplog.set_level(logging.INFO, "ffvit.serve")
    name = "line\nbreak\x1b[31m.png"
    client.post("/predict", files={"file": png()})
    caplog.clear()
    client.post("/predict", json={"images": []})
    client.post("/predict", files={"file": (name, b"secret content")})
    client.get("/secret/path")
    text = client.get("/metrics").text
    assert 'ffvit_requests_total{path="/predict",status="422"}' in text
    assert 'path="other",status="404"' in text
    assert "/secret" not in text
    for expected in (
        'ffvit_batch_images_bucket{le="1.0",model="first"}',
        "ffvit_queue_images 0.0",
        "ffvit_held_bytes 0.0",
    ):
        assert expected in text
    fields = [record.fields for record in caplog.records if record.name == "ffvit.serve"]
    assert [entry["status"] for entry in fields[:3]] == [422, 422, 404]
    lines = [json.dumps(entry) for entry in fields]
    assert "secret content" not in "".join(lines)
    assert all(line.isascii() and "\n" not in line for line in lines)
