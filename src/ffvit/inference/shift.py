"""How well a network predicts shifted data sets: ImageNet-V2, -A, -R, -Sketch, ReaL's labels, or a folder of one's own."""

from __future__ import annotations

import json
import os
import pkgutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
from jaxtyping import Bool, Int64
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ffvit.data.images import BadImageError, Images, Labels, Subset
from ffvit.data.sources import shortened
from ffvit.data.splits import open_labeled
from ffvit.errors import DataError, did_you_mean
from ffvit.inference.evaluator import Evaluator
from ffvit.inference.intervals import Difference, PairedDifference, Proportion
from ffvit.inference.predictions import Predictions

REAL = "real"
"""Stands for ReaL's labels of ImageNet's validation images (Beyer et al., arXiv 2006.07159), which timm brings."""


@dataclass(frozen=True, eq=False)
class Shift:
    """A network's correct predictions for shifted data sets, and for its usual images of the same classes.

    Attributes:
        data: What was scored.
        correct: Whether each prediction is correct.
        usual: The same for the usual images of these classes; None: there are none.
        paired: Whether both are of the same images.
        notes: What must be known to read the figures rightly, a sentence each.
        bad: Images that could not be read.
    """

    data: str
    correct: Bool[np.ndarray, " images"]
    usual: Bool[np.ndarray, " usual"] | None
    paired: bool
    notes: tuple[str, ...]
    bad: list[BadImageError]

    @property
    def top1(self) -> Proportion:
        """Top-1 accuracy."""
        return _share(self.correct)

    @property
    def usual_top1(self) -> Proportion | None:
        """Top-1 accuracy for the usual images of the same classes."""
        return None if self.usual is None else _share(self.usual)

    @property
    def change(self) -> Difference | PairedDifference | None:
        """The accuracy less that for the usual images."""
        if self.usual is None or self.usual_top1 is None:
            return None
        if self.paired:
            return PairedDifference.of(self.correct, self.usual)
        return Difference.of(self.top1, self.usual_top1)

    def to_dict(self, reference: Shift | None = None) -> dict[str, Any]:
        """As JSON holds it, with the difference to a reference."""
        return {
            "data": self.data,
            "images": len(self.correct),
            "bad_images": len(self.bad),
            "top1": asdict(self.top1),
            "usual_top1": None if self.usual_top1 is None else asdict(self.usual_top1),
            "change": None if self.change is None else asdict(self.change),
            **({} if reference is None else {"less_reference": asdict(self.less(reference))}),
            "notes": list(self.notes),
        }

    def less(self, other: Shift) -> PairedDifference:
        """The accuracy less that of another network, image by image."""
        return PairedDifference.of(self.correct, other.correct)


def _share(correct: Bool[np.ndarray, " images"]) -> Proportion:
    return Proportion.of(correct.sum().item(), len(correct))


class _KnownClasses(nn.Module):
    """A network without the logits of some classes."""

    def __init__(self, network: nn.Module, kept: Int64[np.ndarray, " kept"]) -> None:
        super().__init__()
        self.network, self.kept = network, kept
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[:, self.kept]
        return logits


def score_shift(source: str, root: Path | None, network: nn.Module, evaluator: Evaluator) -> Shift:
    """Score a network on shifted data sets. Logits of classes that these lack are left out, for its usual images too.

    Args:
        source: As `data` of `evaluate`. Its classes are the network's names; for ImageNet-1k's also their numbers, as
            ImageNet-V2 has them. Images of other classes are left out.
        root: As there.
        network: In evaluation mode, on its device.
        evaluator: What scores it on its usual images.

    Raises:
        UserError: The images cannot be used, or are of no class of the network.
    """
    names, usual = evaluator.classes, evaluator.images
    images, found = open_labeled(source, root)
    place = _places(found, names)
    labels = np.array([place.get(name, -1) for name in found])[images.labels]
    kept = np.unique(labels[labels >= 0])
    if not len(kept):
        raise DataError(
            f"shift: {source}: the network knows none of its classes, {shortened(found)}{did_you_mean(found[0], names)} "
            f"(it knows {len(names):,}: {shortened(names)})"
        )
    notes = []
    if len(kept) < len(names):
        notes.append(
            f"{source} has {len(kept):,} of the network's {len(names):,} classes: the logits of the other "
            f"{len(names) - len(kept):,} are left out, here and for the usual images of these classes"
        )
    if unknown := [name for name in found if name not in place]:
        notes.append(
            f"{(labels < 0).sum():,} images of {source} are left out, whose classes the network does not know: "
            f"{shortened(unknown)}"
        )

    def scored(images: Images, labels: Labels) -> tuple[Predictions, list[BadImageError]]:
        own = np.flatnonzero(np.isin(labels, kept))
        subset = Subset(images, own, np.searchsorted(kept, labels[own]))
        return evaluator.on(subset, classes=tuple(names[index] for index in kept))(_KnownClasses(network, kept))

    predictions, bad = scored(images, labels)
    same = scored(usual, usual.labels)[0].correct if np.isin(usual.labels, kept).any() else None
    return Shift(source, predictions.correct, same, False, tuple(notes), bad)


def _places(found: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The network's number of each class that is found: by name; of ImageNet-1k's, also by number."""
    place = {name: index for index, name in enumerate(names)}
    if all(name.isdecimal() for name in found) and list(names) == ImageNetInfo().label_names():
        place = {str(number): number for number in range(len(names))}
    return {name: place[name] for name in found if name in place}


def score_real(predictions: Predictions, names: Sequence[str]) -> Shift:
    """Score predictions for ImageNet's validation images by ReaL's labels; images without any are left out.

    Args:
        predictions: Of a network for ImageNet-1k's classes.
        names: The names of the images, which end in ILSVRC2012_val_........JPEG.

    Raises:
        DataError: The classes or images are others.
    """
    if list(predictions.classes) != ImageNetInfo().label_names():
        raise DataError(
            f"shift: {REAL} has labels of ImageNet-1k's 1,000 WordNet ids, and this network has other classes"
        )
    content = pkgutil.get_data(timm.data.__name__, "_info/imagenet_real_labels.json")
    assert content is not None
    labels = {f"ILSVRC2012_val_{number:08d}.JPEG": real for number, real in enumerate(json.loads(content), 1)}
    real = [labels.get(os.path.basename(name)) for name in names]  # noqa: PTH119 (fifty thousand names)
    kept = np.array([bool(each) for each in real])
    if not kept.any():
        raise DataError(
            f"shift: {REAL} has labels of ImageNet's validation images, ILSVRC2012_val_........JPEG; these are "
            f"{shortened(names, 2)}"
        )
    correct = np.array([predicted in (each or ()) for predicted, each in zip(predictions.predicted, real, strict=True)])
    none = int((~kept).sum())
    notes = (f"{none:,} images are left out, which have no label of ReaL's",) if none else ()
    return Shift("ReaL", correct[kept], predictions.correct[kept], True, notes, [])
