"""Images that look the same, over all parts of a set: found by hashes, then confirmed pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ffvit.data.check.perceptual_hash import near_pairs
from ffvit.data.check.scan import LOOK, THUMBNAIL, Trait, scan_images, thumbnails
from ffvit.data.images import Images, LabeledImages, Labels, StoredImage, natural_sort
from ffvit.terminal import Terminal

NEAR = 9
"""Bits of 128 that may differ between images that look alike: re-encoded and resized photographs differ in fewer,
different ones in 20 and more."""

SAME = 0.98
"""Correlation of two thumbnails from which on images that look alike are taken for the same one."""


class AllImages:
    """The images of all parts, counted through, as `Images`."""

    def __init__(self, brought: dict[str, LabeledImages]) -> None:
        self.parts = tuple(part for part in ("train", "val", "test") if part in brought)
        self.images: tuple[Images, ...] = tuple(brought[part].images for part in self.parts)
        self.classes, place = natural_sort([name for part in self.parts for name in brought[part].classes])
        begins = np.cumsum([0, *(len(brought[part].classes) for part in self.parts)])
        self.labels: Labels = np.concatenate(
            [place[begin + images.labels] for begin, images in zip(begins, self.images, strict=False)]
        )
        self.part = np.repeat(np.arange(len(self.parts)), [len(images) for images in self.images])
        self._begins = np.cumsum([0, *map(len, self.images)])

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, index: int) -> tuple[Images, int]:
        """The part's images that an image is of, and its index there."""
        part = int(self.part[index])
        return self.images[part], int(index - self._begins[part])

    def name(self, index: int) -> str:
        """See `Images.name`."""
        images, at = self.of(index)
        return images.name(at)

    def read(self, index: int) -> StoredImage:
        """See `Images.read`."""
        images, at = self.of(index)
        return images.read(at)

    def part_of(self, index: int) -> str:
        """The part's name."""
        return self.parts[self.part[index]]

    def label_of(self, index: int) -> str:
        """The class's name."""
        return self.classes[self.labels[index]]


def near_duplicates(whole: AllImages, console: Console | None = None) -> tuple[Int64[np.ndarray, " images"], bool]:
    """Numbers that images share with their copies, exact and near, in any part and class, directly or by way of others.

    What counts as a copy is what `check` reports: blank and unreadable images are copies of nothing.

    Args:
        whole: The images.
        console: Where progress is shown. Default: stderr, if it is a terminal.

    Returns:
        A number for each image, and whether there were too many images alike to find them all.

    Raises:
        RunStoppedError: A process that opens images was killed.
    """
    console = console or Terminal(stderr=True)
    seen, _ = scan(whole, console)
    comparable, same = identical(seen)
    representatives = comparable[first_of(same, np.ones(len(same), dtype=bool))]
    pairs, cut = similar_pairs(whole, seen, representatives, NEAR, console)
    edges = np.concatenate([np.stack([comparable, representatives[same]], axis=1), pairs])
    graph = coo_array((np.ones(len(edges), dtype=bool), edges.T), shape=(len(whole), len(whole)))
    return connected_components(graph, directed=False)[1].astype(np.int64), cut


def scan(whole: AllImages, console: Console) -> tuple[np.ndarray, dict[int, str]]:
    """What is seen of every image, as `LOOK`, and why those that cannot be read cannot."""
    seen = np.zeros(len(whole), LOOK)
    reasons: dict[int, str] = {}
    for index, look in enumerate(_progress(scan_images(whole), len(whole), "opening", console)):
        if isinstance(look, str):
            seen[index]["traits"] = Trait.BROKEN
            reasons[index] = look
        else:
            seen[index] = look
    return seen, reasons


def identical(seen: np.ndarray) -> tuple[Int64[np.ndarray, " some"], Int64[np.ndarray, " some"]]:
    """Images that can be copies, and a number for each that exact copies share.

    Neither unreadable images can, nor blank ones: all of one colour are the same.
    """
    images = np.flatnonzero((seen["traits"] & (Trait.BROKEN | Trait.BLANK)) == 0)
    return images, pd.DataFrame(seen["digest"][images]).groupby([0, 1], sort=False).ngroup().to_numpy()


def _progress(found: Iterator, total: int, doing: str, console: Console) -> Iterator:
    """The same, counted on a bar."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        expand=True,
    )
    with bar:
        task = bar.add_task(doing, total=total, speed="")
        for count, each in enumerate(found, start=1):
            yield each
            if count % 100 == 0:
                pace = bar.tasks[0].speed
                bar.update(task, completed=count, speed=f"{pace:,.0f} images/s" if pace else "")


def similar_pairs(
    whole: AllImages, seen: np.ndarray, images: Int64[np.ndarray, " some"], near: int, console: Console
) -> tuple[Int64[np.ndarray, "pairs 2"], bool]:
    """Pairs of these images that look alike but are not the same, nearest first; whether there were too many to find all."""
    images = images[(seen["traits"][images] & Trait.COMPARABLE) != 0]
    with console.status("looking for images alike") if console.is_terminal else nullcontext():
        places, bits, cut = near_pairs(seen["hash"][images], near)
    pairs = images[places]
    differ = (seen["digest"][pairs[:, 0]] != seen["digest"][pairs[:, 1]]).any(axis=1)
    pairs, bits = pairs[differ], bits[differ]
    pairs = pairs[np.argsort(bits, kind="stable")]
    return pairs[_confirmed(whole, pairs, console)], cut


def _confirmed(whole: AllImages, pairs: Int64[np.ndarray, "pairs 2"], console: Console) -> Bool[np.ndarray, " pairs"]:
    """Which pairs are alike in their thumbnails too: similar drawings often share a hash, and differ in these."""
    images, place = np.unique(pairs, return_inverse=True)
    small = np.zeros((len(images), THUMBNAIL**2), dtype=np.float16)  # half a kilobyte each
    for at, each in enumerate(_progress(thumbnails(whole, images), len(images), "comparing", console)):
        if not isinstance(each, str):
            small[at] = each
    place = place.reshape(-1, 2)
    alike = [
        np.einsum("ij,ij->i", small[one].astype(np.float32), small[other].astype(np.float32)) >= SAME
        for one, other in (place[at : at + 65536].T for at in range(0, len(place), 65536))
    ]
    return np.concatenate([np.zeros(0, dtype=bool), *alike])


def first_of(group: Int64[np.ndarray, " some"], chosen: Bool[np.ndarray, " some"]) -> Int64[np.ndarray, " groups"]:
    """The place of the first chosen one of each group, or -1."""
    first = np.full(int(group.max(initial=-1)) + 1, -1)
    places = np.flatnonzero(chosen)[::-1]
    first[group[places]] = places  # the last to be written is the first
    return first
