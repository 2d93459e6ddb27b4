"""An evaluation as tables for the terminal: readable at 80 columns, and without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.inference.intervals import Proportion
from ffvit.inference.metrics import ClassMetrics, Evaluation


def report(evaluation: Evaluation, title: str, warnings: Sequence[str] = ()) -> Group:
    """The evaluation for `rich.console.Console().print`: warnings, summary, classes, confusion matrix, wrong answers.

    With more than 25 classes, only the ten of lowest F1 are shown; with more than 12, no confusion matrix.
    """
    return Group(*_parts(evaluation, title, warnings))


def _parts(evaluation: Evaluation, title: str, warnings: Sequence[str]) -> Iterator[RenderableType]:
    # Names are Text all through: in a plain string, rich would take [brackets] for its markup.
    yield _heading(f"{title}, {evaluation.images:,} images, {len(evaluation.per_class):,} classes")
    for warning in warnings:
        yield Text(f"Warning: {warning}.", style="bold red")
    yield _summary(evaluation)
    if evaluation.temperature is not None:
        yield Text(_about_calibration(evaluation), style="dim")
    present = [each for each in evaluation.per_class if each.f1]
    if len(evaluation.per_class) <= 25:
        yield _heading("\nClasses, each share with its 95 % interval")
        yield _classes(evaluation.per_class)
    else:
        worst = sorted(present, key=lambda each: each.f1.value if each.f1 else 0.0)[:10]
        yield _heading(f"\nThe {len(worst)} classes of lowest F1, of {len(present):,} with images")
        yield _classes(worst)
    if len(evaluation.per_class) <= 12:
        yield _heading("\nConfusion, in images: a row for each class, a column for each answer")
        yield _confusion(evaluation)
    if evaluation.worst_pairs:
        yield _heading("\nMost frequent wrong answers")
        yield _worst_pairs(evaluation)
    else:
        yield Text("\nNo image was answered wrongly.")


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")


def percent(share: float) -> str:
    """A share as people write it: 97.2 %."""
    return f"{100 * share:.1f} %"


def _summary(evaluation: Evaluation) -> Table:
    def share(name: str, proportion: Proportion) -> tuple[str, str, str]:
        return name, percent(proportion.value), f"{100 * proportion.low:.1f} to {100 * proportion.high:.1f} %"

    table = _table()
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row(*share("top-1 accuracy", evaluation.top1))
    if evaluation.top5:
        table.add_row(*share("top-5 accuracy", evaluation.top5))
    table.add_row("balanced accuracy", percent(evaluation.balanced_accuracy))
    table.add_row("macro precision", percent(evaluation.macro_precision))
    table.add_row("macro F1", percent(evaluation.macro_f1))
    loss = evaluation.loss
    table.add_row(
        "loss", f"{loss.value:.3f} nats", "" if loss.low is None else f"{loss.low:.3f} to {loss.high:.3f} nats"
    )
    if evaluation.calibration_error is not None:
        table.add_row("calibration error", percent(evaluation.calibration_error))
    if evaluation.calibration_error_at_temperature is not None:
        name = f"  at temperature {evaluation.temperature:.2f}"
        table.add_row(name, percent(evaluation.calibration_error_at_temperature))
    return table


def _about_calibration(evaluation: Evaluation) -> str:
    if evaluation.temperature_given:
        fitted = "The temperature was fitted on other images."
    else:
        fitted = "The temperature was fitted here; each half is judged at that of the other half."
    if evaluation.calibration_images < evaluation.images:
        fitted += f" Calibration is of the {evaluation.calibration_images:,} images whose logits were kept."
    return fitted


def _classes(shown: Sequence[ClassMetrics]) -> Table:
    table = _table()
    table.add_column("class", overflow="fold")
    for name in ("images", "precision %", "recall %", "F1 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in shown:
        table.add_row(Text(each.name), f"{each.support:,}", *_cells(each))
    return table


def _cells(measures: ClassMetrics) -> Iterator[str]:
    for share in (measures.precision, measures.recall, measures.f1):
        yield f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})" if share else "-"


def _confusion(evaluation: Evaluation) -> Table:
    table = _table()
    table.add_column("class", overflow="fold")
    numbers = range(1, len(evaluation.per_class) + 1)
    names = [each.name for each in evaluation.per_class]
    short = all(len(name) <= 3 for name in names)  # then they stand above the columns themselves, not numbers
    width = len(str(evaluation.confusion.max()))
    for number, name in zip(numbers, names, strict=True):
        table.add_column(Text(name if short else str(number)), justify="right", overflow="fold", min_width=width)
    for number, each, row in zip(numbers, evaluation.per_class, evaluation.confusion.tolist(), strict=True):
        cells = [
            Text(str(count), style=_shade(count / each.support, right=answer == number)) if count else Text(".")
            for answer, count in zip(numbers, row, strict=True)
        ]
        table.add_row(Text(each.name if short else f"{number:2} {each.name}"), *cells)
    return table


def _shade(share: float, *, right: bool) -> str:
    """Blue for right answers, red for wrong ones, from pale to full by the share of the truth's images."""
    red, green, blue = (33, 102, 172) if right else (178, 24, 43)
    # The root, and not from white, because the few images of a mistake are what one looks for.
    weight = 0.2 + 0.8 * sqrt(share)
    background = ",".join(str(round(255 - weight * (255 - part))) for part in (red, green, blue))
    return f"{'white' if weight > 0.75 else 'black'} on rgb({background})"


def _worst_pairs(evaluation: Evaluation) -> Table:
    table = _table()
    table.add_column("truth", overflow="fold")
    table.add_column("answer", overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("of the truth", justify="right", no_wrap=True)
    for pair in evaluation.worst_pairs:
        table.add_row(Text(pair.truth), Text(pair.answer), f"{pair.count:,}", percent(pair.share))
    return table
