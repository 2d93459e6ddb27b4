"""An evaluation as tables for the terminal: readable at 80 columns, and without colour."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.inference.intervals import Proportion
from ffvit.inference.metrics import ClassMetrics, Evaluation
from ffvit.terminal import percent


def report(evaluation: Evaluation, title: str, warnings: Sequence[str] = ()) -> Group:
    """The evaluation for `rich.console.Console().print`: warnings, summary, classes, confusion matrix, mistakes.

    With more than 25 classes, only the ten of lowest F1 are shown; with more than 12, no confusion matrix.
    """
    # Names are Text all through: in a plain string, rich would take [brackets] for its markup.
    classes = len(evaluation.per_class)
    parts: list[RenderableType] = [_heading(f"{title}, {evaluation.images:,} images, {classes:,} classes")]
    parts += [Text(f"Warning: {warning}.", style="bold red") for warning in warnings]
    parts.append(_summary(evaluation))
    if evaluation.temperature is not None:
        parts.append(Text(_calibration_note(evaluation), style="dim"))
    if classes <= 25:
        parts += [_heading("\nClasses, each share with its 95 % interval"), _classes(evaluation.per_class)]
    else:
        present = [metrics for metrics in evaluation.per_class if metrics.f1]
        worst = sorted(present, key=lambda metrics: metrics.f1.value if metrics.f1 else 0.0)[:10]
        parts += [
            _heading(f"\nThe {len(worst)} classes of lowest F1, of {len(present):,} with images"),
            _classes(worst),
        ]
    if classes <= 12:
        parts.append(_heading("\nConfusion matrix, in images: a row for each class, a column for each prediction"))
        parts.append(_confusion(evaluation))
    if evaluation.worst_pairs:
        parts += [_heading("\nMost frequent mistakes"), _worst_pairs(evaluation)]
    else:
        parts.append(Text("\nEvery image was predicted correctly."))
    return Group(*parts)


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")


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


def _calibration_note(evaluation: Evaluation) -> str:
    if evaluation.temperature_given:
        note = "The temperature was fitted on other images."
    else:
        note = "The temperature was fitted here; each half is judged at that of the other half."
    if evaluation.calibration_images < evaluation.images:
        note += f" Calibration is of the {evaluation.calibration_images:,} images whose logits were kept."
    return note


def _classes(shown: Sequence[ClassMetrics]) -> Table:
    table = _table()
    table.add_column("class", overflow="fold")
    for name in ("images", "precision %", "recall %", "F1 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for metrics in shown:
        shares = (
            f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})" if share else "-"
            for share in (metrics.precision, metrics.recall, metrics.f1)
        )
        table.add_row(Text(metrics.name), f"{metrics.support:,}", *shares)
    return table


def _confusion(evaluation: Evaluation) -> Table:
    table = _table()
    table.add_column("class", overflow="fold")
    names = [metrics.name for metrics in evaluation.per_class]
    short = all(len(name) <= 3 for name in names)  # then they stand above the columns themselves, not numbers
    width = len(str(evaluation.confusion.max()))
    for number, name in enumerate(names, 1):
        table.add_column(Text(name if short else str(number)), justify="right", overflow="fold", min_width=width)
    for number, row in enumerate(evaluation.confusion.tolist(), 1):
        name, support = names[number - 1], evaluation.per_class[number - 1].support
        cells = [
            Text(str(count), style=_shade(count / support, correct=column == number)) if count else Text(".")
            for column, count in enumerate(row, 1)
        ]
        table.add_row(Text(name if short else f"{number:2} {name}"), *cells)
    return table


def _shade(share: float, *, correct: bool) -> str:
    """Blue for correct predictions, red for mistakes, from pale to full by their share of the class's images."""
    red, green, blue = (33, 102, 172) if correct else (178, 24, 43)
    # The root, and not from white, because the few images of a mistake are what one looks for.
    weight = 0.2 + 0.8 * sqrt(share)
    background = ",".join(str(round(255 - weight * (255 - part))) for part in (red, green, blue))
    return f"{'white' if weight > 0.75 else 'black'} on rgb({background})"


def _worst_pairs(evaluation: Evaluation) -> Table:
    table = _table()
    table.add_column("class", overflow="fold")
    table.add_column("predicted as", overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("of the class", justify="right", no_wrap=True)
    for pair in evaluation.worst_pairs:
        table.add_row(Text(pair.label), Text(pair.predicted), f"{pair.count:,}", percent(pair.share))
    return table
