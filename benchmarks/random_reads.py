"""Random reads of images in Parquet: from its row groups, by `datasets`, and from the plain tar that ffvit unpacks it into.

python benchmarks/random_reads.py

On JPEGs of 110 kB, in row groups of 100. `datasets` is left out where it is not installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from make_photographs import write_photographs
from script import run

from ffvit.data.shards.local import PARQUET, open_files

ROW_GROUP = 100


def main(*, images: int = 3000, seconds: float = 5.0) -> None:
    """Write, open and read."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "photos", images)
        paths = sorted((Path(folder) / "photos").rglob("*.jpg"))
        file = Path(folder) / "photos.parquet"
        table = {"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
        pq.write_table(pa.table(table), file, row_group_size=ROW_GROUP)
        print("| read from | to open it once | random reads |\n|---|---|---|")
        for name, opened in {"row groups": _row_groups, "`datasets`": _datasets, "the unpacked tar": _tar}.items():
            if name == "`datasets`" and find_spec("datasets") is None:
                continue
            start = perf_counter()
            read = opened(file)
            prepared = perf_counter() - start
            print(f"| {name} | {prepared:.1f} s | {_rate(read, images, seconds):,.0f} images/s |", flush=True)


def _row_groups(file: Path) -> Callable[[int], bytes]:
    table = pq.ParquetFile(file)
    return lambda number: table.read_row_group(number // ROW_GROUP, ["image"])["image"][number % ROW_GROUP].as_py()


def _datasets(file: Path) -> Callable[[int], bytes]:
    import datasets

    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(file.parent / "cache"))
    return lambda number: rows[number]["image"]


def _tar(file: Path) -> Callable[[int], bytes]:
    images = open_files(file, PARQUET)["train"].images
    return images.read  # type: ignore[return-value]


def _rate(read: Callable[[int], bytes], images: int, seconds: float) -> float:
    draws = np.random.default_rng(0)
    start, count = perf_counter(), 0
    while perf_counter() - start < seconds:
        read(int(draws.integers(images)))
        count += 1
    return count / (perf_counter() - start)


if __name__ == "__main__":
    run(main)
