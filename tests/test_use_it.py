"""The code of docs/use_it.md, as the page has it, trains, serves, predicts and runs in a browser."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import commands
import ffvit
from chromium import chromium, needs_chromium
from docs_code import code
from memory import most_memory
from serve_process import png

PAGE = "use_it.md"
NODE = Path(__file__).parent / "node_modules"
CPU = ffvit.Hardware(accelerator="cpu")


LOOPS = """
import runpy
for number in range(3):
    runpy.run_path(f"loop{number}.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the page's scripts lie, after its three training loops."""
    folder = tmp_path_factory.mktemp("project")
    sections = "A plain PyTorch loop", "Lightning", "Hugging Face Trainer"
    for number, section in enumerate(sections):
        (piece,) = code(PAGE, section=section)
        (folder / f"loop{number}.py").write_text(piece)
    (folder / "loops.py").write_text(LOOPS)
    done = subprocess.run(
        [sys.executable, "loops.py"],
        cwd=folder,
        env=commands.environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for piece in [piece for language in ("python", "html", "cpp") for piece in code(PAGE, language)]:
        if named := re.match(r"(?:#|//|<!--) (\w+\.\w+)", piece):
            (folder / named[1]).write_text(piece)
    return folder


@pytest.fixture
def module(folder, monkeypatch):
    """Imports a script of the page, in its folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    imported: list[str] = []

    def load(name: str):
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in imported:
        del sys.modules[name]


@pytest.fixture(scope="module")
def digits(folder) -> list[Path]:
    """100 digits as files."""
    (folder / "digits").mkdir()
    for number in range(100):
        (folder / f"digits/{number}.png").write_bytes(png(number))
    return [folder / f"digits/{number}.png" for number in range(100)]


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["mine", "lightning", "trainer"])
def test_loops_of_others_train_a_network(folder, loop):
    assert (
        ffvit.evaluate(folder / f"{loop}.safetensors", "digits", hardware=CPU).evaluation.top1.value > 0.3
    )  # of ten classes


def test_a_service_answers_as_the_predictor_does(module):
    client = TestClient(module("service").app)
    sent = [("files", (f"{number}.png", png(number))) for number in range(3)]
    (first, *_), answer = (
        ffvit.Predictor("mine.safetensors", hardware=CPU)(png(0), top=3),
        client.post("/predict", files=sent).json(),
    )
    assert len(answer) == 3
    assert answer[0] == pytest.approx(dict(zip(first.classes, first.probabilities, strict=True)), rel=1e-5)
    bad = client.post("/predict", files=[*sent, ("files", ("no.png", b"no image"))])
    assert (bad.status_code, bad.json()) == (422, {"detail": "image 3: is empty, damaged, or no image"})
    assert client.post("/predict", files=sent * 6).status_code == 422
    assert client.get("/classes").json() == [str(number) for number in range(10)]


SLOW = """
import time, batch
row = batch.row
batch.row = lambda found: (time.sleep(0.02), row(found))[1]
batch.main("mine.safetensors", "images.txt", "killed", 8)
"""


def test_a_batch_job_that_is_killed_goes_on_to_the_same_rows(module, folder, digits):
    names = [*map(str, digits), "nowhere.png", __file__] * 3
    (folder / "images.txt").write_text("\n".join(names) + "\n")
    batch = module("batch")
    batch.main("mine.safetensors", "images.txt", "whole", 8)
    rows = pq.read_table("whole").to_pydict()
    assert rows["image"] == names
    predictions = ffvit.Predictor("mine.safetensors", hardware=CPU)(digits, top=1)
    assert rows["class"][:100] == [prediction.classes[0] for prediction in predictions]
    assert rows["probability"][:100] == pytest.approx(
        [prediction.probabilities[0] for prediction in predictions], rel=1e-5
    )
    assert rows["error"][99:103] == [None, "there is no such file", "is empty, damaged, or no image", None]
    process = subprocess.Popen([sys.executable, "-c", SLOW], env=commands.environment())
    while not Path("killed/000002.parquet").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    written = {part: part.stat().st_mtime_ns for part in Path("killed").glob("*.parquet")}
    assert 3 <= len(written) < 39
    Path(f"killed/{len(written):06}.tmp").write_bytes(b"half a part")
    batch.main("mine.safetensors", "images.txt", "killed", 8)
    assert {part: part.stat().st_mtime_ns for part in written} == written
    assert {part.name for part in Path("killed").iterdir()} == {part.name for part in Path("whole").iterdir()}
    assert pq.read_table("killed").to_pydict() == rows


def test_a_batch_job_does_not_hold_what_it_has_written(module, folder, digits, monkeypatch):
    batch, loaded, most = module("batch"), ffvit.Predictor("mine.safetensors", hardware=CPU), []
    monkeypatch.setattr(ffvit, "Predictor", lambda _: loaded)  # loading takes more than predicting
    for images in (200, 200, 1200):  # the first fills caches
        (folder / "many.txt").write_text("".join(f"{path}\n" for path in digits * (images // 100)))
        with most_memory() as held:
            batch.main("mine.safetensors", "many.txt", f"many-{len(most)}", 100)
        most.append(held())
    assert most[2] - most[1] < 1000 * 100  # bytes for 1,000 more images; a row that is held takes about 300


def test_transformers_opens_a_pushed_run_with_the_same_logits(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = ffvit.train("ff_micro_patch2_8", "digits", {"base": "digits", "epochs": 1}, hardware=CPU, out=folder / "run")
    ffvit.push(run.path, "user/flowers-ff", out=folder / "flowers-ff")
    (folder / "photo.png").write_bytes(png(7))
    (piece,) = code(PAGE, section="The Hugging Face Hub")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(piece, PAGE, "exec"), scope := {})
    pixels = scope["processor"](Image.open("photo.png"), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        torch.testing.assert_close(scope["logits"], ffvit.load(run.path)(pixels), rtol=1e-6, atol=1e-6)
    predictor = ffvit.Predictor(run.path, hardware=CPU)
    np.testing.assert_allclose(scope["logits"].numpy(), predictor.logits("photo.png"), rtol=1e-5)
    assert out.getvalue().split() == [predictor("photo.png")[0].classes[0]]


@pytest.fixture(scope="module")
def exported(folder) -> Path:
    """The ONNX file and the class names, by the page's commands."""
    (piece,) = code(PAGE, "sh", "JavaScript in a browser")
    export, names = piece.splitlines()
    done = commands.here(*shlex.split(export)[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    _, _, source, _, target = shlex.split(names)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, PAGE, "exec"), {})
    (folder / target).write_text(out.getvalue())
    return folder / "mine.onnx"


@pytest.fixture(scope="module")
def expected(exported, digits) -> list[str]:
    """What the predictor says of the digits, and ONNX Runtime in Python as well."""
    predicted = [
        prediction.classes[0]
        for prediction in ffvit.Predictor(exported.with_name("mine.safetensors"), hardware=CPU)(digits, top=1)
    ]
    session = onnxruntime.InferenceSession(exported)
    names = json.loads(exported.with_name("classes.json").read_text())
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in digits])
    (logits,) = session.run(None, {"images": pixels})
    assert [names[number] for number in logits.argmax(1)] == predicted
    assert len(set(predicted)) > 5
    return predicted


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None: ...


@needs_chromium
@pytest.mark.skipif(not NODE.is_dir(), reason="needs onnxruntime-web: make browser")
def test_a_browser_names_the_same_classes(folder, digits, expected):
    (folder / "node_modules").symlink_to(NODE)
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    thread = Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address + "page.html", wait_until="networkidle")
            page.locator("input").set_input_files(digits)
            page.locator("li").nth(len(digits) - 1).wait_for()
            said = page.locator("li").all_inner_texts()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert said == [f"{path.name}: {name}" for path, name in zip(digits, expected, strict=True)]
    assert {address + "page.html", address + "mine.onnx"} <= set(asked)
    assert all(url.startswith(address) for url in asked)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt install g++")
def test_a_cpp_program_names_the_same_classes(folder, digits, expected):
    for path in digits:
        Image.open(path).convert("RGB").save(path.with_suffix(".ppm"))
    shutil.copy(digits[0].with_suffix(".ppm"), folder / "photo.ppm")
    (piece,) = code(PAGE, "sh", "C++")
    environment = commands.environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = partial(subprocess.run, cwd=folder, env=environment, capture_output=True, text=True)
    done = run(["bash", "-e", "-c", piece])
    assert done.returncode == 0, done.stderr[-2000:]
    names = json.loads((folder / "classes.json").read_text())
    assert names[int(done.stdout)] == expected[0]
    done = run(["./predict", "mine.onnx", *(path.with_suffix(".ppm") for path in digits)])
    assert [names[int(line)] for line in done.stdout.split()] == expected
