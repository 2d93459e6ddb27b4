"""`ffvit doctor`: whether this machine can train, what is wrong with it, and what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit import __version__

Status = Literal["ok", "warning", "broken"]
STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "broken": "bold red"}

LIBRARIES = [
    "torch",
    "torchvision",
    "timm",
    "lightning_fabric",
    "cv2",
    "simplejpeg",
    "PIL",
    "scipy",
    "sklearn",
    "pandas",
]
"""Libraries with compiled code: that they are installed does not mean that they can be imported."""

SHARED_MEMORY = 1.0
DISK = 5.0
MEMORY = 2.0
"""GiB free, below which training may fail."""

OPEN_FILES = 1024
"""Open files per process, below which many loading processes may fail."""

START_TIMEOUT = 120.0
"""Seconds that a new process may take to answer."""


class Finding(NamedTuple):
    """The result of a check: in a few words, and what to do if it is not ok."""

    status: Status
    words: str
    advice: str = ""


@dataclass(frozen=True)
class Checkup:
    """All findings by the name of what was checked."""

    findings: dict[str, Finding]

    @property
    def broken(self) -> bool:
        """Whether something will not work."""
        return any(finding.status == "broken" for finding in self.findings.values())

    def report(self) -> RenderableType:
        """For `rich.console.Console().print`, at 80 columns and without colour."""
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, finding in self.findings.items():
            words = Text(finding.words)
            if finding.advice:
                words.append(f"\n{finding.advice}", "italic")
            table.add_row(Text(finding.status, STYLES[finding.status]), Text(name), words)
        statuses = [finding.status for finding in self.findings.values()]
        broken, warnings = statuses.count("broken"), statuses.count("warning")
        end = (
            f"{broken} broken, {warnings} warning{'s' * (warnings != 1)}"
            if broken or warnings
            else "Everything is fine."
        )
        return Group(table, Text(f"\n{end}", style="bold"))


def doctor(folder: Path, console: Console) -> bool:
    """Check this machine and print the findings; returns whether something is broken."""
    with console.status("checking this machine"):
        checkup = examine(folder)
    console.print(checkup.report())
    return checkup.broken


def examine(folder: Path) -> Checkup:
    """Check this machine.

    Args:
        folder: Where runs will be written.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "system": _system,
        "versions": _versions,
        "libraries": _libraries,
        "device": _device,
        "threads": _threads,
        "memory": _memory,
        "shared memory": _shared_memory,
        "disk": lambda: _disk(folder),
        "cache": lambda: _disk(Path.home() / ".cache" / "ffvit"),
        "temporary files": lambda: _disk(Path(tempfile.gettempdir())),
        "open files": _open_files,
        "processes": _processes,
        "images": _images,
    }
    return Checkup({name: _run(check) for name, check in checks.items()})


def _run(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a broken machine may raise anything
        return Finding(
            "broken", f"{type(error).__name__}: {error}", "Fix this first; the message is the library's own."
        )


def _ok_unless(warning: bool, words: str, advice: str) -> Finding:
    return Finding("warning", words, advice) if warning else Finding("ok", words)


def _system() -> Finding:
    words = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, ffvit {__version__}"
    if platform.system() not in ("Linux", "Darwin"):
        return Finding("broken", words, "ffvit runs on Linux and macOS; on Windows, use it inside WSL.")
    return Finding("ok", words)


def _versions() -> Finding:
    try:
        wrong = list(_wrong_versions())
    except importlib.metadata.PackageNotFoundError:
        return Finding("warning", "ffvit runs from its sources, not installed", "pip install --editable .")
    if wrong:
        return Finding("broken", "; ".join(wrong), "pip install --upgrade ffvit")
    names = ("torch", "torchvision", "timm", "numpy")
    return Finding("ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))


def _wrong_versions() -> Iterator[str]:
    for line in importlib.metadata.requires("ffvit") or ():
        required = Requirement(line)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(required.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{required.name} is not installed"
            continue
        if not required.specifier.contains(version, prereleases=True):
            yield f"{required.name} is {version}, ffvit needs {required.specifier}"


def _libraries() -> Finding:
    failed = []
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception as error:  # compiled code that does not fit may raise anything
            failed.append(f"{name}: {error}")
    if failed:
        return Finding("broken", "; ".join(failed), "Reinstall these, in versions made for each other.")
    return Finding("ok", f"{', '.join(LIBRARIES)} can be imported")


def _device() -> Finding:
    import torch

    from ffvit.config.hardware import Hardware
    from ffvit.hardware.devices import device_type

    device = torch.device(device_type(Hardware()))
    ones = torch.ones(64, 64, device=device)
    if (ones @ ones).sum().item() != 64**3:
        return Finding("broken", f"{device.type}: a matrix product is wrong", "Do not train on this machine.")
    if device.type == "cuda":
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
        words = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {free:.0f} of {total:.0f} GiB free"
        return _ok_unless(free < total / 2, words, "Another process uses the GPU: nvidia-smi lists it.")
    if device.type == "cpu" and Path("/proc/driver/nvidia/version").exists():
        return Finding(
            "warning",
            f"CPU, although there is an NVIDIA driver: PyTorch {torch.__version__} sees no GPU",
            "Install PyTorch for CUDA (pytorch.org), or update the driver; in Docker: --gpus all.",
        )
    return Finding("ok", "CPU, no GPU" if device.type == "cpu" else device.type)


def _threads() -> Finding:
    import torch

    from ffvit.hardware.devices import available_cores

    cores, threads = available_cores(), torch.get_num_threads()
    words = f"{cores} cores for this process, of {os.cpu_count()}; PyTorch computes in {threads} threads"
    if 2 * threads <= cores:
        return Finding("warning", words, "Training would be slow: unset OMP_NUM_THREADS and MKL_NUM_THREADS.")
    return _ok_unless(threads > cores, words, f"Threads wait for each other: set OMP_NUM_THREADS={cores}.")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    words = f"{memory.available / 2**30:.1f} GiB of {memory.total / 2**30:.1f} GiB available"
    advice = "Close other programs, or train with a smaller --micro-batch and fewer --workers."
    return _ok_unless(memory.available < MEMORY * 2**30, words, advice)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108 (where Linux keeps shared memory)
    if not folder.is_dir():
        return Finding("ok", "not limited on this system")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2**20))
    free = shutil.disk_usage(folder).free / 2**20
    advice = "Loading processes hand over images there: docker run --shm-size 2g, or train with --workers 0."
    return _ok_unless(free < SHARED_MEMORY * 2**10, f"{free:,.0f} MiB free in {folder}", advice)


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing) as file:
        file.write(b"test")
    free = shutil.disk_usage(existing).free / 2**30
    advice = "A run needs 20 times its weights, checkpoints included: free some space."
    return _ok_unless(free < DISK, f"{free:,.1f} GiB free in {existing}", advice)


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("ok", "not limited")
    advice = f"Many loading processes need more: ulimit -n {min(4 * OPEN_FILES, hard)}."
    return _ok_unless(soft < OPEN_FILES, f"up to {soft:,} per process", advice)


def _processes() -> Finding:
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=sender.send, args=("started",), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(START_TIMEOUT) or receiver.recv() != "started":
            raise EOFError
    except (EOFError, OSError):
        process.kill()
        return Finding(
            "broken", "a new process does not answer", "Look for limits on processes (ulimit -u); --workers 0."
        )
    process.join(START_TIMEOUT)
    return Finding("ok", f"a new one answers after {time.monotonic() - start:.1f} s")


def _images() -> Finding:
    import numpy as np
    import PIL.Image
    import simplejpeg

    grey = np.full((16, 16, 3), 128, np.uint8)
    encoded = io.BytesIO()
    PIL.Image.fromarray(grey).save(encoded, "JPEG", quality=95)
    if np.abs(simplejpeg.decode_jpeg(encoded.getvalue()).astype(int) - grey).max() > 2:
        return Finding("broken", "a JPEG is decoded to wrong pixels", "Reinstall pillow and simplejpeg.")
    return Finding("ok", f"JPEGs decode, with Pillow {PIL.__version__} and simplejpeg")
