"""Groups of images that belong together: one patient, one burst, duplicates of one picture."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ffvit.config.data import NEAR_DUPLICATES, Data, parse_groups
from ffvit.data import lists
from ffvit.data.holdout import GroupNumbers
from ffvit.data.images import SPLIT_NAMES, FileImages, Images, LabeledImages
from ffvit.data.shards.reader import ShardImages
from ffvit.errors import DataError, did_you_mean
from ffvit.files.atomic_write import atomic_path

KEYWORDS = ("folder", "re:", NEAR_DUPLICATES)


@dataclass(frozen=True, eq=False)
class Groups:
    """Which images belong together.

    Attributes:
        what: For a person: what makes a group.
        of: The number of each image's group, by split.
        names: What each group is called: its value in the column or path, or its first image.
    """

    what: str
    of: dict[str, GroupNumbers]
    names: tuple[str, ...]


def find_groups(data: Data, splits: dict[str, LabeledImages]) -> Groups | None:
    """The groups that `data.groups` asks for, over all splits of the source; None if it asks for none.

    Raises:
        UserError: The groups cannot be found, are all one, or lie in two of the splits.
    """
    if data.groups is None:
        return None
    column, near = parse_groups(data.groups)
    if column is None:
        names = [_given_path(images, index) for images, _ in splits.values() for index in range(len(images))]
        numbers = np.arange(len(names))
    else:
        names = [value for images in splits.values() for value in _values(data.source, column, images)]
        numbers = pd.factorize(np.array(names, dtype=object))[0]
    what = " and ".join([repr(column)] * (column is not None) + [NEAR_DUPLICATES] * near)
    if near and numbers.any():
        numbers = _joined(numbers, _near_duplicates(data.source, splits))
    if not numbers.any():
        raise DataError(
            f"data.groups: by {what}, all {len(names):,} images of {data.source} are one group ({names[0]}), and no group "
            "is ever split apart; group by what differs between images that do not belong together"
        )
    _, first, numbers = np.unique(numbers, return_index=True, return_inverse=True)
    ends = np.cumsum([len(images) for images, _ in splits.values()])
    of = dict(zip(splits, np.split(numbers, ends[:-1]), strict=True))
    groups = Groups(what, of, tuple(names[index] for index in first))
    _check_disjoint(data.source, groups)
    return groups


def _values(source: str, column: str, labeled: LabeledImages) -> list[str]:
    """The value that each image of a split is grouped by."""
    images, classes = labeled
    by_path = column.startswith("re:")
    path = Path(source).expanduser()
    if not by_path and path.suffix.lower() in lists.SUFFIXES and isinstance(images, FileImages):
        values = lists.read_column(path, column)
        return [values[images.path(index)] for index in range(len(images))]
    if not by_path and column != "folder":
        raise DataError(
            f"data.groups: {source} is no list, so it has no column {column!r}{did_you_mean(column, KEYWORDS) or ';'} group its images by "
            f"folder, by re:PATTERN (of the path) or by {NEAR_DUPLICATES}, or list them (.csv, .parquet) with that column"
        )
    if not isinstance(images, FileImages | ShardImages):
        raise DataError(
            f"data.groups: the images of {source} have no paths, so {column!r} tells nothing of them; group them by "
            f"{NEAR_DUPLICATES}, or list them (.csv, .parquet) with a column for groups"
        )
    pattern = re.compile(column.removeprefix("re:") if by_path else r"^[^/]+/([^/]+)/")
    paths = [_path_from_class(images, index, classes) for index in range(len(images))]
    matches = [pattern.search(path) for path in paths]
    unmatched = [path for path, match in zip(paths, matches, strict=True) if not match]
    if unmatched:
        raise DataError(
            f"data.groups: {len(unmatched):,} of {len(paths):,} images of {source} "
            f"{f'do not match {column!r}' if by_path else 'lie in no folder below that of their class'} "
            f"(first: {unmatched[0]}); an image that belongs with no other needs a value of its own"
        )
    return ["/".join(group or "" for group in match.groups()) or match[0] for match in matches if match]


def _path_from_class(images: FileImages | ShardImages, index: int, classes: Sequence[str]) -> str:
    """An image's path from the folder of its class on, in shards too; or as a list or a tar of others gives it."""
    if isinstance(images, FileImages):
        return images.path(index).replace(os.sep, "/")
    path = images.name(index).split(":", 1)[1]
    split, _, below = path.partition("/")
    return below if split in SPLIT_NAMES and below.startswith(f"{classes[images.labels[index]]}/") else path


def _given_path(images: Images, index: int) -> str:
    return images.path(index) if isinstance(images, FileImages) else images.name(index)


def _joined(first: GroupNumbers, second: GroupNumbers) -> GroupNumbers:
    """Numbers that images share if one of the two numberings, or a chain of both, connects them."""
    offset, count = int(first.max()) + 1, int(first.max() + second.max()) + 2
    graph = coo_array((np.ones(len(first), dtype=bool), (first, offset + second)), shape=(count, count))
    numbers: GroupNumbers = connected_components(graph, directed=False)[1].astype(np.int64)[first]
    return numbers


def _near_duplicates(source: str, splits: dict[str, LabeledImages]) -> GroupNumbers:
    """Numbers that near-duplicates share, kept in ~/.cache/ffvit for the other runs of a study."""
    from ffvit.data.check.near_duplicates import (  # imports PyTorch, which the command line starts without
        AllImages,
        near_duplicates,
    )

    key = _content_key(splits)
    cached = Path.home() / ".cache" / "ffvit" / "near-duplicates" / f"{key}.npy"
    if key is not None:
        with suppress(OSError, ValueError):  # there is none yet, or it is damaged
            kept: GroupNumbers = np.load(cached)
            return kept
    numbers, incomplete = near_duplicates(AllImages(splits))
    if incomplete:
        raise DataError(
            f"data.groups: so many images of {source} look alike that not all near-duplicates can be found; look at some of "
            "them (ffvit check), and group by what makes them alike"
        )
    if key is not None:
        with suppress(OSError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(cached) as temporary, temporary.open("wb") as file:
                np.save(file, numbers)
    return numbers


def _content_key(splits: dict[str, LabeledImages]) -> str | None:
    """A name for these images as they are now; None where that would take reading them."""
    digest = hashlib.sha256()
    for images, _ in splits.values():
        if isinstance(images, ShardImages):
            digest.update(str(images.index).encode())
            digest.update(images.records.tobytes())
        elif isinstance(images, FileImages):
            for index in range(len(images)):
                with suppress(OSError):  # it is unreadable, and so like no other
                    name = images.name(index)
                    stat = os.stat(name)  # noqa: PTH116 (of a million)
                    entry = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
                    digest.update(entry.encode(errors="surrogateescape"))
        else:
            return None
    return digest.hexdigest()[:24]


def _check_disjoint(source: str, groups: Groups) -> None:
    """Raise an error if a group lies in two splits."""
    for first, second in combinations(groups.of, 2):
        counts = [np.bincount(groups.of[split], minlength=len(groups.names)) for split in (first, second)]
        shared = np.flatnonzero(counts[0] * counts[1])
        if len(shared):
            examples = [
                f"{groups.names[group]} ({counts[0][group]:,} and {counts[1][group]:,} images)" for group in shared[:3]
            ]
            more = f" and {len(shared) - 3:,} more" if len(shared) > 3 else ""
            raise DataError(
                f"data.groups: {len(shared):,} of {len(groups.names):,} groups by {groups.what} lie in both {first} and {second} of "
                f"{source}: {', '.join(examples)}{more}; leave their images out of {first}, or give all images unsplit, so "
                "that they are split by groups"
            )
