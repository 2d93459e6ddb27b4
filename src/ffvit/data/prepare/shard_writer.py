"""Writes shards in worker processes, and keeps what is known of each finished one until all are."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffvit.data.images import BadImageError, LabeledImages, Labels
from ffvit.data.prepare.packing import Encoding, pack
from ffvit.data.prepare.plan import RESUME, PlannedShard, packing_order
from ffvit.data.shards.index import Shard
from ffvit.files.atomic_write import atomic_path
from ffvit.signals import WARNINGS

DONE = ".done"
"""Folder of what is known of each finished shard."""


class BadImage(NamedTuple):
    """An image that was left out, and why."""

    image: str
    reason: str


class _StoppedError(Exception):
    """The work is to stop at once."""


class ShardWriter:
    """Writes shards, in worker processes that share what it holds: they are forked."""

    def __init__(self, out: Path, encoding: Encoding, splits: dict[str, LabeledImages], prefix: str) -> None:
        self.out, self.encoding, self.splits, self.prefix = out, encoding, splits, prefix
        self.context = multiprocessing.get_context("fork")
        self.orders: dict[str, Labels] = {split: packing_order(len(images)) for split, (images, _) in splits.items()}
        self.counts: Any = self.context.Array("q", 2)  # images so far, and of these the unreadable ones
        self.stop = self.context.Event()

    def write(self, shard: PlannedShard) -> list[BadImage]:
        """Write a shard, and then what is known of it, which makes it done; and return the images that it leaves out."""
        bad: list[BadImage] = []

        def on_image(error: BadImageError | None) -> None:
            if error is not None:
                bad.append(BadImage(error.name, error.reason))
            with self.counts.get_lock():
                self.counts[0] += 1
                self.counts[1] += error is not None
            if self.stop.is_set():
                raise _StoppedError

        path = self.out / shard.file
        indices = self.orders[shard.split][shard.begin : shard.end]
        images = self.splits[shard.split].images
        try:
            with atomic_path(path, RESUME) as temporary:
                packed = pack(temporary, shard.file, images, indices, shard.begin, self.encoding, self.prefix, on_image)
        except _StoppedError:
            return bad
        if not len(packed.records):  # each of its images was left out
            path.unlink()
            packed = packed._replace(size=0)
        _write_done(self.out, packed, bad)
        return bad


_writer: ShardWriter
"""The one of a worker process."""


def start_worker(writer: ShardWriter) -> None:
    """Begin a worker process: it writes shards with this writer, and ends with the process that started it."""
    global _writer
    _writer = writer
    for number in WARNINGS:  # a forked process has its parent's handlers
        signal.signal(number, signal.SIG_DFL)
    parent: Any = multiprocessing.parent_process()

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def write_shard(shard: PlannedShard) -> list[BadImage]:
    """In a worker process: see `ShardWriter.write`."""
    return _writer.write(shard)


def _write_done(out: Path, shard: Shard, bad: Sequence[BadImage]) -> None:
    """Write down what is known of a finished shard."""
    info = json.dumps({"size": shard.size, "bad": bad})
    with atomic_path(out / DONE / f"{shard.file}.npz", RESUME) as temporary, temporary.open("wb") as file:
        np.savez(file, info=np.array(info), records=shard.records, names=np.frombuffer(shard.names, np.uint8))


def read_done(out: Path, file: str) -> tuple[Shard, list[BadImage]] | None:
    """What is known of a shard, and the images that it leaves out; None if it is not finished."""
    try:
        with np.load(out / DONE / f"{file}.npz") as done:
            info = json.loads(str(done["info"]))
            shard = Shard(file, info["size"], done["records"], done["names"].tobytes())
        is_whole = not shard.size or (out / file).stat().st_size == shard.size
        return (shard, [BadImage(*bad) for bad in info["bad"]]) if is_whole else None
    except Exception:  # damaged archives fail in many ways; it is packed again
        return None
