"""`ffvit serve` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

import ffvit
from commands import environment, here
from ffvit.serving import server as serving
from serve_process import CLASSES, TOKEN, png


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def head(length: int, kind: str = "image/png", more: str = "") -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n"
        f"authorization: Bearer {TOKEN}\r\n{more}\r\n"
    ).encode()


def answer(connection: socket.socket) -> tuple[int, dict]:
    """Status and body of the next response."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(2**16)
        assert part, received
        received += part
    start, _, body = received.partition(b"\r\n\r\n")
    length = int(start.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(2**16)
    return int(start.split()[1]), json.loads(body)


def test_it_answers_with_its_token_and_logs_a_line_a_request(server):
    logged = len(server.errors)
    with server.client() as client:
        assert client.post("/predict", files={"file": png()}).status_code == 401
        bears = {"authorization": f"Bearer {TOKEN}"}
        response = client.post("/predict", files={"file": ("a\nb.png", png())}, headers=bears)
        assert len(response.json()["images"][0]["predictions"]) == 2
        assert client.get("/readyz").json() == {"status": "ready"}
    deadline = time.monotonic() + 20
    while "/readyz" not in "".join(server.errors[logged:]) and time.monotonic() < deadline:
        time.sleep(0.01)
    lines = [json.loads(line) for line in server.errors[logged:]]
    assert [line["status"] for line in lines[:2]] == [401, 200]
    assert lines[1]["images"] == 1
    assert TOKEN not in "".join(server.errors)


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server):
    with connect(server) as connection:
        connection.sendall(head(100 * 2**20, more="expect: 100-continue\r\n"))
        status, body = answer(connection)
    assert (status, body["detail"]) == (413, "the request has more than 1 MiB, the limit of this server")


def test_a_client_that_sends_a_body_that_is_too_large_gets_to_read_why(server):
    with connect(server) as connection:
        connection.sendall(head(3 * 2**20) + bytes(3 * 2**20))
        assert answer(connection)[0] == 413
        connection.sendall(head(len(png())) + png())  # and the connection can still be used
        assert answer(connection)[0] == 200


def test_a_client_that_goes_away_leaves_nothing_behind(server):
    for _ in range(3):
        with connect(server) as connection:
            connection.sendall(head(1000) + bytes(500))
    with server.client() as client:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            text = client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
            gone = re.search(r'path="/predict",status="499"} (\d+)', text)
            if gone and int(gone[1]) >= 3 and "ffvit_held_bytes 0.0" in text and "ffvit_queue_images 0.0" in text:
                return
            time.sleep(0.02)
    raise AssertionError(text)


def refuses(server) -> bool:
    """Whether it comes to accept no more connections."""
    for _ in range(1000):
        try:
            connect(server).close()
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_what_cannot_be_served_is_told_in_a_sentence(networks, tmp_path, monkeypatch):
    monkeypatch.delenv("FFVIT_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = here("serve", networks[0], "--port", port)
        assert (told.returncode, told.stderr) == (
            2, f"ffvit: port {port} is in use: give another --port, or 0 for any free one [E-DEVICE]\n"
        )  # fmt: skip
    short = tmp_path / "token"
    short.write_text("short")
    assert "16 printable ASCII characters" in here("serve", networks[0], "--token-file", short).stderr
    assert "cannot be read (No such file" in here("serve", networks[0], "--token-file", tmp_path / "no").stderr
    assert "no address of this machine" in here("serve", networks[0], "--host", "192.0.2.1").stderr
    told = here("serve", networks[0], "--host", "a..b").stderr
    assert "host: a..b is no address of this machine (" in told
    assert here("serve", tmp_path / "none", "--port", 0).returncode == 2
    network = ffvit.load(networks[0])
    with torch.no_grad():
        network.head.bias += np.nan
    ffvit.save_weights(tmp_path / "nan.safetensors", network, CLASSES)
    told = here("serve", tmp_path / "nan.safetensors", "--port", 0, "--accelerator", "cpu")
    assert (told.returncode, "NaN or infinite" in told.stderr) == (2, True)


def test_a_name_that_nothing_resolves_and_a_missing_package_are_told(networks, monkeypatch):
    def unknown(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        told = here("serve", networks[0], "--host", "nowhere.invalid")
    assert (told.returncode, "nowhere.invalid is no address of this machine (" in told.stderr) == (2, True)
    monkeypatch.delitem(sys.modules, "ffvit.serving.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # which is as if it was not installed
    told = here("serve", networks[0])
    assert (told.returncode, "uvicorn is missing here: pip install 'ffvit[serve]'" in told.stderr) == (2, True)


def test_networks_of_one_name_are_told_apart(tmp_path):
    for folder in ("a/run", "b/run", "c"):
        (tmp_path / folder).mkdir(parents=True)
    given = [tmp_path / "a/run", tmp_path / "b/run", tmp_path / "b/run", tmp_path / "c", tmp_path / "d.onnx"]
    assert serving._names(given) == ["a/run", "b/run", "b/run (3)", "c", "d"]


def test_threads_get_their_own_answers(server):
    bears = {"authorization": f"Bearer {TOKEN}"}
    started = threading.Barrier(8)

    def ask(number: int) -> str:
        with server.client() as client:
            started.wait(30)
            responses = [client.post("/predict", files={"file": png(number)}, headers=bears) for _ in range(4)]
        said = [response.json()["images"][0]["predictions"][0]["classes"] for response in responses]
        answers = {tuple((entry["name"], round(entry["probability"], 3)) for entry in classes) for classes in said}
        assert len(answers) == 1  # but for rounding, which depends on the batch
        return str(answers)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 8


def test_answers_are_as_the_api_describes_them(server):
    """Through schemathesis, without its plugin for pytest, which every start of pytest would import."""
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/predict", "/explain", "/models", "/metrics", "/readyz"}
    for operation in operations:

        @settings(
            max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def check(case):
            # What is an image, or the name of a network, the schema cannot say: such values may well be refused.
            case.call_and_validate(
                headers={"authorization": f"Bearer {TOKEN}"}, excluded_checks=[positive_data_acceptance]
            )

        check()


LOADING = """
import sys, time
import ffvit.serving.server

def load(*_, **__):
    print("loading", flush=True)
    time.sleep(600)

ffvit.serving.server.Predictor = load
from ffvit.cli import main
sys.argv = ["ffvit", "serve", "network.safetensors", "--port", "0"]
main()
"""


def test_sigterm_ends_a_server_that_still_loads_with_143_and_no_word():
    # As the first process of a container it would hear nothing of the signal without a handler, and -15 tells of none.
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "loading\n"
    process.terminate()
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 143


def test_sigterm_ends_it_with_0_once_what_it_accepted_is_answered(server):
    accepted, idle = connect(server), connect(server)
    accepted.sendall(head(len(png())) + png()[:10])
    idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert answer(idle)[0] == 200
    os.kill(server.process.pid, signal.SIGTERM)
    assert idle.recv(1) == b""
    assert refuses(server)
    accepted.sendall(png()[10:])
    status, body = answer(accepted)
    assert status == 200
    assert body["images"][0]["predictions"][0]["classes"]
    assert server.process.wait(60) == 0
    accepted.close()
    idle.close()
