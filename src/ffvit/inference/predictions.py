"""A network's predictions, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from ffvit.errors import DataError, ModelError, RunFolderError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.csv_formulas import escape_formula, unescape_formula
from ffvit.terminal import printable


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one network for one set of images, in the order of the set.

    Attributes:
        labels: The true class of each image.
        predicted: The class with the highest logit, the lower class number where two are equal.
        in_top5: Whether the true class is among the five highest logits, ties broken the same way.
        loss: Negative log likelihood of the true class, in nats.
        confidence: Softmax probability of the predicted class, 0 to 1.
        logits: The logits that were kept: all of them, unless the set is too large for that.
        logits_of: Which images the kept logits belong to.
        classes: The name of each class.

    Raises:
        UserError: There is no image, a label is none of the classes, or a loss or logit is not finite.
    """

    labels: Int64[np.ndarray, " images"]
    predicted: Int64[np.ndarray, " images"]
    in_top5: Bool[np.ndarray, " images"]
    loss: Float32[np.ndarray, " images"]
    confidence: Float32[np.ndarray, " images"]
    logits: Float32[np.ndarray, "kept classes"]
    logits_of: Int64[np.ndarray, " kept"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_labels(self.labels, self.classes)
        if not (np.isfinite(self.loss).all() and np.isfinite(self.logits).all()):
            raise ModelError("predictions: the network gave logits that are not finite, so nothing can be measured")

    @classmethod
    def of(
        cls, logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], classes: Sequence[str]
    ) -> Predictions:
        """The predictions that logits are, with all logits kept.

        Raises:
            UserError: As for the class itself.
        """
        _check_labels(labels.numpy(force=True), classes)
        logits, labels = logits.detach().float(), labels.long()
        truth = labels[:, None]
        log_probabilities = logits.log_softmax(dim=1)
        own = logits.gather(1, truth)
        # A constant network must not have all classes in its top five, so of equal logits the lower class comes first,
        # as in argmax.
        is_lower = torch.arange(len(classes), device=logits.device) < truth
        ahead = ((logits > own) | ((logits == own) & is_lower)).sum(dim=1)
        return cls(
            labels=labels.numpy(force=True),
            predicted=logits.argmax(dim=1).numpy(force=True),
            in_top5=(ahead < 5).numpy(force=True),
            loss=(-log_probabilities.gather(1, truth)[:, 0]).numpy(force=True),
            confidence=log_probabilities.amax(dim=1).exp().numpy(force=True),
            logits=logits.numpy(force=True),
            logits_of=np.arange(len(labels)),
            classes=tuple(classes),
        )

    @property
    def correct(self) -> Bool[np.ndarray, " images"]:
        """Whether each image was predicted correctly."""
        return self.predicted == self.labels

    def to_csv(self, path: Path, names: Sequence[str], groups: Sequence[str] | None = None) -> None:
        """Write one line an image: image, label, predicted, correct, confidence (0 to 1), loss (nats), and any group.

        The same predictions make the same bytes. What a spreadsheet would run as a formula gets an apostrophe in front.

        Args:
            path: The file to write.
            names: What to call each image, its path for example.
            groups: The group of each image, if images belong together.

        Raises:
            UserError: There are more or fewer names or groups than images.
            DiskFullError: The disk is full; what stood at `path` is untouched.
        """
        for what, given in (("image names", names), ("groups", groups)):
            if given is not None and len(given) != len(self.labels):
                raise UserError(f"predictions: {len(given)} {what} were given for {len(self.labels)} images")
        classes = np.array([escape_formula(name) for name in self.classes], dtype=object)
        columns = {
            "image": _text(names),
            "label": pd.Series(classes[self.labels], dtype=object),
            "predicted": pd.Series(classes[self.predicted], dtype=object),
            "correct": self.correct,
            "confidence": self.confidence,
            "loss": self.loss,
        }
        if groups is not None:
            columns["group"] = _text(groups)
        with atomic_path(path, "do it again") as temporary:
            # A file's name may hold bytes that are no text; they are written as they are.
            pd.DataFrame(columns).to_csv(
                temporary,
                index=False,
                float_format="%.6f",
                lineterminator="\n",
                encoding="utf-8",
                errors="surrogateescape",
            )


def read_predictions(path: Path) -> pd.DataFrame:
    r"""A run's predictions.csv, also with a class that is called NA; bytes that are no text are escaped (`\xe9`)."""
    text = {"image": object, "label": object, "predicted": object, "group": object}
    types: Any = text | {"correct": bool}
    try:
        predictions = pd.read_csv(
            path, dtype=types, keep_default_na=False, encoding="utf-8", encoding_errors="surrogateescape"
        )
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path}: is damaged ({reason}); delete {path.parent} to have the run done again"
        ) from None
    if absent := [name for name in ("image", "label", "predicted", "correct") if name not in predictions]:
        raise RunFolderError(
            f"{path}: is damaged (it has no column {absent[0]!r}); delete {path.parent} to have the run done again"
        )
    for column in text.keys() & predictions:
        cells = [printable(unescape_formula(cell)) for cell in predictions[column]]
        predictions[column] = pd.Series(cells, index=predictions.index, dtype=object)
    return predictions


def _text(cells: Sequence[str]) -> pd.Series:
    """Cells of a CSV file, as objects: pandas' own text holds no bytes that are not UTF-8."""
    return pd.Series([escape_formula(cell) for cell in cells], dtype=object)


def _check_labels(labels: Int[np.ndarray, " images"], classes: Sequence[str]) -> None:
    if not len(labels):
        raise DataError("predictions: there is no image to measure on")
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(outside):
        raise DataError(
            f"predictions: labels must be 0 to {len(classes) - 1}, one for each of the {len(classes)} classes; "
            f"image {outside[0]} has {labels[outside[0]]}, and {len(outside)} of {len(labels)} images are outside"
        )
