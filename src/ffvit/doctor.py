"""Whether this machine can train: what each part of it is, what is wrong with it, and what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import multiprocessing
import os
import platform
import resource
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

IMPORTED = (
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
)
"""Libraries that are made of compiled parts, or depend on such: that they are installed does not mean that they load."""

SHARED_MEMORY = 1.0
DISK = 5.0
MEMORY = 2.0
"""GiB free below which training may get into trouble."""

START_TIMEOUT = 120.0
"""Seconds that a new process may take to answer."""


class Finding(NamedTuple):
    """What a check found: in a few words, and what to do if it is not fine."""

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
        count = {status: sum(its.status == status for its in self.findings.values()) for status in STYLES}
        told = f"{count['broken']} broken, {count['warning']} to look at"
        end = told if count["broken"] or count["warning"] else "Everything is fine."
        return Group(table, Text(f"\n{end}", style="bold"))


def examine(folder: Path) -> Checkup:
    """Check this machine.

    Args:
        folder: Where runs will be written.
    """
    checks: dict[str, Callable[[], Finding]] = {
        "Python": _python,
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
    return Checkup({name: _done(check) for name, check in checks.items()})


def _done(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # whatever a broken machine raises is what was looked for
        return Finding(
            "broken", f"{type(error).__name__}: {error}", "Mend this first; the message is the library's own."
        )


def _python() -> Finding:
    words = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("ok", f"{words}, ffvit {__version__}")


def _versions() -> Finding:
    try:
        wrong = list(_wrong_versions())
    except importlib.metadata.PackageNotFoundError:
        return Finding("warning", "ffvit runs from its sources, not installed", "pip install --editable .")
    if wrong:
        return Finding("broken", "; ".join(wrong), "pip install --upgrade ffvit")
    shown = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "timm", "numpy")
    )
    return Finding("ok", shown)


def _wrong_versions() -> Iterator[str]:
    for line in importlib.metadata.requires("ffvit") or ():
        required = Requirement(line)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(required.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{required.name} is not installed"
            continue
        if not required.specifier.contains(found, prereleases=True):
            yield f"{required.name} is {found}, ffvit needs {required.specifier}"


def _libraries() -> Finding:
    failed = []
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a library whose compiled part does not fit raises nearly anything
            failed.append(f"{name}: {error}")
    if failed:
        return Finding("broken", "; ".join(failed), "Install these again, with versions made for each other.")
    return Finding("ok", f"{', '.join(IMPORTED)} load")


def _device() -> Finding:
    import torch

    from ffvit.config.hardware import Hardware
    from ffvit.hardware.devices import device_type

    device = torch.device(device_type(Hardware()))
    ones = torch.ones(64, 64, device=device)
    if (ones @ ones).sum().item() != 64**3:
        return Finding("broken", f"{device.type}: a matrix product came out wrong", "Do not train on this machine.")
    if device.type == "cuda":
        free, whole = (each / 2**30 for each in torch.cuda.mem_get_info())
        words = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {free:.0f} of {whole:.0f} GiB free"
        if free < whole / 2:
            return Finding("warning", words, "Another process uses the GPU: nvidia-smi lists it.")
        return Finding("ok", words)
    if device.type == "cpu" and Path("/proc/driver/nvidia/version").exists():
        return Finding(
            "warning",
            f"CPU, though there is an NVIDIA driver: PyTorch {torch.__version__} sees no GPU",
            "Install PyTorch for CUDA (pytorch.org), or update the driver; in Docker: --gpus all.",
        )
    return Finding("ok", "CPU, no GPU" if device.type == "cpu" else device.type)


def _threads() -> Finding:
    import torch

    from ffvit.hardware.devices import available_cores

    words = f"{available_cores()} cores for this process, of {os.cpu_count()}; PyTorch computes in {torch.get_num_threads()} threads"
    if 2 * torch.get_num_threads() <= available_cores():
        return Finding("warning", words, "Training would be slow: unset OMP_NUM_THREADS and MKL_NUM_THREADS.")
    if torch.get_num_threads() > available_cores():
        return Finding("warning", words, f"Threads wait for each other: set OMP_NUM_THREADS={available_cores()}.")
    return Finding("ok", words)


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    words = f"{free:.1f} GiB of {psutil.virtual_memory().total / 2**30:.1f} GiB available"
    if free < MEMORY:
        return Finding(
            "warning", words, "End other programs, or train with a smaller --micro-batch and fewer --workers."
        )
    return Finding("ok", words)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108 (where Linux keeps shared memory)
    if not folder.is_dir():
        return Finding("ok", "not limited on this system")
    free = shutil.disk_usage(folder).free / 2**30
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2**20))
    if free < SHARED_MEMORY:
        return Finding(
            "warning",
            f"{1024 * free:,.0f} MiB free in {folder}",
            "Loading processes hand over images there: docker run --shm-size 2g, or train with --workers 0.",
        )
    return Finding("ok", f"{free:.1f} GiB free in {folder}")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"whole")
    free = shutil.disk_usage(there).free / 2**30
    words = f"{free:,.1f} GiB free in {there}"
    if free < DISK:
        return Finding("warning", words, "A run needs 20 times its weights, checkpoints included: free some space.")
    return Finding("ok", words)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    words = f"up to {soft:,} a process" if soft != resource.RLIM_INFINITY else "not limited"
    if soft != resource.RLIM_INFINITY and soft < 1024:
        return Finding("warning", words, f"Many loading processes need more: ulimit -n {min(4096, hard)}.")
    return Finding("ok", words)


def _processes() -> Finding:
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_TIMEOUT) or ours.recv() != "here":
            raise EOFError
    except (EOFError, OSError):
        process.kill()
        return Finding(
            "broken", "a new process does not answer", "Look for limits on processes (ulimit -u); --workers 0."
        )
    process.join(START_TIMEOUT)
    return Finding("ok", f"a new one answers after {time.monotonic() - began:.1f} s")


def _answer(there: multiprocessing.connection.Connection) -> None:
    there.send("here")


def _images() -> Finding:
    import numpy as np
    import PIL.Image
    import simplejpeg

    grey = np.full((16, 16, 3), 128, np.uint8)
    encoded = io.BytesIO()
    PIL.Image.fromarray(grey).save(encoded, "JPEG", quality=95)
    if np.abs(simplejpeg.decode_jpeg(encoded.getvalue()).astype(int) - grey).max() > 2:
        return Finding("broken", "a JPEG is not decoded as it was encoded", "Install pillow and simplejpeg again.")
    return Finding("ok", f"JPEGs decode, with Pillow {PIL.__version__} and simplejpeg")


def doctor(folder: Path, console: Console) -> bool:
    """Check this machine and print what was found; returns whether something is broken."""
    with console.status("checking this machine"):
        checkup = examine(folder)
    console.print(checkup.report())
    return checkup.broken
