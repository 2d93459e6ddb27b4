"""Images that look the same, over all splits of a source: found by hashes, then confirmed pixel by pixel."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ffvit.data.check.perceptual_hash import near_pairs
from ffvit.data.check.scan import RECORD, THUMBNAIL, Trait, scan_images, thumbnails
from ffvit.data.images import Images, LabeledImages, Labels, StoredImage, natural_sort
from ffvit.terminal import track

NEAR = 9
"""Bits of 128 that may differ between images that look alike: re-encoded and resized photographs differ in fewer,
different ones in 20 and more."""

SAME = 0.98
"""Correlation of two thumbnails from which on images that look alike count as the same one."""


class AllImages:
    """The images of all splits, numbered through, as `Images`."""

    def __init__(self, splits: dict[str, LabeledImages]) -> None:
        self.splits = tuple(splits)
        self._images: tuple[Images, ...] = tuple(images for images, _ in splits.values())
        self.classes, place = natural_sort([name for _, classes in splits.values() for name in classes])
        offsets = np.cumsum([0, *(len(classes) for _, classes in splits.values())])
        self.labels: Labels = np.concatenate(
            [place[offset + images.labels] for offset, images in zip(offsets, self._images, strict=False)]
        )
        self.split = np.repeat(np.arange(len(self.splits)), [len(images) for images in self._images])
        self._starts = np.cumsum([0, *map(len, self._images)])

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """See `Images.name`."""
        split = int(self.split[index])
        return self._images[split].name(int(index - self._starts[split]))

    def read(self, index: int) -> StoredImage:
        """See `Images.read`."""
        split = int(self.split[index])
        return self._images[split].read(int(index - self._starts[split]))

    def split_name(self, index: int) -> str:
        """The name of the image's split."""
        return self.splits[self.split[index]]

    def class_name(self, index: int) -> str:
        """The name of the image's class."""
        return self.classes[self.labels[index]]


def near_duplicates(images: AllImages) -> tuple[Int64[np.ndarray, " images"], bool]:
    """Numbers that images share with their duplicates, exact and near, in any split and class, or by way of others.

    What counts as a duplicate is what `check` reports: blank and unreadable images are duplicates of nothing.

    Returns:
        A number for each image, and whether there were too many images alike to find them all.

    Raises:
        RunStoppedError: A process that opens images was killed.
    """
    records, _ = scan(images)
    comparable, first = exact_duplicates(records)
    pairs, incomplete = similar_pairs(images, records, np.unique(first), NEAR)
    edges = np.concatenate([np.stack([comparable, first], axis=1), pairs])
    graph = coo_array((np.ones(len(edges), dtype=bool), edges.T), shape=(len(images), len(images)))
    return connected_components(graph, directed=False)[1].astype(np.int64), incomplete


def scan(images: AllImages) -> tuple[np.ndarray, dict[int, str]]:
    """A `RECORD` of every image, and why those that cannot be read cannot."""
    records = np.zeros(len(images), RECORD)
    reasons: dict[int, str] = {}
    for index, record in enumerate(track(scan_images(images), "opening images", total=len(images))):
        if isinstance(record, str):
            records[index]["traits"] = Trait.BROKEN
            reasons[index] = record
        else:
            records[index] = record
    return records, reasons


def exact_duplicates(records: np.ndarray) -> tuple[Int64[np.ndarray, " some"], Int64[np.ndarray, " some"]]:
    """Images that can be duplicates, and for each the first one with the same content.

    Neither unreadable images can, nor blank ones: all of one colour are the same.
    """
    images = np.flatnonzero((records["traits"] & (Trait.BROKEN | Trait.BLANK)) == 0)
    table = pd.DataFrame(records["digest"][images]).assign(image=images)
    return images, table.groupby([0, 1])["image"].transform("min").to_numpy()


def similar_pairs(
    images: AllImages, records: np.ndarray, indices: Int64[np.ndarray, " some"], near: int
) -> tuple[Int64[np.ndarray, "pairs 2"], bool]:
    """Pairs of these images that look alike but are not the same, nearest first; whether there were too many to find all."""
    indices = indices[(records["traits"][indices] & Trait.COMPARABLE) != 0]
    places, bits, incomplete = near_pairs(records["hash"][indices], near)
    pairs = indices[places]
    differ = (records["digest"][pairs[:, 0]] != records["digest"][pairs[:, 1]]).any(axis=1)
    pairs, bits = pairs[differ], bits[differ]
    pairs = pairs[np.argsort(bits, kind="stable")]
    return pairs[_confirmed(images, pairs)], incomplete


def _confirmed(images: AllImages, pairs: Int64[np.ndarray, "pairs 2"]) -> Bool[np.ndarray, " pairs"]:
    """Which pairs are alike in their thumbnails too: similar drawings often share a hash, and differ in these."""
    indices, place = np.unique(pairs, return_inverse=True)
    small = np.zeros((len(indices), THUMBNAIL**2), dtype=np.float16)  # half a kilobyte each
    for at, thumbnail in enumerate(track(thumbnails(images, indices), "comparing images", total=len(indices))):
        if not isinstance(thumbnail, str):
            small[at] = thumbnail
    place = place.reshape(-1, 2)
    alike = [
        np.einsum("ij,ij->i", small[one].astype(np.float32), small[other].astype(np.float32)) >= SAME
        for one, other in (place[start : start + 65536].T for start in range(0, len(place), 65536))
    ]
    return np.concatenate([np.zeros(0, dtype=bool), *alike])
