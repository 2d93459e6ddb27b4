"""A GPU's figures in one call of ten minutes at most: `python benchmarks/gpu.py`, where there is an NVIDIA GPU.

One after the other, so that no part slows another down, and the more important first:

1. `pytest -m gpu`: whether what is timed is right.
2. `benchmarks/network.py` in bf16: FF-tiny and FF-base predicting and training, beside the paper's code in the same mode and
   timm's networks, as a share of this GPU's matrix product.
3. `ffvit train` on a folder of JPEGs with DeiT's recipe: images per second of the last epoch, and how much of the time
   from the first busy moment to the last `nvidia-smi` saw the GPU at work. Validation and loading are in it.

A table of aims and what was reached comes at the end. A part that does not fit into the time is stopped, and named there.
Without a GPU, `--rehearse` runs the same on the processor with a small network, to see that all parts work; it says nothing
about a GPU, and no GPU is watched.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from make_photographs import write_photographs
from pydantic import PositiveFloat
from rich.console import Console
from script import run

import ffvit
from ffvit import UserError
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device
from ffvit.terminal import build_table

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Scale:
    """How much is measured: networks and how, photographs to train on, copies of each."""

    gpu: bool
    networks: tuple[str, ...]
    precision: str
    batch: int
    rounds: int
    seconds: float
    photographs: int
    copies: int
    epochs: int


GPU = Scale(
    True, ("ff_tiny_patch16_224", "ff_base_patch16_224"), "bf16", 256, 5, 0.3, photographs=512, copies=40, epochs=3
)
REHEARSAL = Scale(False, ("ff_tiny_patch16_224",), "fp32", 16, 1, 0.01, photographs=64, copies=1, epochs=1)


class Utilization:
    """Watches a GPU while in use: the percentages of `nvidia-smi`, each of the time since the one before."""

    def __init__(self) -> None:
        self.percentages: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Utilization:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._stop.wait(0.1):
            printed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
            if printed.isdecimal():  # some GPUs do not tell
                self.percentages.append(float(printed))

    @property
    def busy(self) -> str:
        """The share of the time, from the first busy moment to the last."""
        moments = [number for number, percentage in enumerate(self.percentages) if percentage > 0]
        if not moments:
            return "not seen by nvidia-smi"
        during = self.percentages[moments[0] : moments[-1] + 1]
        return f"{sum(during) / len(during):.0f} % of the time"


def main(
    *,
    minutes: PositiveFloat = 10.0,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    rehearse: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Test and time ffvit on this machine's GPU.

    Parameters
    ----------
    minutes
        Stop what is running then, and print what there is.
    json_file
        Write the aims and what was reached there.
    rehearse
        Run all parts on the processor, with a small network.
    """
    if rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    device = default_device()
    if device.type != "cuda" and not rehearse:
        raise UserError("there is no GPU here: `--rehearse` runs the same parts on the processor")
    if not rehearse and shutil.which("nvidia-smi") is None:
        raise UserError("nvidia-smi, which comes with the GPU's driver, is not on the PATH")
    if json_file and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json {json_file}: there is no folder {json_file.parent}")
    scale = REHEARSAL if rehearse else GPU
    end = time.monotonic() + 60 * minutes
    console = Console(highlight=False)
    where = f"{machine_name(device)}; torch {torch.__version__}, ffvit {ffvit.__version__}; {datetime.date.today()}"
    console.print(where, soft_wrap=True)
    reached: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for part in (_tests, _networks, _training):
            console.rule(part.__name__.strip("_"))
            try:
                reached += part(scale, Path(temporary), end)
            except subprocess.TimeoutExpired:
                reached.append((part.__name__.strip("_"), "-", f"not done within {minutes:g} minutes"))
            except subprocess.CalledProcessError as error:
                reached.append((part.__name__.strip("_"), "-", f"failed, exit status {error.returncode}: see above"))
    console.rule("aims")
    Console(width=160).print(build_table(("figure", "aim", "reached"), reached, markdown=True))
    if json_file:
        json_file.write_text(json.dumps({"where": where, "reached": reached}, indent=1) + "\n")


def _run(command: list[str], end: float) -> None:
    """Run a Python command in the repository, its output shown, until the time has come."""
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, timeout=max(end - time.monotonic(), 0.1), check=True)


def _tests(scale: Scale, _folder: Path, end: float) -> list[tuple[str, str, str]]:
    _run(["-m", "pytest", "-m", "gpu", "tests/test_gpu.py"], end)
    return [("`pytest -m gpu`", "no failure", "none failed" if scale.gpu else "all skipped, without a GPU")]


def _networks(scale: Scale, folder: Path, end: float) -> list[tuple[str, str, str]]:
    found = folder / "networks.json"
    measure = ["--batch", str(scale.batch), "--rounds", str(scale.rounds), "--seconds", str(scale.seconds)]
    _run(
        ["benchmarks/network.py", "--networks", *scale.networks, "--precisions", scale.precision, *measure, "--markdown",
         "--json", str(found)],
        end,
    )  # fmt: skip
    rows = [row for result in json.loads(found.read_text())["results"] for row in result["rows"]]
    aims = {
        ("ff_base_patch16_224", "train"): ("60 % of matmul", _share),
        ("ff_base_patch16_224", "predict"): ("75 % of matmul", _share),
        ("ff_tiny_patch16_224", "train"): ("3 x the paper's code in the same mode", _times),
    }
    reached = []
    for (network, work), (aim, shown) in aims.items():
        values = [f"{row['engine']} {shown(row)}" for row in rows if (row["network"], row["work"]) == (network, work)]
        if values:
            reached.append((f"{network}, {work}, {scale.precision}", aim, ", ".join(values)))
    return reached


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['utilization']:.0f} %"


def _times(row: dict[str, Any]) -> str:
    return f"{median(row['times_the_papers_code']):.2f} x"


def _training(scale: Scale, folder: Path, end: float) -> list[tuple[str, str, str]]:
    photographs = folder / "photographs"
    write_photographs(photographs / "train", scale.photographs)
    write_photographs(photographs / "val", 64, seed=1)
    write_photographs(photographs / "test", 64, seed=2)
    for photograph in sorted((photographs / "train").rglob("*.jpg")):
        for number in range(1, scale.copies):
            photograph.with_stem(f"{photograph.stem}_{number}").hardlink_to(photograph)
    out = folder / "run"
    command = ["-m", "ffvit", "train", scale.networks[-1], "--data", str(photographs), "--recipe", "deit", "--epochs",
               str(scale.epochs), "--batch-size", str(scale.batch), "--recipe.aug-repeats", "1", "--recipe.warmup-epochs", "0", "--precision",
               scale.precision, "--out", str(out)]  # fmt: skip
    if scale.gpu:
        with Utilization() as gpu:
            _run([*command, "--compile", "always"], end)
        busy = gpu.busy
    else:
        _run([*command, "--device", "cpu"], end)
        busy = "not watched, without a GPU"
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    reached = f"{busy}, {last['images_per_second']:,.0f} images/s"
    return [(f"`ffvit train` of {scale.networks[-1]} on JPEGs: GPU busy", "95 %", reached)]


if __name__ == "__main__":
    run(main)
