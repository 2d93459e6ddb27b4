"""How well a network predicts corrupted images and shifted data sets, as tables for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.inference.corruptions import CLEAN
from ffvit.inference.intervals import Difference, PairedDifference, Proportion
from ffvit.terminal import build_table

if TYPE_CHECKING:
    from ffvit.inference.evaluate import Score
    from ffvit.inference.robustness import Robustness

OVER_IMAGES = "Intervals are over images; another training run differs by more."


def robustness_report(score: Score, name: str, reference: str) -> Group | None:
    """The reference, the corruptions and the shifted data sets of a score, as far as it has them; None: it has none.

    Args:
        score: The score.
        name: What the network is called.
        reference: What the network to compare with is called.
    """
    parts: list[RenderableType] = []
    other, less = score.reference, score.less_reference
    if other is not None and less is not None:
        parts.append(_heading(f"{name} less {reference}, on the same images"))
        parts += [Text(f"Warning, of {reference}: {warning}.", style="bold red") for warning in other.warnings]
        rows = [("top-1", share(score.evaluation.top1), share(other.evaluation.top1), points(less))]
        parts.append(build_table(("", "top-1 %", "reference %", "difference, points"), rows))
    if score.robustness is not None:
        images = f"{score.robustness.correct.shape[1]:,} images, seed {score.robustness.seed}"
        parts.append(_heading(f"Corrupted images: top-1 in percent with its 95 % interval; {images}"))
        parts.append(corruption_table(score.robustness, other.robustness if other else None))
    if score.shifts:
        parts.append(_heading("Shifted data sets: top-1 in percent with its 95 % interval"))
        parts.append(_shift_table(score))
        parts += [Text(f"{note}.", style="dim") for shift in score.shifts for note in shift.notes]
        parts += [
            Text(f"Warning: {len(shift.bad):,} images of {shift.data} could not be read.", style="bold red")
            for shift in score.shifts
            if shift.bad
        ]
    return Group(*parts, Text(OVER_IMAGES, style="dim")) if parts else None


def corruption_table(own: Robustness, reference: Robustness | None = None, *, markdown: bool = False) -> Table:
    """A row for each corruption: accuracy at each severity and their mean, or the mean beside the reference's."""
    if reference is None:
        heads = ["corruption", *(f"severity\n{level}" for level in own.severities), "mean"]
    else:
        heads = ["corruption", "top-1 %", "reference %", "difference, points"]
    rows: list[Sequence[str]] = []
    for name, corruptions in row_names(own):
        if reference is not None:
            less = own.less(reference, corruptions)
            rows.append((name, share(own.top1(corruptions)), share(reference.top1(corruptions)), points(less)))
        else:
            levels = [
                "" if corruptions == (CLEAN.corruption,) else f"{100 * own.top1(corruptions, level).value:.1f}"
                for level in own.severities
            ]
            rows.append((name, *levels, share(own.top1(corruptions))))
    return build_table(heads, rows, markdown=markdown)


def row_names(robustness: Robustness) -> Iterator[tuple[str, Sequence[str]]]:
    """The rows of a table: a name, and the corruptions whose mean it is."""
    yield "as they are", (CLEAN.corruption,)
    for name in robustness.averaged:
        yield title(name), (name,)
    if len(robustness.averaged) > 1:
        yield f"mean of {len(robustness.averaged)}", robustness.averaged
    for name in robustness.corruptions:
        if name not in robustness.averaged:
            yield title(name), (name,)


def title(corruption: str) -> str:
    """A corruption's name in words."""
    return corruption.replace("_", " ").replace("jpeg", "JPEG")


def share(proportion: Proportion) -> str:
    """A share in percent with its interval: 97.2 (95.0-98.5)."""
    return f"{100 * proportion.value:.1f} ({100 * proportion.low:.1f}-{100 * proportion.high:.1f})"


def points(difference: Difference | PairedDifference) -> str:
    """A difference in percentage points with its interval: -1.2 (-3.0 to +0.6)."""
    return f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def _shift_table(score: Score) -> Table:
    heads = ["images", "number", "top-1", "usual images", "change, points"]
    rows = []
    others = score.reference.shifts if score.reference else ()
    for number, shift in enumerate(score.shifts):
        usual = "-" if shift.usual_top1 is None else share(shift.usual_top1)
        change = "-" if shift.change is None else points(shift.change)
        row = [shift.data, f"{len(shift.correct):,}", share(shift.top1), usual, change]
        rows.append([*row, points(shift.less(others[number]))] if others else row)
    return build_table([*heads, "less\nreference"] if others else heads, rows)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
