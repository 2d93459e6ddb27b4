"""Packs images into shards; a prepare that was stopped continues, and ends in the bytes of one that was not.

Nothing in a shard depends on when or by which process it was written.
"""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ffvit.config.data import BAD_IMAGES, bad_image_limit
from ffvit.data.prepare.packing import MOST_PIXELS, Encoding
from ffvit.data.prepare.plan import RESUME, PackingPlan, make_plan, name_prefix
from ffvit.data.prepare.shard_writer import DONE, BadImage, ShardWriter, read_done, start_worker, write_shard
from ffvit.data.shards.index import INFO, PLAN, Shard, is_prepared, read_info, write_index, write_info
from ffvit.data.shards.reader import open_shards
from ffvit.data.sources import check_source, load_splits
from ffvit.errors import BadImagesError, OutputError, RunStoppedError, UserError, WorkerError
from ffvit.files.atomic_write import atomic_path, is_disk_full, remove_leftovers
from ffvit.files.csv_formulas import escape_formula
from ffvit.files.lock import FolderLock
from ffvit.hardware.devices import available_cores
from ffvit.signals import block_signals_in_children
from ffvit.terminal import Terminal

BAD_IMAGES_FILE = "bad_images.csv"

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Prepared:
    """What was made. `seconds` is None where it was there already."""

    folder: Path
    images: dict[str, int]
    shards: int
    bytes: int
    bad: int
    seconds: float | None

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} for {split}" for split, count in self.images.items())
        took = "all there already" if self.seconds is None else f"made in {self.seconds:,.0f} s"
        lines = [
            f"{self.folder}: {sum(self.images.values()):,} images ({counts}) in {self.shards:,} shards, "
            f"{self.bytes / 2**20:,.1f} MiB, {took}",
            f"to train on them: ffvit train --data {self.folder}",
        ]
        if self.bad:
            lines.insert(1, f"{self.bad:,} images cannot be read and were left out: {self.folder / BAD_IMAGES_FILE}")
        return "\n".join(lines)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    root: Path | None = None,
    max_side: int | None = None,
    quality: int | None = None,
    shard_size: float = 256.0,
    workers: int | None = None,
    bad_images: float = BAD_IMAGES,
    overwrite: bool = False,
    console: Console | None = None,
) -> Prepared:
    """Pack images into shards. Given again after it was stopped, it continues.

    Args:
        source: As in `Data.source`.
        out: A folder for the shards.
        root: As in `Data.root`.
        max_side: Images with a longer side are made this small. Default: none is.
        quality: Of the JPEGs that are encoded, 1 to 100. Given, every JPEG is encoded again; by default only what is
            made smaller is, with 90.
        shard_size: MiB of a shard, about.
        workers: Processes to work with. Default: one a core.
        bad_images: Unreadable images to leave out before it stops: below 1 a share, from 1 a number; see
            `ffvit.config.data.bad_image_limit`.
        overwrite: Replace what was prepared in the folder before.
        console: Where to show progress.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The disk is full, too many images cannot be read, or it was interrupted.
    """
    began = time.monotonic()
    source, out = str(source), Path(out)
    encoding = Encoding(max_side, quality)
    _check_options(source, out, encoding, shard_size)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written to ({error.strerror})") from None
    with FolderLock(out, "prepared folder"), _stops_explained(out):
        if overwrite:
            _clear(out)
        splits = load_splits(source, root)
        plan = make_plan(source, root, encoding, shard_size, splits, out)
        is_new = not (out / INFO).exists()
        if is_new:
            writer = ShardWriter(out, encoding, splits, name_prefix(source))
            _write_shards(plan, writer, workers or available_cores(), bad_images, console or Terminal())
            _write_index(plan, splits["train"].classes, out)
        shutil.rmtree(out / DONE, ignore_errors=True)
        return _summary(out, time.monotonic() - began if is_new else None)


def _check_options(source: str, out: Path, encoding: Encoding, shard_size: float) -> None:
    """Refuse what no prepare could do, before anything is touched."""
    if encoding.max_side is not None and not 1 <= encoding.max_side <= MOST_PIXELS:
        raise UserError(f"--max-side: must be from 1 to {MOST_PIXELS:,} pixels; got {encoding.max_side}")
    if encoding.quality is not None and not 1 <= encoding.quality <= 100:
        raise UserError(f"--quality: must be from 1 to 100; got {encoding.quality}")
    if not 0 < shard_size < 2**20:
        raise UserError(f"--shard-size: must be more than 0 MiB, and less than a TiB; got {shard_size:g}")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give a folder for the shards")
    check_source(source)
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 (never raises)
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{out}: lies in the source itself; give a folder outside of {source}")
    others = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if others and not is_prepared(out):
        raise OutputError(f"{out}: holds other things ({others[0]}); give a new folder")


@contextmanager
def _stops_explained(out: Path) -> Iterator[None]:
    """Say of whatever stops the work how to continue, and leave no half of a file."""
    kept = f"the finished shards in {out} are kept: {RESUME}"
    try:
        yield
    except KeyboardInterrupt:
        raise RunStoppedError(f"interrupted; {kept}") from None
    except BrokenProcessPool:
        hint = "was there too little memory? Fewer --workers need less"
        raise WorkerError(f"a worker process was killed ({hint}); {kept}") from None
    except OSError as error:
        what = "the disk is full" if is_disk_full(error) else f"{error.filename or out}: {error.strerror or error}"
        raise RunStoppedError(f"{what}; {kept}") from None
    finally:  # also what processes left that were killed before
        remove_leftovers(out)
        remove_leftovers(out / DONE)


def _clear(out: Path) -> None:
    """Remove what was prepared before, its plan last."""
    (out / INFO).unlink(missing_ok=True)
    shutil.rmtree(out / DONE, ignore_errors=True)
    for split in ("train", "val", "test"):
        for path in (*out.glob(f"{split}-*.tar"), out / f"{split}.index", out / f"{split}.names"):
            path.unlink(missing_ok=True)
    (out / BAD_IMAGES_FILE).unlink(missing_ok=True)
    (out / PLAN).unlink(missing_ok=True)


def _write_shards(plan: PackingPlan, writer: ShardWriter, workers: int, allowed: float, console: Console) -> None:
    """Write those shards that are not there yet, and list the images that cannot be read.

    Raises:
        RunStoppedError: More images than the limit cannot be read.
    """
    out = writer.out
    (out / DONE).mkdir(exist_ok=True)
    bad = {shard.file: done[1] for shard in plan.shards() if (done := read_done(out, shard.file)) is not None}
    to_write = [shard for shard in plan.shards() if shard.file not in bad]
    total, bad_before = sum(plan.images.values()), sum(map(len, bad.values()))
    limit = bad_image_limit(allowed, total)
    done_before = total - sum(shard.end - shard.begin for shard in to_write)
    executor = ProcessPoolExecutor(max(1, min(workers, len(to_write))), writer.context, start_worker, (writer,))
    futures = {}
    try:
        with block_signals_in_children():
            futures = {executor.submit(write_shard, shard): shard.file for shard in to_write}
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("packing images", total=total, completed=done_before)
            pending = set(futures)
            while True:
                count, bad_count = writer.counts.get_obj()  # without the lock, which a killed worker may hold
                bar.update(task, completed=done_before + count, refresh=True)
                if bad_before + bad_count > limit:
                    raise BadImagesError(
                        f"{bad_before + bad_count:,} images cannot be read, more than --bad-images {allowed:g} allows "
                        f"({limit:,} of {total:,}); they are listed in {out / BAD_IMAGES_FILE}. The finished shards are "
                        "kept: with a larger --bad-images it continues"
                    )
                if not pending:
                    break
                finished, pending = wait(pending, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
                for future in finished:
                    future.result()
    finally:
        writer.stop.set()
        executor.shutdown(cancel_futures=True)
        bad |= {
            file: future.result()
            for future, file in futures.items()
            if not future.cancelled() and not future.exception()
        }
        _list_bad(out, [image for shard in plan.shards() for image in bad.get(shard.file, [])])


def _list_bad(out: Path, bad: Sequence[BadImage]) -> None:
    if not bad:
        (out / BAD_IMAGES_FILE).unlink(missing_ok=True)
        return
    with (
        atomic_path(out / BAD_IMAGES_FILE, RESUME) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,  # names may be no UTF-8
    ):
        rows = csv.writer(file)
        rows.writerow(BadImage._fields)
        rows.writerows([escape_formula(cell) for cell in row] for row in bad)


def _write_index(plan: PackingPlan, classes: Sequence[str], out: Path) -> None:
    """Make one index of what is known of the shards, and say that all are there.

    Raises:
        RunStoppedError: A split has no image left.
    """

    def written(split: str) -> Iterator[Shard]:
        for shard in plan.shards():
            if shard.split == split and (done := read_done(out, shard.file)) is not None and len(done[0].records):
                yield done[0]

    splits = [write_index(out, split, written(split), RESUME) for split in plan.images]
    for split in splits:
        if not split.num_samples:
            raise BadImagesError(f"no image of {split.name} can be read; they are listed in {out / BAD_IMAGES_FILE}")
    write_info(out, classes, splits, asdict(plan), RESUME)


def _summary(out: Path, seconds: float | None) -> Prepared:
    open_shards(out)
    splits = read_info(out)[1]
    bad = 0
    if (out / BAD_IMAGES_FILE).exists():
        with (out / BAD_IMAGES_FILE).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            bad = sum(1 for _ in csv.DictReader(file))
    return Prepared(
        folder=out,
        images={name: split.num_samples for name, split in splits.items()},
        shards=sum(len(split.filenames) for split in splits.values()),
        bytes=sum(sum(split.shard_bytes) for split in splits.values()),
        bad=bad,
        seconds=seconds,
    )
