"""Groups of images that belong together (one patient, one burst, copies of one picture), and splits that keep them whole."""

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
from jaxtyping import Bool, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ffvit.config.data import NEAR_DUPLICATES, Data, parse_groups
from ffvit.data import lists
from ffvit.data.folders import PARTS
from ffvit.data.images import FileImages, Images, LabeledImages, Labels
from ffvit.data.shards.reader import ShardImages
from ffvit.errors import DataError, did_you_mean
from ffvit.files.atomic_write import atomic_path

WORDS = ("folder", "re:", NEAR_DUPLICATES)

ATTEMPTS = 10
"""Orders in which groups are drawn before a split that gives every split every class counts as impossible."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Which images belong together.

    Attributes:
        what: For a person: what makes a group.
        of: The group of each image, by the part that the data brings, as its place among the names.
        names: What each group is called: its value in the column or path, or its first image.
    """

    what: str
    of: dict[str, Int64[np.ndarray, " images"]]
    names: tuple[str, ...]


def find_groups(data: Data, brought: dict[str, LabeledImages]) -> Groups | None:
    """The groups that `data.groups` asks for, over all parts that the data brings; None if it asks for none.

    Raises:
        UserError: The groups cannot be found, are all one, or lie in two of the parts.
    """
    if data.groups is None:
        return None
    brought = {
        part: brought[part] for part in ("train", "val", "test") if part in brought
    }  # a list names them in any order
    column, near = parse_groups(data.groups)
    if column is None:
        names = [_given_path(images, index) for images, _ in brought.values() for index in range(len(images))]
        numbers = np.arange(len(names))
    else:
        names = [value for part in brought.values() for value in _values(data.source, column, part)]
        numbers = pd.factorize(np.array(names, dtype=object))[0]
    what = " and ".join(each for each in (column and repr(column), near and NEAR_DUPLICATES) if each)
    if near and numbers.any():
        numbers = _joined(numbers, _near_duplicates(data.source, brought))
    if not numbers.any():
        raise DataError(
            f"data.groups: by {what}, all {len(names):,} images of {data.source} are one group ({names[0]}), and no group "
            "is ever split apart; group by what differs between images that do not belong together"
        )
    _, first, numbers = np.unique(numbers, return_index=True, return_inverse=True)
    of = dict(
        zip(brought, np.split(numbers, np.cumsum([len(part.images) for part in brought.values()])[:-1]), strict=True)
    )
    groups = Groups(what, of, tuple(names[index] for index in first))
    _check_parts(data.source, groups)
    return groups


def hold_out_groups(
    labels: Labels,
    groups: Int64[np.ndarray, " images"],
    wanted: Int64[np.ndarray, " classes"],
    leave: int,
    seed: int,
    classes: Sequence[str],
) -> Bool[np.ndarray, " images"]:
    """Which images to hold out: whole groups drawn at random, as near to the number wanted of each class as they come.

    Groups are gone through in random order; each is taken (or put back) where that brings the numbers nearer to those
    wanted, by the sum over classes of (taken - wanted)^2 / wanted. Every class gives at least one group and keeps at
    least `leave`. Groups of one image each come to exactly the numbers wanted.

    Raises:
        UserError: No such split was found.
    """
    _, groups = np.unique(groups, return_inverse=True)
    pairs, counts = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    contents: list[list[tuple[int, int]]] = [[] for _ in range(int(groups.max()) + 1)]
    for group, label, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        contents[group].append((label, count))
    draw = np.random.RandomState(seed)  # its numbers never change with numpy's version
    for _ in range(ATTEMPTS):
        order = draw.permutation(len(contents)).tolist()
        drawn = _Draw(contents, wanted.tolist(), leave)
        drawn.settle(order)
        missing = drawn.cover(order)
        if missing is None:
            drawn.settle(order)
            return np.array(drawn.taken)[groups]
    assert missing is not None
    raise DataError(
        f"data.groups: no split by whole groups was found that leaves images of {classes[missing]!r} in every split: its "
        f"{np.count_nonzero(pairs[1] == missing)} groups also hold other classes, which would then be missing from a split; it "
        f"takes more groups with {classes[missing]!r}, or leave the class out"
    )


class _Draw:
    """Groups being taken and put back."""

    def __init__(self, contents: list[list[tuple[int, int]]], wanted: list[int], leave: int) -> None:
        self._contents = contents
        self._wanted = wanted
        self._leave = leave
        self._lacking = list(wanted)  # images of each class still to be taken; negative: too many are
        self._inside = [0] * len(wanted)  # groups with images of each class that are taken
        self._outside = [0] * len(wanted)
        for content in contents:
            for label, _ in content:
                self._outside[label] += 1
        self.taken = [False] * len(contents)

    def settle(self, order: Sequence[int]) -> None:
        """Take and put back groups until no single one brings the numbers nearer to those wanted."""
        changed = True
        while changed:
            changed = False
            for group in order:
                if self._may_move(group) and self._nearer(group) > 1e-9:
                    self._move(group)
                    changed = True

    def cover(self, order: Sequence[int]) -> int | None:
        """Take a group of each class of which none is taken, the one that fits best; a class for which none can be."""
        for label in sorted(range(len(self._wanted)), key=self._outside.__getitem__):
            if self._inside[label]:
                continue
            fitting = [
                group
                for group in order
                if self._may_move(group) and any(label == other for other, _ in self._contents[group])
            ]
            if not fitting:
                return label
            self._move(max(fitting, key=self._nearer))
        return None

    def _may_move(self, group: int) -> bool:
        if self.taken[group]:
            return all(self._inside[label] > 1 for label, _ in self._contents[group])
        return all(self._outside[label] > self._leave for label, _ in self._contents[group])

    def _nearer(self, group: int) -> float:
        """By how much taking the group, or putting it back, brings the numbers nearer to those wanted."""
        sign = -1 if self.taken[group] else 1
        return sum(
            (self._lacking[label] ** 2 - (self._lacking[label] - sign * count) ** 2) / max(self._wanted[label], 1)
            for label, count in self._contents[group]
        )

    def _move(self, group: int) -> None:
        sign = -1 if self.taken[group] else 1
        for label, count in self._contents[group]:
            self._lacking[label] -= sign * count
            self._inside[label] += sign
            self._outside[label] -= sign
        self.taken[group] = not self.taken[group]


def _values(source: str, column: str, part: LabeledImages) -> list[str]:
    """What each image of a part is grouped by."""
    images, classes = part
    by_path = column.startswith("re:")
    path = Path(source).expanduser()
    if not by_path and path.suffix.lower() in lists.SUFFIXES and isinstance(images, FileImages):
        values = lists.read_column(path, column)
        return [values[images.path(index)] for index in range(len(images))]
    if not by_path and column != "folder":
        raise DataError(
            f"data.groups: {source} is no list, so it has no column {column!r}{did_you_mean(column, WORDS) or ';'} group its images by "
            f"folder, by re:PATTERN (of the path) or by {NEAR_DUPLICATES}, or list them (.csv, .parquet) with that column"
        )
    if not isinstance(images, FileImages | ShardImages):
        raise DataError(
            f"data.groups: the images of {source} have no paths, so {column!r} tells nothing of them; group them by "
            f"{NEAR_DUPLICATES}, or list them (.csv, .parquet) with a column for groups"
        )
    pattern = re.compile(column.removeprefix("re:") if by_path else r"^[^/]+/([^/]+)/")
    paths = [_path(images, index, classes) for index in range(len(images))]
    matches = [pattern.search(path) for path in paths]
    unmatched = [path for path, match in zip(paths, matches, strict=True) if not match]
    if unmatched:
        raise DataError(
            f"data.groups: {len(unmatched):,} of {len(paths):,} images of {source} "
            f"{f'do not match {column!r}' if by_path else 'lie in no folder below that of their class'} "
            f"(first: {unmatched[0]}); an image that belongs with no other needs a value of its own"
        )
    return ["/".join(each or "" for each in match.groups()) or match[0] for match in matches if match]


def _path(images: FileImages | ShardImages, index: int, classes: Sequence[str]) -> str:
    """An image's path from the folder of its class on, in shards too; or as a list or an archive of others gives it."""
    if isinstance(images, FileImages):
        return images.path(index).replace(os.sep, "/")
    path = images.name(index).split(":", 1)[1]
    part, _, below = path.partition("/")
    return below if part in PARTS and below.startswith(f"{classes[images.labels[index]]}/") else path


def _given_path(images: Images, index: int) -> str:
    return images.path(index) if isinstance(images, FileImages) else images.name(index)


def _joined(one: Int64[np.ndarray, " images"], other: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " images"]:
    """Numbers that images share if one of the two numberings, or a chain of both, connects them."""
    first, count = int(one.max()) + 1, int(one.max() + other.max()) + 2
    graph = coo_array((np.ones(len(one), dtype=bool), (one, first + other)), shape=(count, count))
    numbers: Int64[np.ndarray, " images"] = connected_components(graph, directed=False)[1].astype(np.int64)[one]
    return numbers


def _near_duplicates(source: str, brought: dict[str, LabeledImages]) -> Int64[np.ndarray, " images"]:
    """Numbers that near-duplicates share, kept in ~/.cache/ffvit: every run of a study asks for them."""
    from ffvit.data.check.near_duplicates import (  # brings PyTorch, which the command line starts without
        Whole,
        near_duplicates,
    )

    key = _key(brought)
    cached = Path.home() / ".cache" / "ffvit" / "near-duplicates" / f"{key}.npy"
    if key is not None:
        with suppress(OSError, ValueError):  # there is none yet, or it is damaged
            kept: Int64[np.ndarray, " images"] = np.load(cached)
            return kept
    numbers, incomplete = near_duplicates(Whole(brought))
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


def _key(brought: dict[str, LabeledImages]) -> str | None:
    """A name for these images as they are now; None where that takes reading them."""
    digest = hashlib.sha256()
    for images, _ in brought.values():
        if isinstance(images, ShardImages):
            digest.update(str(images.index).encode())
            digest.update(images.records.tobytes())
        elif isinstance(images, FileImages):
            for index in range(len(images)):
                with suppress(OSError):  # it is unreadable, and so like no other
                    stat = os.stat(images.name(index))  # noqa: PTH116  (of a million)
                    digest.update(
                        f"{images.name(index)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape")
                    )
        else:
            return None
    return digest.hexdigest()[:24]


def _check_parts(source: str, groups: Groups) -> None:
    for one, other in combinations(groups.of, 2):
        counts = [np.bincount(groups.of[part], minlength=len(groups.names)) for part in (one, other)]
        shared = np.flatnonzero(counts[0] * counts[1])
        if len(shared):
            told = [
                f"{groups.names[group]} ({counts[0][group]:,} and {counts[1][group]:,} images)" for group in shared[:3]
            ]
            more = f" and {len(shared) - 3:,} more" if len(shared) > 3 else ""
            raise DataError(
                f"data.groups: {len(shared):,} of {len(groups.names):,} groups by {groups.what} lie in both {one} and {other} of "
                f"{source}: {', '.join(told)}{more}; leave their images out of {one}, or give all images unsplit, so "
                "that they are split by groups"
            )
