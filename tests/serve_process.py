"""`ffvit serve` in a process of its own, and what it serves."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import httpx2
import torch
from PIL import Image
from sklearn.datasets import load_digits

import ffvit
from commands import command, environment

TOKEN = "correct horse battery staple"
CPU = ffvit.Hardware(accelerator="cpu")
CLASSES = (*(f"digit {number}" for number in range(9)), "<img src=x onerror=alert(1)>")


def save_network(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    network = ffvit.create_model("ff_micro_patch2_8")
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    ffvit.save_weights(path, network, CLASSES, temperature=0.1)
    return path


def png(number: int = 0, size: int = 8) -> bytes:
    """A digit."""
    file = io.BytesIO()
    Image.fromarray((load_digits().images[number] * 15).astype("uint8")).resize((size, size)).save(file, "PNG")
    return file.getvalue()


class Server:
    """`ffvit serve` in a process of its own."""

    def __init__(self, *arguments: object, **variables: str) -> None:
        self.process = subprocess.Popen(
            command("serve", *arguments, "--port", 0),
            env=environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.readers = [threading.Thread(target=self._read, args=pair) for pair in
                        ((self.process.stdout, self.lines), (self.process.stderr, self.errors))]  # fmt: skip
        self.started = threading.Event()
        for reader in self.readers:
            reader.start()
        assert self.started.wait(300), self.errors
        self.port = int(re.findall(r"http://[^ ]*:(\d+)", self.lines[0])[0]) if self.lines else 0
        self.address = f"http://127.0.0.1:{self.port}"

    def _read(self, stream, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            if "serving on" in line:
                self.started.set()
        self.started.set()
        stream.close()

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, timeout=60)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        code = self.process.wait(60)
        for reader in self.readers:
            reader.join()
        return code
