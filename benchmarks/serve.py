"""Load on `ffvit serve`: throughput as a share of the same engine's offline rate, latency, lost requests, memory.

python benchmarks/serve.py [--seconds 600] [--clients 32] [--peers /path/with/litserve/and/gradio]

Clients and server share this machine's cores. Each client sends a 500 x 375 JPEG (scikit-learn's photograph), waits for
the answer and sends the next, over a connection that is kept. The offline rate is measured before and after: the same
`Predictor` on the same files, decoded by as many threads as the server has, in batches of the server's size. Peers are
their packages' plain examples on the same network, in processes of their own, one after the other.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from script import run
from sklearn.datasets import load_sample_image

import ffvit
from ffvit.hardware.devices import available_cores
from ffvit.serving.server import BATCH_SIZES

PEERS = {
    "LitServe": """
import io, sys
import litserve, torch
from PIL import Image
import ffvit
class Api(litserve.LitAPI):
    def setup(self, device):
        self.predictor = ffvit.Predictor(sys.argv[1], engine=sys.argv[3], hardware=ffvit.Hardware(accelerator="cpu"))
    def decode_request(self, request):
        return self.predictor.prepare(request["content"].file.read())
    def batch(self, inputs):
        import numpy
        return numpy.stack(inputs)
    def predict(self, images):
        return self.predictor.run(images)
    def unbatch(self, output):
        return list(output)
    def encode_response(self, logits):
        (said,) = self.predictor.predictions(logits[None], ["image"])
        return {"classes": said.classes, "probabilities": said.probabilities}
if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=int(sys.argv[4]), batch_timeout=0.005), accelerator="cpu")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="error")
""",
    "Gradio": """
import sys
import gradio
import ffvit
predictor = ffvit.Predictor(sys.argv[1], engine=sys.argv[3], hardware=ffvit.Hardware(accelerator="cpu"))
def predict(image):
    (said,) = predictor(image)
    return dict(zip(said.classes, said.probabilities))
app = gradio.Interface(predict, gradio.Image(type="pil"), gradio.Label(), api_name="predict")
app.launch(server_name="127.0.0.1", server_port=int(sys.argv[2]), quiet=True, max_threads=40)
""",
}
BOUNDARY = b"--frontier\r\n"


def main(
    *,
    network: str = "ff_tiny_patch16_224",
    engine: str = "torch",
    seconds: float = 600.0,
    clients: int = 32,
    peers: Path | None = None,
) -> None:
    """Measure a server under load.

    Args:
        network: Its name; the weights are drawn.
        engine: What computes.
        seconds: Time of the load; peers get a tenth of it.
        clients: How many ask at once.
        peers: A folder (`pip install --target`) with litserve and gradio. Default: none are measured.
    """
    content = photograph()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "network.safetensors")
        torch.manual_seed(0)
        ffvit.save_weights(weights, ffvit.create_model(network), None)
        predictor = ffvit.Predictor(weights, engine=engine, hardware=ffvit.Hardware(accelerator="cpu"))
        size = BATCH_SIZES["cpu"]
        print(
            f"{network}, {engine}, {available_cores()} cores, batches of up to {size}, {clients} clients, {seconds:g} s"
        )
        before = offline(predictor, content, size)
        command = [sys.executable, "-m", "ffvit", "serve", str(weights), "--engine", engine, "--accelerator", "cpu"]
        port = free_port()
        measured = {
            "ffvit serve": measure([*command, "--port", str(port)], port, predict_request(content), seconds, clients)
        }
        if peers is not None:
            for name, script in PEERS.items():
                port = free_port()
                file = Path(folder, f"{name}.py")  # LitServe's processes import it again
                file.write_text(script, encoding="utf-8")
                command = [sys.executable, str(file), str(weights), str(port), engine, str(size)]
                request = (
                    gradio_request(Path(folder), content) if name == "Gradio" else predict_request(content, b"content")
                )
                environment = {
                    "PYTHONPATH": f"{peers}:{os.environ.get('PYTHONPATH', '')}",
                    "GRADIO_TEMP_DIR": folder,
                }
                measured[name] = measure(command, port, request, seconds / 10, clients, environment)
        after = offline(predictor, content, size)
        files, alone = (max(pair) for pair in zip(before, after, strict=True))
        table(measured, [files, alone, size / alone])


def photograph() -> bytes:
    """A JPEG of a common size."""
    file = io.BytesIO()
    Image.fromarray(load_sample_image("flower.jpg")).resize((500, 375)).save(file, "JPEG")
    return file.getvalue()


def offline(predictor: ffvit.Predictor, content: bytes, size: int, batches: int = 8) -> tuple[float, float]:
    """Images per second from files, and of the network alone."""
    pixels = np.stack([predictor.prepare(content)] * size)
    predictor.run(pixels)
    alone = []
    for _ in range(batches):
        start = time.perf_counter()
        predictor.run(pixels)
        alone.append(time.perf_counter() - start)
    with ThreadPoolExecutor(min(4, available_cores())) as threads:
        start = time.perf_counter()
        for _ in range(batches):
            predictor.run(np.stack(list(threads.map(predictor.prepare, [content] * size))))
        whole = time.perf_counter() - start
    return batches * size / whole, size / float(np.median(alone))


def predict_request(content: bytes, field: bytes = b"file") -> bytes:
    """A form with a file, as curl sends it."""
    part = (
        b'Content-Disposition: form-data; name="%s"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n' % field
    )
    body = BOUNDARY + part + content + b"\r\n--frontier--\r\n"
    return post(b"/predict", b"multipart/form-data; boundary=frontier", body)


def gradio_request(folder: Path, content: bytes) -> bytes:
    """Gradio takes the path of an image that was uploaded: of one in the folder of uploads."""
    path = folder / "photo.jpg"
    path.write_bytes(content)
    body = {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]}
    return post(b"/gradio_api/run/predict", b"application/json", json.dumps(body).encode())


def post(path: bytes, kind: bytes, body: bytes) -> bytes:
    """A request."""
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (path, kind, len(body)) + body


def measure(
    command: list[str],
    port: int,
    request: bytes,
    seconds: float,
    clients: int,
    environment: dict[str, str] | None = None,
) -> dict[str, float]:
    """Start a server, load it, end it."""
    process = subprocess.Popen(
        command, env=os.environ | (environment or {}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return asyncio.run(load(port, request, seconds, clients, psutil.Process(process.pid)))
    except (OSError, asyncio.IncompleteReadError, TimeoutError, RuntimeError) as error:
        print(f"not measured: {' '.join(command[1:4])}: {error!r}")
        return {}
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in psutil.wait_procs(children, timeout=5)[1]:  # LitServe's outlive it, and would take from the next
            child.kill()


async def load(port: int, request: bytes, seconds: float, clients: int, process: psutil.Process) -> dict[str, float]:
    """Ask from several clients for some time."""
    for _ in range(6000):
        try:
            if await ask(*await asyncio.open_connection("127.0.0.1", port), request) == 200:
                break
        except OSError:
            if process.status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError("the server ended at its start") from None
        await asyncio.sleep(0.1)
    else:
        raise RuntimeError("the server did not come to answer")
    times: list[float] = []
    lost = 0
    memory = [memory_of(process)]
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal lost
        pair = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                ok = await ask(*pair, request) == 200
            except (OSError, asyncio.IncompleteReadError):
                ok, pair = False, await asyncio.open_connection("127.0.0.1", port)
            lost += not ok
            times.append(time.perf_counter() - start)

    async def watch() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(min(5, seconds / 4))
            memory.append(memory_of(process))

    start = time.perf_counter()
    await asyncio.gather(watch(), *(client() for _ in range(clients)))
    took = time.perf_counter() - start
    p50, p99 = np.percentile(times, [50, 99])
    return {"rate": len(times) / took, "p50": p50, "p99": p99, "lost": lost, "requests": len(times),
            "first": memory[min(1, len(memory) - 1)], "last": memory[-1], "most": max(memory)}  # fmt: skip


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request, and read its response: the status."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, found, rest = head.partition(b"content-length: ")
    if found:
        await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    else:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return int(head.split()[1])


def memory_of(process: psutil.Process) -> float:
    """Bytes that a process and its children have in memory."""
    return float(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def table(measured: dict[str, dict[str, float]], rates: list[float]) -> None:
    """Print what was measured."""
    files, network, batch = rates
    print(
        f"\noffline: {files:.1f} images/s from files, {network:.1f} images/s of the network alone, a batch {1000 * batch:.0f} ms\n"
    )
    print(
        "| server | images/s | share of offline | share of the network alone | p50 | p99 | p99 / batch | requests | lost | memory after start, at the end, most |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, got in measured.items():
        if got:
            memory = ", ".join(f"{got[key] / 2**20:.0f}" for key in ("first", "last", "most"))
            print(
                f"| {name} | {got['rate']:.1f} | {100 * got['rate'] / files:.0f} % | {100 * got['rate'] / network:.0f} % | "
                f"{1000 * got['p50']:.0f} ms | {1000 * got['p99']:.0f} ms | {got['p99'] / batch:.1f} | "
                f"{got['requests']:,.0f} | {got['lost']:.0f} | {memory} MiB |"
            )


if __name__ == "__main__":
    run(main)
