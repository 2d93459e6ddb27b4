"""The files of an evaluation: its figures as JSON, its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ffvit.errors import UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.output_file import check_output, is_evaluation, is_plot, is_predictions

if TYPE_CHECKING:
    from ffvit.inference.evaluate import Score


def check_files(figures: Path | None, predictions: Path | None, picture: Path | None, corrupted: bool) -> None:
    """Check, before any work, that the files that were asked for can be written.

    Raises:
        UserError: One cannot, would replace another file, or the picture is of nothing.
    """
    if figures is not None:
        check_output(figures, "--json", "file with figures of an evaluation", is_evaluation)
    if predictions is not None:
        check_output(predictions, "--predictions", "list of predictions", is_predictions)
    if picture is not None:
        if not corrupted:
            raise UserError("figure: is of corruptions: give --corruptions too")
        check_output(picture, "--figure", "picture that ffvit drew", is_plot)


def write_figures(score: Score, weights: object, reference: object, path: Path) -> None:
    """Write the figures of an evaluation to a .json file.

    Args:
        score: The evaluation.
        weights: What the network is called.
        reference: What the network to compare with is called.
        path: The file.
    """
    with atomic_path(path, "evaluate again") as temporary:
        temporary.write_text(json.dumps(score.to_dict(weights, reference), indent=2) + "\n")


def draw_corruptions(score: Score, weights: object, reference: object, path: Path) -> None:
    """Draw the accuracy under corruptions to a .png file; arguments as of `write_figures`."""
    from ffvit.inference.robustness_plot import write  # matplotlib takes its time

    scores = {str(weights): score.robustness}
    if score.reference is not None:
        scores[str(reference)] = score.reference.robustness
    write({name: robustness for name, robustness in scores.items() if robustness is not None}, path)
