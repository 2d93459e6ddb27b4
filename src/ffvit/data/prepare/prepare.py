"""Packing images into shards, checked and made small on the way; a stopped `prepare` goes on where it was.

What goes into which shard is settled before the first is written, and nothing in a shard depends on when or by which
process it was written: so a prepare that was killed and given again leaves the very bytes of one that was not.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ffvit.config import data
from ffvit.data.images import BadImageError, Images, LabeledImages, Labels
from ffvit.data.prepare.packing import MOST_PIXELS, Form, pack, room
from ffvit.data.prepare.worker_pool import GLANCE, ResultCounter, WorkerLostError, run_pool
from ffvit.data.progress import progress_bar
from ffvit.data.shards import index as shards
from ffvit.data.shards.index import INFO, PLAN, Shard
from ffvit.data.sources import check_source, load_splits
from ffvit.errors import BadImagesError, DataError, OutputError, RunFolderError, RunStoppedError, UserError, WorkerError
from ffvit.files.atomic_write import atomic_path, is_disk_full
from ffvit.files.csv_formulas import escape_formula
from ffvit.hardware.devices import available_cores
from ffvit.terminal import Terminal

GO_ON = "give the same command again to go on"
BAD_IMAGES = "bad_images.csv"
SAMPLE = 200
"""Images of each part that are looked at beforehand, to tell how many fill a shard."""

LOCK_PATIENCE = 2.0
"""Seconds that the workers of a prepare that was killed get to notice it."""

_LOCK = ".lock"
_DONE = ".done"
"""Folder of what is known of each finished shard, until all are."""


@dataclass(frozen=True)
class Plan:
    """What is to be done, settled before it begins.

    Attributes:
        source: Where the images come from.
        root: As in `Data.root`.
        max_side: As in `Form`.
        quality: As in `Form`.
        shard_size: MiB of a shard, about.
        images: How many each part has.
        per_shard: How many of each part go into a shard.
        checksum: Of the images' labels, and of some of their names.
    """

    source: str
    root: str | None
    max_side: int | None
    quality: int | None
    shard_size: float
    images: dict[str, int]
    per_shard: dict[str, int]
    checksum: int

    def pieces(self) -> Iterator[Piece]:
        """What goes into each shard."""
        for part, count in self.images.items():
            for number, begin in enumerate(range(0, count, self.per_shard[part])):
                yield Piece(part, f"{part}-{number:06d}.tar", begin, min(begin + self.per_shard[part], count))


class Piece(NamedTuple):
    """A shard to be: some of its part's images, in the order that they are packed in."""

    part: str
    file: str
    begin: int
    end: int


class Bad(NamedTuple):
    """An image that was left out, and why."""

    image: str
    reason: str


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
        counts = ", ".join(f"{count:,} for {part}" for part, count in self.images.items())
        took = "all there already" if self.seconds is None else f"made in {self.seconds:,.0f} s"
        lines = [
            f"{self.folder}: {sum(self.images.values()):,} images ({counts}) in {self.shards:,} shards, "
            f"{self.bytes / 2**20:,.1f} MiB, {took}",
            f"to train on them: ffvit train --data {self.folder}",
        ]
        if self.bad:
            lines.insert(1, f"{self.bad:,} images cannot be read and were left out: {self.folder / BAD_IMAGES}")
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
    bad_images: float = data.BAD_IMAGES,
    overwrite: bool = False,
    console: Console | None = None,
) -> Prepared:
    """Pack images into shards. Given again after it was stopped, it goes on.

    Args:
        source: As in `Data.source`.
        out: A folder for the shards.
        root: As in `Data.root`.
        max_side: Images with a longer side are made this small. Default: none is.
        quality: Of the JPEGs that are encoded, 1 to 100. Given, every JPEG is encoded anew; by default only what is
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
    form = Form(max_side, quality)
    _check(source, out, form, shard_size)
    with _locked(out), _stopping(out):
        if overwrite:
            _clear(out)
        parts = load_splits(source, root)
        plan = _planned(source, root, form, shard_size, parts, out)
        new = not (out / INFO).exists()
        if new:
            display = console or Terminal()
            _write_shards(plan, form, parts, _base(source), out, workers or available_cores(), bad_images, display)
            _finish(plan, parts["train"].classes, out)
        shutil.rmtree(out / _DONE, ignore_errors=True)
        return _prepared(out, time.monotonic() - began if new else None)


def _check(source: str, out: Path, form: Form, shard_size: float) -> None:
    """Refuse what no prepare could do, before anything is touched."""
    if form.max_side is not None and not 1 <= form.max_side <= MOST_PIXELS:
        raise UserError(f"--max-side: must be from 1 to {MOST_PIXELS:,} pixels; got {form.max_side}")
    if form.quality is not None and not 1 <= form.quality <= 100:
        raise UserError(f"--quality: must be from 1 to 100; got {form.quality}")
    if not 0 < shard_size < 2**20:
        raise UserError(f"--shard-size: must be more than 0 MiB, and less than a TiB; got {shard_size:g}")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give a folder for the shards")
    check_source(source)
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 (never raises)
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{out}: lies in the source itself; give a folder outside of {source}")
    others = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if others and not shards.is_prepared(out):
        raise OutputError(f"{out}: holds other things ({others[0]}); give a new folder")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep others from preparing in the folder meanwhile; the lock goes with the last process that works in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / _LOCK).open("w")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written to ({error.strerror})") from None
    with file:
        patience = time.monotonic() + LOCK_PATIENCE
        while not _lock(file):
            if time.monotonic() > patience:
                raise OutputError(f"{out}: another `ffvit prepare` is working in it: wait for it, or end it")
            time.sleep(0.1)
        _clean(out)
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _stopping(out: Path) -> Iterator[None]:
    """Say of whatever stops the work how to go on, and leave no half of a file."""
    try:
        yield
    except KeyboardInterrupt:
        raise RunStoppedError(f"interrupted; the finished shards in {out} are kept: {GO_ON}") from None
    except WorkerLostError as error:
        raise WorkerError(f"{error}; the finished shards in {out} are kept: {GO_ON}") from None
    except OSError as error:
        what = "the disk is full" if is_disk_full(error) else f"{error.filename or out}: {error.strerror or error}"
        raise RunStoppedError(f"{what}; the finished shards in {out} are kept: {GO_ON}") from None
    finally:
        _clean(out)


def _clean(out: Path) -> None:
    """Remove what a process that was killed was writing."""
    for folder in (out, out / _DONE):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _clear(out: Path) -> None:
    """Remove what was prepared before, its plan last."""
    (out / INFO).unlink(missing_ok=True)
    shutil.rmtree(out / _DONE, ignore_errors=True)
    for part in ("train", "val", "test"):
        for path in (*out.glob(f"{part}-*.tar"), out / f"{part}.index", out / f"{part}.names"):
            path.unlink(missing_ok=True)
    (out / BAD_IMAGES).unlink(missing_ok=True)
    (out / PLAN).unlink(missing_ok=True)


def _planned(
    source: str, root: Path | None, form: Form, shard_size: float, parts: dict[str, LabeledImages], out: Path
) -> Plan:
    """The plan that the folder was begun with, if it is this one, or else a new one.

    Raises:
        UserError: The folder was begun with another.
    """
    path = Path(source).expanduser()
    given: dict[str, Any] = {
        "source": str(path.resolve()) if path.exists() else source,
        "root": None if root is None else str(root.resolve()),
        **asdict(form),
        "shard_size": shard_size,
        "images": {part: len(images) for part, (images, _) in parts.items()},
        "checksum": _checksum(parts, _base(source)),
    }
    if (out / PLAN).exists():
        plan = _read_plan(out)
        before = asdict(plan)
        if changed := {_told(name, before[name], given[name]): None for name in given if given[name] != before[name]}:
            raise RunFolderError(
                f"{out}: was begun otherwise: {'; '.join(changed)}. Give the command as it was, or another folder, or "
                "--overwrite to replace what is there"
            )
        return plan
    per_shard = {part: _per_shard(images, form, shard_size) for part, (images, _) in parts.items()}
    plan = Plan(per_shard=per_shard, **given)
    with atomic_path(out / PLAN, GO_ON) as temporary:
        temporary.write_text(json.dumps(asdict(plan), indent=1) + "\n")
    return plan


def _told(name: str, before: Any, now: Any) -> str:
    if name in ("images", "checksum"):
        return "the images of the source have changed"
    option = "the source" if name == "source" else f"--{name.replace('_', '-')}"
    was, is_now = ("not given" if value is None else value for value in (before, now))
    return f"{option} was {was}, and is {is_now}"


def _read_plan(out: Path) -> Plan:
    try:
        return Plan(**json.loads((out / PLAN).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        raise RunFolderError(f"{out / PLAN}: is damaged; begin again with --overwrite") from None


def _order(count: int) -> Labels:
    """The images in the order they are packed in: shuffled, so that every shard holds a mix of classes."""
    return np.random.RandomState(0).permutation(count)  # its numbers never change with numpy's version


def _sample(images: Images) -> list[int]:
    return np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(np.int64)).tolist()


def _checksum(parts: dict[str, LabeledImages], base: str) -> int:
    """Of what tells these images from others, as far as that is quick to tell."""
    checksum = 0
    for part, (images, classes) in parts.items():
        names = (part, *classes, *(images.name(index).removeprefix(base) for index in _sample(images)))
        checksum = zlib.crc32("\0".join(names).encode(errors="surrogateescape"), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(images.labels).data, checksum)
    return checksum


def _per_shard(images: Images, form: Form, shard_size: float) -> int:
    """How many images fill a shard, by some of them."""
    sizes = []
    sample = _sample(images)
    for index in progress_bar(sample, "looking at some of the images"):
        try:
            sizes.append(room(len(form.applied(images.read(index), images.name(index)).encoded)))
        except BadImageError as error:
            bad = error
    if not sizes:
        raise DataError(f"none of {len(sample):,} images tried can be read (the last: {bad})")
    return max(1, round(shard_size * 2**20 / float(np.mean(sizes))))


def _write_shards(
    plan: Plan,
    form: Form,
    parts: dict[str, LabeledImages],
    base: str,
    out: Path,
    workers: int,
    allowed: float,
    console: Console,
) -> None:
    """Write those shards that are not there yet.

    Raises:
        RunStoppedError: More images than the limit cannot be read.
    """
    (out / _DONE).mkdir(exist_ok=True)
    before: list[Bad] = []
    pieces: list[Piece] = []
    for piece in plan.pieces():
        if (bad := _bad_of(out, piece.file)) is None:
            pieces.append(piece)
        else:
            before += bad
    _list_bad(out, before, new=True)
    orders = {part: _order(count) for part, count in plan.images.items()}

    def write(piece: Piece, tally: ResultCounter) -> None:
        """In a worker: write a shard, and then what is known of it, which makes it done."""
        bad: list[Bad] = []

        def seen(error: BadImageError | None) -> None:
            if error is not None:
                bad.append(Bad(error.name, error.reason))
                _list_bad(out, bad[-1:])
            tally.add(good=error is None)

        with atomic_path(out / piece.file, GO_ON) as temporary:
            images, indices = parts[piece.part].images, orders[piece.part][piece.begin : piece.end]
            shard = pack(temporary, piece.file, images, indices, piece.begin, form, base, seen)
        if not len(shard.records):  # each of its images was left out
            (out / piece.file).unlink()
            shard = shard._replace(size=0)
        _write_done(out, shard, bad)

    total = sum(plan.images.values())
    limit = data.bad_image_limit(allowed, total)
    done = total - sum(piece.end - piece.begin for piece in pieces)
    began = time.monotonic()
    with _bar(console) as bar:
        task = bar.add_task("packing images", total=total, completed=done, rate="")

        def watch(tallies: Sequence[ResultCounter]) -> None:
            good, bad = sum(tally.good for tally in tallies), sum(tally.bad for tally in tallies)
            rate = f"{(good + bad) / max(time.monotonic() - began, GLANCE):,.0f} images/s"
            bar.update(task, completed=done + good + bad, rate=rate, refresh=True)
            if len(before) + bad > limit:
                raise BadImagesError(
                    f"{len(before) + bad:,} images cannot be read, more than --bad-images {allowed:g} allows ({limit:,} of "
                    f"{total:,}); they are listed in {out / BAD_IMAGES}. The finished shards are kept: with a larger "
                    "--bad-images it goes on"
                )

        watch([])
        run_pool(pieces, write, min(workers, len(pieces)), watch)


def _base(source: str) -> str:
    """What the images' own names do not need to repeat: where a folder or a list lies."""
    path = Path(source).expanduser()
    return os.path.join(path if path.is_dir() else path.parent, "") if path.exists() else ""  # noqa: PTH118 (the slash)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        expand=True,
        auto_refresh=False,  # by a thread, which forked processes would not have
    )


def _list_bad(out: Path, bad: Sequence[Bad], new: bool = False) -> None:
    if new and not bad:
        (out / BAD_IMAGES).unlink(missing_ok=True)
        return
    # A file name need not be UTF-8.
    with (out / BAD_IMAGES).open("w" if new else "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        if not file.tell():
            rows.writerow(Bad._fields)
        rows.writerows([escape_formula(str(cell)) for cell in row] for row in bad)


def _write_done(out: Path, shard: Shard, bad: Sequence[Bad]) -> None:
    """Write down what is known of a finished shard."""
    said = json.dumps({"size": shard.size, "bad": bad})
    with atomic_path(out / _DONE / f"{shard.file}.npz", GO_ON) as temporary, temporary.open("wb") as file:
        np.savez(file, said=np.array(said), records=shard.records, names=np.frombuffer(shard.names, np.uint8))


def _bad_of(out: Path, file: str) -> list[Bad] | None:
    """The images that a finished shard leaves out; None if it is not finished."""
    try:
        with np.load(out / _DONE / f"{file}.npz") as known:
            said = json.loads(str(known["said"]))
        whole = not said["size"] or (out / file).stat().st_size == said["size"]
        return [Bad(*bad) for bad in said["bad"]] if whole else None
    except Exception:  # damaged archives fail in many ways; it is packed anew
        return None


def _read_done(out: Path, file: str) -> Shard:
    with np.load(out / _DONE / f"{file}.npz") as known:
        return Shard(file, json.loads(str(known["said"]))["size"], known["records"], known["names"].tobytes())


def _finish(plan: Plan, classes: Sequence[str], out: Path) -> None:
    """Make one index of what is known of the shards, and say that all are there.

    Raises:
        RunStoppedError: A part has no image left.
    """

    def written(part: str) -> Iterator[Shard]:
        for piece in plan.pieces():
            if piece.part == part:
                shard = _read_done(out, piece.file)
                if len(shard.records):
                    yield shard

    splits = [shards.write_index(out, part, written(part), GO_ON) for part in plan.images]
    for split in splits:
        if not split.num_samples:
            raise BadImagesError(f"no image of {split.name} can be read; they are listed in {out / BAD_IMAGES}")
    _list_bad(out, [bad for piece in plan.pieces() for bad in _bad_of(out, piece.file) or []], new=True)
    shards.write_info(out, classes, splits, asdict(plan), GO_ON)


def _prepared(out: Path, seconds: float | None) -> Prepared:
    shards.open_shards(out)
    splits = shards.read_info(out)[1]
    return Prepared(
        folder=out,
        images={part: split.num_samples for part, split in splits.items()},
        shards=sum(len(split.filenames) for split in splits.values()),
        bytes=sum(sum(split.shard_bytes) for split in splits.values()),
        bad=_count_bad(out),
        seconds=seconds,
    )


def _count_bad(out: Path) -> int:
    if not (out / BAD_IMAGES).exists():
        return 0
    with (out / BAD_IMAGES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return sum(1 for _ in csv.DictReader(file))
