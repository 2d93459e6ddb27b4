"""How fast images are read, beside timm's loader and bare decoding: `python benchmarks/data.py`, `--help` for options.

Measured on one core, in one process, on the same JPEGs (see photographs.py): images a second that come out of a loader as
batches of bytes, ready to go to a device, where normalising and erasing follow in both. Every round measures each row's
two sides one after the other; a ratio is taken within a round, and the median over rounds is printed with the lowest and the
highest. Files are read once before, so they come from memory: this is about the processor, not the disk. The process keeps
the memory that it frees, as in `ffvit train`, for both sides.
DeiT's recipe shows three views of an image in a batch (repeated augmentation); "every image once" is without that.

Below it: preparing shards, and what sets of millions and a billion images cost in memory and time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one core is what is measured; before numpy and torch look

import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import PIL
import simplejpeg
import timm
import torch
from cyclopts import Parameter
from make_photographs import write_photographs
from pydantic import PositiveInt
from rich import box
from rich.console import Console
from rich.table import Table
from script import spread
from timm.data import auto_augment as timms
from timm.data import create_dataset, create_loader

import ffvit
from ffvit.config.data import Data
from ffvit.config.preprocess import Preprocess
from ffvit.data import augmentation
from ffvit.data.images import Images
from ffvit.data.loader import evaluation_loader, training_loader
from ffvit.data.sampler import EpochOrder, TrainingOrder
from ffvit.data.shards.index import FORMAT, INFO, RECORD, VERSION, Split
from ffvit.data.shards.reader import ShardFolder, open_index
from ffvit.data.splits import open_splits
from ffvit.data.transforms import evaluation_transform, training_transform
from ffvit.hardware.devices import keep_freed_memory
from ffvit.profiling.hardware_peak import processor_name

IMAGE = 224, 224
BATCH = 128  # as DeiT's on each GPU
MEAN = 0.485, 0.456, 0.406
DEIT = ffvit.config.recipe.named_recipe("deit").replace(batch_size=BATCH, mixup_group_size=BATCH)
ONCE = DEIT.replace(aug_repeats=1)
PLAIN = ffvit.Recipe(batch_size=BATCH, mixup_group_size=BATCH, crop_scale=(0.08, 1.0))

timms.NAME_TO_OP["PosterizeIncreasing"] = augmentation.posterize  # timm's stops at an image it cannot posterize


def main(
    *,
    images: PositiveInt = 512,
    rounds: PositiveInt = 7,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure how fast images are read.

    Parameters
    ----------
    images
        Photographs to make, and to read in each measurement.
    rounds
        How often everything is measured.
    json_file
        Write every round's numbers there.
    markdown
        Print the tables in Markdown.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch, Console(stderr=True).status("making photographs") as status:
        folder, shards = Path(scratch) / "photographs", Path(scratch) / "shards"
        write_photographs(folder / "train", images)
        write_photographs(folder / "val", images // 2, seed=1)
        status.update("preparing shards")
        command = [sys.executable, "-m", "ffvit", "prepare", folder, shards, "--max-side", "500", "--quality", "90"]
        subprocess.run([*command, "--workers", "1"], check=True, stdout=subprocess.DEVNULL)
        sides = _sides(folder, shards)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name, side in sides.items():
                status.update(f"round {number + 1} of {rounds}: {name}")
                rates[name].append(_rate(side))
        status.update("large sets")
        large = _large(Path(scratch))
    console = Console(width=200 if markdown else None if sys.stdout.isatty() else 100, highlight=False)
    where = (
        f"{processor_name()}, one core; torch {torch.__version__}, timm {timm.__version__}, Pillow {PIL.__version__}, "
        f"ffvit {ffvit.__version__}; {images} JPEGs of 500 x 375; {rounds} rounds; {datetime.date.today()}"
    )
    console.print(where, soft_wrap=markdown)
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown, collapse_padding=not markdown)
    table.add_column("a core", overflow="fold")
    for head in ("images/s", "times timm's", "% of bare decoding"):
        table.add_column(head, justify="right", no_wrap=True)
    bare = rates[BARE]
    for name, rate in rates.items():
        peer = next((rates[f"timm: {what}"] for what in WHAT if what in name and not name.startswith("timm")), None)
        table.add_row(name, spread(rate, 0), _ratio(rate, peer, 1, 2) if peer else "", _ratio(rate, bare, 100, 0))
    console.print(table)
    for line in large:
        console.print(line, soft_wrap=True)
    if json_file:
        json_file.write_text(json.dumps({"where": where, "images_per_second": rates, "large": large}, indent=1) + "\n")


BARE = "bare decoding (libjpeg-turbo, whole image)"
WHAT = ("DeiT's recipe", "crop and flip", "evaluation")


def _sides(folder: Path, shards: Path) -> dict[str, Callable[[], int]]:
    """What is measured: each call reads all images once and hands back how many."""
    encoded = [path.read_bytes() for path in sorted((folder / "train").rglob("*.jpg"))]
    ours = open_splits(Data(source=str(folder), validation=0.0))
    from_shards = open_splits(Data(source=str(shards), validation=0.0))

    def bare(height: int = 0, width: int = 0) -> int:
        for jpeg in encoded:
            simplejpeg.decode_jpeg(jpeg, min_height=height, min_width=width)
        return len(encoded)

    return {
        BARE: bare,
        "the entropy code of it (decoded at an eighth of the size)": partial(bare, 47, 63),
        "timm: DeiT's recipe": _timms(folder, is_training=True, auto_augment=DEIT.auto_augment, re_prob=0.25),
        "DeiT's recipe, from a folder": _training(ours.train, DEIT),
        "DeiT's recipe, from a folder, every image once": _training(ours.train, ONCE),
        "DeiT's recipe, every image once, exact pixels": _training(ours.train, ONCE.replace(exact="always")),
        "DeiT's recipe, from shards (500 px, quality 90)": _training(from_shards.train, DEIT),
        "DeiT's recipe, from shards, every image once": _training(from_shards.train, ONCE),
        "timm: crop and flip": _timms(folder, is_training=True),
        "crop and flip, from a folder": _training(ours.train, PLAIN),
        "crop and flip, from shards (500 px, quality 90)": _training(from_shards.train, PLAIN),
        "timm: evaluation": _timms(folder, is_training=False, crop_pct=0.875),
        "evaluation, from a folder": _evaluation(ours.test, exact=False),
        "evaluation, from a folder, exact pixels": _evaluation(ours.test, exact=True),
    }


def _timms(folder: Path, is_training: bool, **options: Any) -> Callable[[], int]:
    dataset = create_dataset("", root=str(folder), split="train" if is_training else "val")
    loader = create_loader(
        dataset, 224, BATCH, is_training=is_training, interpolation="bicubic", re_mode="pixel", num_workers=0,
        persistent_workers=False, device=torch.device("cpu"), **({"color_jitter": None} if is_training else {}), **options,
    )  # fmt: skip
    return lambda: sum(len(images) for images, _ in loader.loader)  # before what timm does on the device


def _training(images: Images, recipe: ffvit.Recipe) -> Callable[[], int]:
    order = TrainingOrder(len(images), 0, BATCH, BATCH, recipe.aug_repeats)
    transform = training_transform(recipe, Preprocess(img_size=IMAGE, mean=MEAN))
    loader = training_loader(images, transform, (3, *IMAGE), order, 0, 0)
    epochs = iter(range(10**9))

    def read() -> int:
        order.epoch = next(epochs)
        return sum(len(batch.indices) for batch in loader)

    return read


def _evaluation(images: Images, exact: bool) -> Callable[[], int]:
    transform = evaluation_transform(Preprocess(img_size=IMAGE, pixel_backend="pillow" if exact else "fast"))
    loader = evaluation_loader(images, transform, (3, *IMAGE), BATCH, 0)
    return lambda: sum(len(batch.indices) for batch in loader)


def _rate(side: Callable[[], int]) -> float:
    began = time.perf_counter()
    return side() / (time.perf_counter() - began)


def _large(scratch: Path) -> list[str]:
    """What sets too large to make cost: their order and their index."""
    order = EpochOrder(10**9, 0, 0)
    before, began = _memory(), time.perf_counter()
    for at in range(0, 10**8, 10**6):
        order.at(np.arange(at, at + 1024))
    seconds = (time.perf_counter() - began) / 100
    said = [
        f"The order of 1,000,000,000 images: the next 1,024 take {1e3 * seconds:.2f} ms, and {_memory() - before:.1f} MiB."
    ]
    folder = scratch / "large"
    _write_index(folder, 14_000_000)
    out = subprocess.run([sys.executable, __file__, "open-index", folder], check=True, capture_output=True, text=True)
    seconds, shared, own = map(float, out.stdout.split())
    return [
        *said,
        f"The index of 14,000,000 images: opened in {seconds:.2f} s; {shared:,.0f} MiB shared by all processes, and "
        f"{own:.0f} MiB more for each of 4 that read from it.",
    ]


def _write_index(folder: Path, count: int, shards: int = 7000) -> None:
    """The index of a set whose shards are not there."""
    folder.mkdir()
    per_shard = count // shards
    records = np.zeros(count, RECORD)
    place = np.arange(count)
    records["shard"], records["offset"], records["length"] = (
        place // per_shard,
        place % per_shard * 112_640 + 512,
        110_000,
    )
    records["label"], records["name_end"] = place % 21_841, 30 * (place + 1)
    np.save(folder / "train.npy", records)
    (folder / "train.npy").rename(folder / "train.index")
    with (folder / "train.names").open("wb") as file:
        for at in range(0, count, 10**6):
            file.write(b"n01440764/n01440764_000000.jpg" * min(10**6, count - at))
    files = [f"train-{number:06}.tar" for number in range(shards)]
    split = Split(
        "train", count, tuple(files), (per_shard,) * shards, (per_shard * 112_640,) * shards, zlib.crc32(records.data)
    )
    info = {"format": FORMAT, "version": VERSION, "classes": [str(n) for n in range(21_841)]}
    os.sync()  # pages not on the disk yet would count as a process's own
    (folder / INFO).write_text(json.dumps(info | {"splits": {"train": asdict(split)}}))


def _open_index(folder: Path) -> None:
    """Open it as training does, and have four processes read from it; prints seconds and MiB."""
    before, began = _pages()["Rss"], time.perf_counter()
    images = open_index(folder, partial(ShardFolder, folder))["train"].images
    seconds = time.perf_counter() - began
    shared = _pages()["Rss"] - before
    own = []
    for _ in range(4):  # as a loader starts its workers: what they have from this process is not copied
        to_parent, from_worker = os.pipe()
        if not (worker := os.fork()):
            for index in range(0, len(images), 1000):
                images.name(index)
            os.write(from_worker, str(_pages()["Private_Dirty"]).encode())
            os._exit(0)
        os.waitpid(worker, 0)
        own.append(int(os.read(to_parent, 99)))
    print(seconds, shared / 1024, max(own) / 1024)


def _pages() -> dict[str, int]:
    """This process's memory in KiB, by kind (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(size) for name, size, *_ in map(str.split, lines)}


def _memory() -> float:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _ratio(values: Iterable[float], base: Iterable[float], times: float, decimals: int) -> str:
    return spread([times * value / one for value, one in zip(values, base, strict=True)], decimals)


if __name__ == "__main__":
    if sys.argv[1:2] == ["open-index"]:
        _open_index(Path(sys.argv[2]))
    else:
        cyclopts.run(main)
