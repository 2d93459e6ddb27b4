"""What goes into which shard, settled before the first is written: so a prepare that was killed ends in the same bytes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffvit.data.images import BadImageError, Images, LabeledImages, Labels
from ffvit.data.prepare.packing import Encoding, size_in_tar
from ffvit.data.shards.index import PLAN
from ffvit.errors import DataError, RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.terminal import track

RESUME = "give the same command again to continue"
SAMPLE = 200
"""Images of each split that are encoded beforehand, to tell how many fill a shard."""


class PlannedShard(NamedTuple):
    """A shard to be written: some of its split's images, in the order of `packing_order`."""

    split: str
    file: str
    begin: int
    end: int


@dataclass(frozen=True)
class PackingPlan:
    """What is to be packed, and how.

    Attributes:
        source: Where the images come from.
        root: As in `Data.root`.
        max_side: As in `Encoding`.
        quality: As in `Encoding`.
        shard_size: MiB of a shard, about.
        images: How many each split has.
        per_shard: How many of each split go into a shard.
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

    def shards(self) -> Iterator[PlannedShard]:
        """What goes into each shard."""
        for split, count in self.images.items():
            for number, begin in enumerate(range(0, count, self.per_shard[split])):
                yield PlannedShard(split, f"{split}-{number:06d}.tar", begin, min(begin + self.per_shard[split], count))


def make_plan(
    source: str, root: Path | None, encoding: Encoding, shard_size: float, splits: dict[str, LabeledImages], out: Path
) -> PackingPlan:
    """The plan that the folder was begun with, if it is this one, or else a new one, which is written there.

    Raises:
        UserError: The folder was begun with another.
    """
    path = Path(source).expanduser()
    options: dict[str, Any] = {
        "source": str(path.resolve()) if path.exists() else source,
        "root": None if root is None else str(root.resolve()),
        **asdict(encoding),
        "shard_size": shard_size,
        "images": {split: len(images) for split, (images, _) in splits.items()},
        "checksum": _checksum(splits, name_prefix(source)),
    }
    if (out / PLAN).exists():
        plan = _read_plan(out)
        before = asdict(plan)
        changes = [_change(name, before[name], options[name]) for name in options if options[name] != before[name]]
        if changes:
            raise RunFolderError(
                f"{out}: was begun with other options: {'; '.join(dict.fromkeys(changes))}. Give the command as it was, or "
                "another folder, or --overwrite to replace what is there"
            )
        return plan
    per_shard = {split: _images_per_shard(images, encoding, shard_size) for split, (images, _) in splits.items()}
    plan = PackingPlan(per_shard=per_shard, **options)
    with atomic_path(out / PLAN, RESUME) as temporary:
        temporary.write_text(json.dumps(asdict(plan), indent=1) + "\n")
    return plan


def packing_order(count: int) -> Labels:
    """The images in the order they are packed in: shuffled, so that every shard holds a mix of classes."""
    return np.random.RandomState(0).permutation(count)  # its numbers never change with numpy's version


def name_prefix(source: str) -> str:
    """What the images' own names do not need to repeat: the folder of a source."""
    path = Path(source).expanduser()
    return os.path.join(path if path.is_dir() else path.parent, "") if path.exists() else ""  # noqa: PTH118 (the slash)


def _change(name: str, before: Any, now: Any) -> str:
    if name in ("images", "checksum"):
        return "the images of the source have changed"
    option = "the source" if name == "source" else f"--{name.replace('_', '-')}"
    was, is_now = ("not given" if value is None else value for value in (before, now))
    return f"{option} was {was}, and is {is_now}"


def _read_plan(out: Path) -> PackingPlan:
    try:
        return PackingPlan(**json.loads((out / PLAN).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        raise RunFolderError(f"{out / PLAN}: is damaged; begin again with --overwrite") from None


def _sample(images: Images) -> list[int]:
    return np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(np.int64)).tolist()


def _checksum(splits: dict[str, LabeledImages], prefix: str) -> int:
    """Of what tells these images from others, as far as that is quick to tell."""
    checksum = 0
    for split, (images, classes) in splits.items():
        names = (split, *classes, *(images.name(index).removeprefix(prefix) for index in _sample(images)))
        checksum = zlib.crc32("\0".join(names).encode(errors="surrogateescape"), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(images.labels).data, checksum)
    return checksum


def _images_per_shard(images: Images, encoding: Encoding, shard_size: float) -> int:
    """How many images fill a shard, by some of them."""
    sizes = []
    sample = _sample(images)
    for index in track(sample, "looking at some of the images"):
        try:
            sizes.append(size_in_tar(len(encoding.encode(images.read(index), images.name(index)).encoded)))
        except BadImageError as error:
            bad = error
    if not sizes:
        raise DataError(f"none of {len(sample):,} images tried can be read (the last: {bad})")
    return max(1, round(shard_size * 2**20 / float(np.mean(sizes))))
