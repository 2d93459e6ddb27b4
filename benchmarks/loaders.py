"""Loaders of images beside each other on all cores: `python benchmarks/loaders.py`, `--help` for options.

ffvit's, timm's, torchvision's transforms on what torchcodec decodes, SPDL (threads, which decode by torchcodec too) and DALI
on the processor. All do the same work on the same JPEGs: an area of 8 to 100 % of an image, resized to 224 x 224 with
antialiasing, mirrored in half of the cases, as batches of bytes. Each is measured in a fresh process, in turns, with
one loading process (or thread) for each core; one epoch is read before the clock starts. What is not installed is left out:
`pip install torchcodec spdl nvidia-dali-cuda120`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from make_photographs import write_photographs
from pydantic import PositiveInt
from rich.console import Console
from script import run, spread

from ffvit.hardware.devices import available_cores
from ffvit.profiling.hardware_peak import machine_name
from ffvit.terminal import build_table, track

SIDE = 224
BATCH = 64
AREA = 0.08, 1.0
ASPECT = 3 / 4, 4 / 3
EPOCHS = 3

Epoch = Callable[[], Iterator[int]]
"""Reads every image once, and yields the number of images of each batch."""


def main(*, images: PositiveInt = 1024, rounds: PositiveInt = 5) -> None:
    """Measure each loader.

    Parameters
    ----------
    images
        Photographs to make.
    rounds
        How often each is measured, each time in a fresh process.
    """
    screen = Console(stderr=True)
    names = [name for name, (_, packages) in LOADERS.items() if all(map(importlib.util.find_spec, packages))]
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        with screen.status("making photographs"):
            write_photographs(Path(folder, "train"), images)
        for _ in track(range(rounds), "measuring", screen):
            for name in names:
                command = [sys.executable, __file__, "measure", name, folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                start, rate = map(float, done.stdout.split()[-2:])
                took[name].append((start, rate))
    print(f"{machine_name(torch.device('cpu'))}; {images} JPEGs of 500 x 375; {rounds} rounds\n")
    rows = []
    for name in names:
        starts, rates = zip(*took[name], strict=True)
        ratios = [rate / timms for rate, (_, timms) in zip(rates, took["timm"], strict=True)]
        rows.append((name, spread(rates, 0), spread(ratios, 2), spread(starts, 2)))
    headings = ("loader", "images/s", "times timm's", "until the first batch, s")
    Console(width=200).print(build_table(headings, rows, markdown=True))


def ffvits(folder: Path) -> Epoch:
    """ffvit's loader, as `ffvit train` uses it."""
    import ffvit
    from ffvit.config.data import Data
    from ffvit.config.preprocess import Preprocess
    from ffvit.data.loader import training_loader
    from ffvit.data.sampler import TrainingOrder
    from ffvit.data.splits import open_splits
    from ffvit.data.transforms import training_transform

    images = open_splits(Data(source=str(folder), validation=0.0)).train
    recipe = ffvit.Recipe(batch_size=BATCH, mixup_group_size=BATCH, crop_scale=AREA, crop_ratio=ASPECT)
    order = TrainingOrder(len(images), 0, BATCH, BATCH, 1)
    transform = training_transform(recipe, Preprocess(img_size=(SIDE, SIDE)))
    loader = training_loader(images, transform, (3, SIDE, SIDE), order, 0, available_cores())

    def epoch() -> Iterator[int]:
        for batch in loader:
            yield len(batch.indices)
        order.epoch += 1

    return epoch


def timms(folder: Path) -> Epoch:
    """timm's, as its train.py makes it, before what it does on the device."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder), split="train"), SIDE, BATCH, is_training=True, scale=AREA, ratio=ASPECT,
        interpolation="bicubic", color_jitter=None, num_workers=available_cores(), device=torch.device("cpu"),
    )  # fmt: skip
    return lambda: (len(images) for images, _ in loader.loader)


def torchcodecs(folder: Path) -> Epoch:
    """PyTorch's loader over what torchcodec decodes."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _Decoded(_files(folder)),
        BATCH,
        shuffle=True,
        num_workers=available_cores(),
        persistent_workers=True,
        drop_last=True,
    )
    return lambda: (len(images) for images in loader)


def spdls(folder: Path) -> Epoch:
    """SPDL's pipeline of threads over the same decoding."""
    from spdl.pipeline import PipelineBuilder

    dataset = _Decoded(_files(folder))

    def epoch() -> Iterator[int]:
        pipeline = (
            PipelineBuilder()
            .add_source(torch.randperm(len(dataset)).tolist())
            .pipe(dataset.__getitem__, concurrency=available_cores())
            .aggregate(BATCH, drop_last=True)
            .pipe(torch.stack)
            .add_sink(4)
            .build(num_threads=available_cores())
        )
        with pipeline.auto_stop():
            for batch in pipeline:
                yield len(batch)

    return epoch


def dalis(folder: Path) -> Epoch:
    """NVIDIA's loader on the processor: it decodes only what it crops."""
    from nvidia.dali import fn, pipeline_def, types

    files = _files(folder)

    @pipeline_def(batch_size=BATCH, num_threads=available_cores(), device_id=None)
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(files=files, random_shuffle=True)
        cut = fn.decoders.image_random_crop(
            encoded, device="cpu", output_type=types.RGB, random_area=AREA, random_aspect_ratio=ASPECT
        )
        cut = fn.resize(cut, size=(SIDE, SIDE), interp_type=types.INTERP_CUBIC, antialias=True)
        return fn.flip(cut, horizontal=fn.random.coin_flip())

    built = pipeline()
    built.build()
    return lambda: (len(built.run()[0]) for _ in range(len(files) // BATCH))


class _Decoded(torch.utils.data.Dataset[torch.Tensor]):
    """Images decoded by torchcodec, cropped and mirrored by torchvision on bytes."""

    def __init__(self, files: list[str]) -> None:
        from torchvision.transforms import InterpolationMode, v2

        self.files = files
        cubic = InterpolationMode.BICUBIC
        self.transform = v2.Compose([v2.RandomResizedCrop(SIDE, AREA, ASPECT, cubic), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchcodec.decoders import decode_jpeg

        image: torch.Tensor = self.transform(decode_jpeg(self.files[index], mode="RGB"))
        return image


LOADERS: dict[str, tuple[Callable[[Path], Epoch], list[str]]] = {
    "ffvit": (ffvits, []),
    "timm": (timms, []),
    "torchcodec and torchvision": (torchcodecs, ["torchcodec"]),
    "SPDL, with torchcodec and torchvision": (spdls, ["spdl", "torchcodec"]),
    "DALI": (dalis, ["nvidia", "nvidia.dali"]),
}


def measure(name: str, folder: Path) -> None:
    """In a fresh process: print the seconds until the first batch, and images per second of the epochs after one."""
    began = time.perf_counter()
    torch.set_num_threads(1)  # processes and threads that load make use of the cores
    epoch = LOADERS[name][0](folder)
    first = epoch()
    next(first)
    start = time.perf_counter() - began
    for _ in first:
        pass
    began = time.perf_counter()
    count = sum(sum(epoch()) for _ in range(EPOCHS))
    print(start, count / (time.perf_counter() - began), flush=True)
    os._exit(0)  # what threads of others still do is not measured


def _files(folder: Path) -> list[str]:
    return sorted(map(str, (folder / "train").rglob("*.jpg")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        run(main)
