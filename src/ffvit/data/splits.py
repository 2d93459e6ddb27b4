"""Parting images into those to train on, to choose by, and to measure on at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ffvit.config.data import NEEDS, Data
from ffvit.data import folders, lists
from ffvit.data.groups import Groups, find_groups, hold_out_groups
from ffvit.data.images import ArrayImages, Images, LabeledImages, Labels, Subset
from ffvit.data.shards import addresses, index, reader, remote, tars
from ffvit.errors import DataError, did_you_mean

VALIDATION_SHARE = 0.1
VALIDATION_LIMIT = 10_000
"""What is held out of the training images to choose by, unless `data.validation` says otherwise."""


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        classes: Their names; labels count them.
        train: To train on.
        validation: To choose epoch and weights on. None: nothing is chosen.
        test: For the final figure, and for nothing else.
        account: For a person: how many images each split holds, and how it came to hold them.
        drawn: Which splits (test, validation) were drawn at random; another `split_seed` draws others. The rest is as the
            data brings it.
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
        """Whether the data brings its own test split."""
        return "test" not in self.drawn

    @property
    def test_ratio(self) -> float:
        """Test images for each image that training and validation see, as the variance of a redrawn split asks for.

        n2 / n1 of C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003).
        """
        return len(self.test) / (len(self.train) + (0 if self.validation is None else len(self.validation)))


def open_splits(data: Data) -> Splits:
    """Find the images and split them: as the data does, and by class at random where it brings no such split.

    Groups (`data.groups`) are never split apart: whole groups are drawn. Brought are train, val and test. Without a test split, val is the test split: the figure then compares with what
    others report on it, and what is chosen by is held out of train.

    Raises:
        UserError: The source cannot be used as it is; says what is wrong, where, and what to do.
    """
    brought = load_splits(data.source, data.root)
    classes = brought["train"].classes
    if len(classes) < 2:
        raise DataError(
            f"data.source: {data.source} has one class only, {classes[0]!r}; there must be two to tell apart"
        )

    groups = find_groups(data, brought)
    of = groups.of if groups else {}
    train = brought["train"].images
    validation = brought["val"].images if "val" in brought and "test" in brought else None
    official = next((split for split in ("test", "val") if split in brought), None)
    test = brought[official].images if official else None
    select = validation is None and data.validation != 0
    if data.folds is not None and test is not None:
        raise DataError(
            f"data.folds: {data.source} brings its own test split; cross-validation needs images that are not split yet"
        )
    _check_sizes(data.source, classes, train.labels, groups, splits=data.folds or 1 + (test is None) + select)

    drawn = []
    of_train, of_test = of.get("train"), of.get(official or "")
    if test is None:
        if data.folds is not None:
            train, test = _fold(train, data, of_train, classes)
        else:
            count = _count("data.test", data.test, len(train))
            train, test = _hold_out(train, count, 1 + select, data.split_seed, of_train, classes)
        if of_train is not None:
            of_train, of_test = of_train[train.indices], of_train[test.indices]
        drawn.append("test")
    if select:
        if data.validation is None:
            count = min(round(VALIDATION_SHARE * len(train)), VALIDATION_LIMIT)
        else:
            count = _count("data.validation", data.validation, len(train))
        train, validation = _hold_out(train, count, 1, data.split_seed, of_train, classes)
        drawn.append("validation")
    return Splits(
        classes,
        train,
        validation,
        test,
        _account(data, len(classes), {"training": train, "validation": validation, "test": test}, drawn, groups),
        drawn=tuple(drawn),
        groups=None if groups is None else len(groups.names),
        test_groups=None if groups is None or of_test is None else tuple(groups.names[group] for group in of_test),
    )


def check_source(source: str) -> None:
    """Nothing, if a source may be something.

    Raises:
        DataError: It is empty, or a path that cannot be looked at: a loop of links, a name that is too long, a folder
            that may not be read.
    """
    if not source.strip():
        raise DataError("data.source: is empty; give a folder, a list, an address or a name")
    if addresses.is_remote(source):
        return
    try:
        os.stat(os.path.expanduser(source))  # noqa: PTH111, PTH116 (expanding never raises)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data.source: {source}: cannot be opened ({reason})") from None


def load_splits(source: str, root: Path | None) -> dict[str, LabeledImages]:
    """The splits a source brings, as it brings them: train, val and test, or train alone; all with the same classes.

    Raises:
        UserError: The source cannot be used, brings no train, or its splits differ in their classes.
    """
    brought = open_loaded(source, root)
    if "train" not in brought:
        raise DataError(f"data.source: {source} has {' and '.join(brought) or 'no split'} but no train to train on")
    _check_classes(source, brought)
    return brought


def open_images(source: str, root: Path | None, classes: Sequence[str] | None) -> Images:
    """Images to evaluate on: the test split a source brings, or else its val split, or else all of it.

    Their labels count the network's classes, to which they are matched by name; some of the classes will do.

    Args:
        source: As in `Data.source`; of digits, the test split.
        root: As in `Data.root`.
        classes: The network's. None: they have no names, and are taken to be the source's in natural order, which is
            ImageNet's (numbers, where a list or data set gives those, are the labels themselves).

    Raises:
        UserError: The source cannot be used, or has a class that the network does not know.
    """
    if source == "digits":
        splits = open_splits(Data(source=source))
        images, names = splits.test, splits.classes
    else:
        openers = _openers(source, root)
        found = (openers[split]() for split in ("test", "val", "train") if split in openers)
        labelled = next((labelled for labelled in found if labelled), None)
        if labelled is None:
            raise DataError(f"{source}: has no labels to compare answers with")
        images, names = labelled
    if classes is None:
        numbers = all(name.isdecimal() for name in names) and not Path(source).expanduser().is_dir()
        place = {name: int(name) if numbers else index for index, name in enumerate(names)}
    else:
        place = {name: index for index, name in enumerate(classes)}
    unknown = [names[label] for label in np.unique(images.labels) if names[label] not in place]
    if unknown:
        raise DataError(
            f"{source}: the network does not know {_listed(unknown)}{did_you_mean(unknown[0], place)} "
            f"(it knows {len(place)} classes: {_listed(list(place))})"
        )
    renumbered = np.array([place.get(name, -1) for name in names], dtype=np.int64)[images.labels]
    return Subset(images, np.arange(len(images)), renumbered)


def open_loaded(source: str, root: Path | None) -> dict[str, LabeledImages]:
    """The splits that a source brings, as they are; those whose labels are withheld are left out.

    Raises:
        UserError: The source cannot be used.
    """
    return {split: found for split, opened in _openers(source, root).items() if (found := opened())}


def _openers(source: str, root: Path | None) -> dict[str, Callable[[], LabeledImages | None]]:
    """What opens each split that a source brings: train, val, test, or only train if it has no splits."""
    check_source(source)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (never raises)
    prefix = source.split("/", 1)[0].lower()
    if source == "digits":
        return {"train": _digits}
    if addresses.is_remote(source):
        return {split: partial(LabeledImages, *found) for split, found in remote.open_remote(source, root).items()}
    if path.is_dir() and (index.is_prepared(path) or tars.holds_tars(path)):
        opened = reader.open_shards(path) if index.is_prepared(path) else tars.open_tars(path)
        return {split: partial(LabeledImages, *found) for split, found in opened.items()}
    if path.is_dir():
        return {split: partial(folders.read_folder, folder) for split, folder in folders.split_folders(path).items()}
    if path.is_file():
        if path.suffix.lower() not in lists.SUFFIXES:
            raise DataError(
                f"data.source: {source} is a file; give a folder of images or shards, or a list (.csv, .parquet)"
            )
        return {split: partial(LabeledImages, *found) for split, found in lists.read_list(path).items()}
    if "/" in source and prefix in NEEDS:
        from ffvit.data import timm_datasets  # brings PyTorch, which packing images from elsewhere does without

        names = timm_datasets.split_names(source, root)
        return {split: partial(timm_datasets.open_split, source, root, name) for split, name in names.items()}
    raise DataError(_nowhere(source, path, prefix))


def _digits() -> LabeledImages:
    """8 x 8 scans of handwritten digits, which come with scikit-learn; they count ink from 0 to 16."""
    digits = load_digits()
    arrays = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return LabeledImages(ArrayImages("digits", arrays, digits.target.astype(np.int64)), tuple("0123456789"))


def _nowhere(source: str, path: Path, prefix: str) -> str:
    """What to say of a source that is neither here nor one of timm's."""
    known = f"digits, or {'/..., '.join(NEEDS)}/..."
    if "/" in source and (near := did_you_mean(prefix, NEEDS)):
        return f"data.source: there is no {source!r}, nor a kind of data set {prefix!r}{near} (known: {known})"
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    siblings = [entry.name for entry in folders.visible(missing.parent)]
    near = did_you_mean(missing.name, [*siblings, "digits"])
    return f"data.source: there is no {missing.name!r} in {missing.parent.resolve()}{near} (or a name: {known})"


def _check_classes(source: str, brought: dict[str, LabeledImages]) -> None:
    classes = brought["train"].classes
    for split, (_, others) in brought.items():
        here, there = set(classes), set(others)
        if here != there:
            sides = [("train", classes, there, split), (split, others, here, "train")]
            said = [
                f"{_listed([name for name in names if name not in lacked])} in {has} but not in {lacks}"
                for has, names, lacked, lacks in sides
                if set(names) - lacked
            ]
            raise DataError(f"data.source: the splits of {source} differ in their classes: {'; '.join(said)}")
        assert others == classes, f"{split} numbers the classes otherwise than train"


def _listed(names: Sequence[str], limit: int = 5) -> str:
    """The names, shortened if they are many."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def _check_sizes(source: str, classes: Sequence[str], labels: Labels, groups: Groups | None, splits: int) -> None:
    what = "images"
    if groups is not None:  # a group counts once for each class that it holds
        what = f"groups (by {groups.what})"
        labels = np.unique(np.stack([groups.of["train"], labels]), axis=1)[1]
    sizes = np.bincount(labels, minlength=len(classes))
    small = [f"{name!r} ({size})" for name, size in zip(classes, sizes, strict=True) if size < splits]
    if small:
        few = ", ".join(small[:5]) + (f" and {len(small) - 5:,} more classes" if len(small) > 5 else "")
        raise DataError(
            f"data.source: too few {what} in {source} of {few}: every class needs {splits}, one for each split that is "
            "made of them; add images or leave the class out"
        )


def _count(field: str, share: float, images: int) -> int:
    """A share of the images as a number."""
    count = round(share * images)
    if not 0 < count < images:
        what = "none of them; raise it" if count == 0 else "all of them, which leaves none to train on; lower it"
        raise DataError(f"{field}: a share of {share:g} of {images:,} images is {what}")
    return count


def _hold_out(
    images: Images,
    count: int,
    leave: int,
    seed: int,
    groups: Int64[np.ndarray, " images"] | None = None,
    classes: Sequence[str] = (),
) -> tuple[Subset, Subset]:
    """Part off `count` images at random, the same share of every class, within one image; or as near as groups come.

    Every class gives at least one (image, or group) and keeps at least `leave`, so that no split lacks a class;
    scikit-learn's stratified split leaves rare classes out of a small split, and refuses a split smaller than the number
    of classes.

    Raises:
        UserError: No split by whole groups gives every split every class.
    """
    labels = images.labels
    sizes = np.bincount(labels)
    share = sizes * (count / len(labels))
    held = np.minimum(np.maximum(np.floor(share).astype(np.int64), 1), np.maximum(sizes - leave, 0))
    short = np.flatnonzero((held < share) & (held < sizes - leave))
    short = short[np.argsort(held[short] - share[short], kind="stable")]  # Largest remainders first
    held[short[: max(count - held.sum(), 0)]] += 1

    if groups is not None and len(np.unique(groups)) < len(groups):
        is_held = hold_out_groups(labels, groups, held, leave, seed, classes)
    else:
        # RandomState: its numbers never change with numpy's version (NEP 19), and so neither does a split.
        shuffled = np.random.RandomState(seed).permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        is_held = np.zeros(len(labels), dtype=bool)
        is_held[by_class] = place_in_class < np.repeat(held, sizes)
    return Subset(images, np.flatnonzero(~is_held)), Subset(images, np.flatnonzero(is_held))


def _fold(
    images: Images, data: Data, groups: Int64[np.ndarray, " images"] | None, classes: Sequence[str]
) -> tuple[Subset, Subset]:
    """All folds but one, and that one: every image is in just one fold, and every fold holds its share of each class.

    Raises:
        UserError: With whole groups, a fold would lack a class.
    """
    assert data.folds is not None
    assert data.fold is not None
    labels = images.labels
    if groups is None or len(np.unique(groups)) == len(groups):
        folds = list(StratifiedKFold(data.folds, shuffle=True, random_state=data.split_seed).split(labels, labels))
    else:
        by_groups = StratifiedGroupKFold(data.folds, shuffle=True, random_state=data.split_seed)
        folds = list(by_groups.split(labels, labels, groups))
    for kept, held in folds:
        lacking = np.setdiff1d(labels, labels[held]).tolist() + np.setdiff1d(labels, labels[kept]).tolist()
        if lacking:
            raise DataError(
                f"data.folds: with whole groups, one of {data.folds} folds holds no image of {classes[lacking[0]]!r}, or all "
                "of them; take fewer folds, or add groups that hold this class"
            )
    kept, held = folds[data.fold]
    return Subset(images, kept), Subset(images, held)


def _account(
    data: Data, classes: int, splits: dict[str, Images | None], drawn: Sequence[str], groups: Groups | None
) -> str:
    sizes = {name: len(split) for name, split in splits.items() if split is not None}
    total = sum(sizes.values())
    counts = ", ".join(f"{size:,} for {name} ({100 * size / total:.1f} %)" for name, size in sizes.items())
    if drawn:
        named = [
            f"test (fold {data.fold} of {data.folds})" if split == "test" and data.folds else split for split in drawn
        ]
        whole = "" if groups is None else f"in whole groups (by {groups.what}), "
        how = f"{' and '.join(named)} drawn at random, {whole}class by class, with split seed {data.split_seed}"
    else:
        how = "all splits as the data brings them"
    grouped = "" if groups is None else f" in {len(groups.names):,} groups"
    notes = "" if "validation" in sizes else " Nothing is held out to choose by: the last weights are the result."
    if groups is not None and len(groups.names) == total:
        notes += f" Groups have no effect: by {groups.what}, every image is one of its own."
    return f"{total:,} images of {classes:,} classes{grouped} from {data.source}: {counts}; {how}.{notes}"
