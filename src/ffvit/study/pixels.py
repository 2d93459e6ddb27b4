"""What a plan needs to know of the images, measured on their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from ffvit.config.preprocess import Preprocess
from ffvit.data.decode import typical_side
from ffvit.data.images import Images, Subset
from ffvit.data.loader import evaluation_loader, worker_count
from ffvit.data.splits import Splits
from ffvit.data.transforms import evaluation_transform
from ffvit.errors import DataError

MIRRORED, MIRRORED_SIDE = 3_000, 16
"""Images on which mirroring is tried, and the pixels of their side."""

ALIKE = 0.75
"""The share of its accuracy that the nearest neighbour must keep: it keeps 0.35 on scikit-learn's digits, 0.89 on drawings
of nine kinds of things, 1.0 on photographs."""

SPREAD = 256
"""Images of which the spread of patch embeddings is measured: the same within 5 % on a thousand."""


@dataclass(frozen=True)
class Pixels:
    """Images as vectors of pixels, with their classes and names."""

    values: Float[np.ndarray, "images values"]
    labels: Int[np.ndarray, " images"]
    names: tuple[str, ...]


def survives_mirroring(splits: Splits, seed: int) -> bool:
    """Whether mirrored images still look like their own class to the nearest neighbour.

    Photographs and drawings do, letters and digits do not: these are better trained without flips. Measured on training
    images alone, a third of which are looked up among the others, as they are and mirrored.
    """
    side = min(MIRRORED_SIDE, typical_side(splits.train))
    pixels = read_pixels(splits.train, MIRRORED, side, seed)
    known, looked_up = train_test_split(np.arange(len(pixels.labels)), test_size=1 / 3, random_state=seed)
    nearest = KNeighborsClassifier(1, algorithm="brute").fit(pixels.values[known], pixels.labels[known])
    upright = pixels.values[looked_up].reshape(len(looked_up), 3, side, side)
    as_is, mirrored = (
        nearest.score(images.reshape(len(looked_up), -1), pixels.labels[looked_up])
        for images in (upright, upright[..., ::-1])
    )
    return bool(mirrored >= ALIKE * as_is)


def patch_spread(splits: Splits, side: int, patch: int) -> float:
    """Standard deviation of the embeddings of an image's patches about their mean, as PyTorch starts the embedding.

    PyTorch draws its weights with a variance of 1 / (3 x inputs), so a feature's variance over an image's patches is a
    third of the mean variance of a pixel over them.

    Args:
        splits: The images.
        side: Of the images that the network takes, in pixels.
        patch: Side of a patch, in pixels.

    Raises:
        UserError: None of the images can be read.
    """
    std = np.array(Preprocess(img_size=(side, side)).std, np.float32).reshape(3, 1, 1, 1, 1)
    values = read_pixels(splits.train, SPREAD, side, seed=0).values.reshape(-1, 3, side, side)
    rows = side // patch
    patches = values.reshape(-1, 3, rows, patch, rows, patch) / std
    return float(np.sqrt(patches.var(axis=(2, 4)).mean() / 3))


def read_pixels(images: Images, most: int, side: int, seed: int) -> Pixels:
    """At most `most` of the images, read as a run reads them for evaluation, the whole image in colour."""
    if len(images) > most:
        images = Subset(images, np.sort(np.random.RandomState(seed).permutation(len(images))[:most]))
    transform = evaluation_transform(Preprocess(img_size=(side, side), crop_pct=1.0, pixel_backend="fast"))
    loader = evaluation_loader(images, transform, (3, side, side), 256, worker_count(images, 1))
    values, labels, names = [], [], []
    for batch in loader:
        read = batch.weights.numpy() > 0
        values.append(batch.images.numpy()[read].reshape(-1, 3 * side * side).astype(np.float32) / 255)
        labels.append(batch.labels.numpy()[read])
        names += [images.name(index) for index, good in zip(batch.indices, read, strict=True) if good]
    if not names:
        raise DataError(f"none of the {len(images):,} images could be read; the first: {images.name(0)}")
    return Pixels(np.concatenate(values), np.concatenate(labels), tuple(names))
