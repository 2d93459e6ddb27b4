"""The images of a run: those to train on, to choose epoch and weights by, and to measure on at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ffvit.config.data import Data
from ffvit.data.groups import Groups, find_groups
from ffvit.data.holdout import hold_out, hold_out_fold
from ffvit.data.images import Images, LabeledImages, Labels, Subset
from ffvit.data.sources import load_splits, open_source, shortened
from ffvit.errors import DataError, did_you_mean

VALIDATION_SHARE = 0.1
VALIDATION_LIMIT = 10_000
"""What is held out of the training images for validation, unless `data.validation` says otherwise."""


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        classes: Their names; labels are places in them.
        train: To train on.
        validation: To choose epoch and weights on. None: nothing is chosen.
        test: For the final figure, and for nothing else.
        account: For a person: how many images each split holds, and where it comes from.
        drawn: Which splits (test, validation) were drawn at random; another `split_seed` draws others.
        groups: How many groups the images of all splits are in; None: no groups were asked for.
        test_groups: The name of each test image's group; None: no groups were asked for.
    """

    classes: tuple[str, ...]
    train: Images
    validation: Images | None
    test: Images
    account: str
    drawn: tuple[str, ...] = ()
    groups: int | None = None
    test_groups: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """How many images all splits have."""
        return sum(len(split) for split in (self.train, self.validation, self.test) if split is not None)

    @property
    def official_test(self) -> bool:
        """Whether the data has its own test split."""
        return "test" not in self.drawn

    @property
    def test_ratio(self) -> float:
        """Test images for each image that training and validation see, as the variance of a redrawn split asks for.

        n2 / n1 of C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003).
        """
        return len(self.test) / (len(self.train) + (0 if self.validation is None else len(self.validation)))


def open_splits(data: Data) -> Splits:
    """Find the images and split them: as the source does, and by class at random where it lacks a split.

    Groups (`data.groups`) are never split apart. Without a test split, val is the test split: the figure then compares
    with what others report on it, and the validation split is held out of train.

    Raises:
        UserError: The source cannot be used as it is; says what is wrong, where, and what to do.
    """
    loaded = load_splits(data.source, data.root)
    train, classes = loaded["train"]
    if len(classes) < 2:
        raise DataError(
            f"data.source: {data.source} has one class only, {classes[0]!r}; there must be two to tell apart"
        )
    groups = find_groups(data, loaded)
    group_of = groups.of if groups else {}
    official = next((split for split in ("test", "val") if split in loaded), None)
    test = loaded[official].images if official else None
    validation = loaded["val"].images if official == "test" and "val" in loaded else None
    draw_validation = validation is None and data.validation != 0
    if data.folds is not None and test is not None:
        raise DataError(
            f"data.folds: {data.source} brings its own test split; cross-validation needs images that are not split yet"
        )
    needed = data.folds or 1 + (test is None) + draw_validation
    _check_sizes(data.source, classes, train.labels, groups, needed)

    drawn = []
    train_groups, test_groups = group_of.get("train"), group_of.get(official or "")
    if test is None:
        if data.folds is not None and data.fold is not None:
            train, test = hold_out_fold(train, data.folds, data.fold, data.split_seed, train_groups, classes)
        else:
            count = _count("data.test", data.test, len(train))
            train, test = hold_out(train, count, 1 + draw_validation, data.split_seed, train_groups, classes)
        if train_groups is not None:
            train_groups, test_groups = train_groups[train.indices], train_groups[test.indices]
        drawn.append("test")
    if draw_validation:
        if data.validation is None:
            count = min(round(VALIDATION_SHARE * len(train)), VALIDATION_LIMIT)
        else:
            count = _count("data.validation", data.validation, len(train))
        train, validation = hold_out(train, count, 1, data.split_seed, train_groups, classes)
        drawn.append("validation")
    splits = Splits(
        classes,
        train,
        validation,
        test,
        _account(data, len(classes), {"training": train, "validation": validation, "test": test}, drawn, groups),
        drawn=tuple(drawn),
        groups=None if groups is None else len(groups.names),
        test_groups=None
        if groups is None or test_groups is None
        else tuple(groups.names[group] for group in test_groups),
    )
    return _in_alphabetical_order(splits) if data.class_order == "alphabetical" else splits


def _in_alphabetical_order(splits: Splits) -> Splits:
    """The same images with their classes sorted as plain text: 10 before 2, and capital letters first."""
    order = sorted(range(len(splits.classes)), key=splits.classes.__getitem__)
    places = np.argsort(order)

    def renumbered(images: Images) -> Images:
        return Subset(images, np.arange(len(images)), places[images.labels])

    return replace(
        splits,
        classes=tuple(splits.classes[place] for place in order),
        train=renumbered(splits.train),
        validation=None if splits.validation is None else renumbered(splits.validation),
        test=renumbered(splits.test),
    )


def open_labeled(source: str, root: Path | None) -> LabeledImages:
    """Images to evaluate on, with their own classes: the test split of a source, or else its val split, or else all of it.

    Raises:
        UserError: The source cannot be used, or has no labels.
    """
    if source == "digits":
        splits = open_splits(Data(source=source))
        return LabeledImages(splits.test, splits.classes)
    openers = open_source(source, root)
    opened = (openers[split]() for split in ("test", "val", "train") if split in openers)
    labeled = next((labeled for labeled in opened if labeled), None)
    if labeled is None:
        raise DataError(f"{source}: has no labels to compare answers with")
    return labeled


def open_images(source: str, root: Path | None, classes: Sequence[str] | None) -> Images:
    """Images to evaluate on, as `open_labeled`; their labels are places in the network's classes, matched by name.

    The source may have some of the classes only.

    Args:
        source: As in `Data.source`; of digits, the test split.
        root: As in `Data.root`.
        classes: The network's. None: they have no names, and are taken to be the source's in natural order, which is
            ImageNet's (numbers, where a list or data set gives those, are the labels themselves).

    Raises:
        UserError: The source cannot be used, or has a class that the network does not know.
    """
    images, names = open_labeled(source, root)
    if classes is None:
        are_numbers = all(name.isdecimal() for name in names) and not Path(source).expanduser().is_dir()
        place = {name: int(name) if are_numbers else index for index, name in enumerate(names)}
    else:
        place = {name: index for index, name in enumerate(classes)}
    unknown = [names[label] for label in np.unique(images.labels) if names[label] not in place]
    if unknown:
        raise DataError(
            f"{source}: the network does not know {shortened(unknown)}{did_you_mean(unknown[0], place)} "
            f"(it knows {len(place)} classes: {shortened(list(place))})"
        )
    renumbered = np.array([place.get(name, -1) for name in names], dtype=np.int64)[images.labels]
    return Subset(images, np.arange(len(images)), renumbered)


def _check_sizes(source: str, classes: Sequence[str], labels: Labels, groups: Groups | None, needed: int) -> None:
    """Raise an error if a class has too few images (or groups) to be in every split."""
    what = "images"
    if groups is not None:  # a group counts once for each class that it holds
        what = f"groups (by {groups.what})"
        labels = np.unique(np.stack([groups.of["train"], labels]), axis=1)[1]
    sizes = np.bincount(labels, minlength=len(classes))
    small = [f"{name!r} ({size})" for name, size in zip(classes, sizes, strict=True) if size < needed]
    if small:
        few = ", ".join(small[:5]) + (f" and {len(small) - 5:,} more classes" if len(small) > 5 else "")
        raise DataError(
            f"data.source: too few {what} in {source} of {few}: every class needs {needed}, one for each split that is "
            "made of them; add images or leave the class out"
        )


def _count(field: str, share: float, images: int) -> int:
    """A share of the images as a number."""
    count = round(share * images)
    if not 0 < count < images:
        what = "none of them; raise it" if count == 0 else "all of them, which leaves none to train on; lower it"
        raise DataError(f"{field}: a share of {share:g} of {images:,} images is {what}")
    return count


def _account(
    data: Data, classes: int, splits: dict[str, Images | None], drawn: Sequence[str], groups: Groups | None
) -> str:
    sizes = {name: len(split) for name, split in splits.items() if split is not None}
    total = sum(sizes.values())
    counts = ", ".join(f"{size:,} for {name} ({100 * size / total:.1f} %)" for name, size in sizes.items())
    if drawn:
        fold = f"test (fold {data.fold} of {data.folds})"
        named = [fold if split == "test" and data.folds else split for split in drawn]
        whole = "" if groups is None else f"in whole groups (by {groups.what}), "
        how = f"{' and '.join(named)} drawn at random, {whole}class by class, with split seed {data.split_seed}"
    else:
        how = "all splits as the data brings them"
    grouped = "" if groups is None else f" in {len(groups.names):,} groups"
    notes = "" if "validation" in sizes else " Nothing is held out to choose by: the last weights are the result."
    if groups is not None and len(groups.names) == total:
        notes += f" Groups have no effect: by {groups.what}, every image is one of its own."
    return f"{total:,} images of {classes:,} classes{grouped} from {data.source}: {counts}; {how}.{notes}"
