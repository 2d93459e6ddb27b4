"""A conversion as a table for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from ffvit.conversion.record import Conversion
from ffvit.terminal import build_table


def report(record: Conversion) -> Group:
    """A row for each number of layers replaced, and what came of it."""
    assert record.original is not None
    controls = [arm for arm in record.arms if arm != record.replacement]
    headings = [
        "attention\nleft", "block", "top-1\n%", "less original\npoints, 95 % interval", "params\nM", "time\nms",
        *(f"{arm.split()[0]}\n%" for arm in controls),
    ]  # fmt: skip
    by_arm = {arm: {step.number: step for step in record.of_arm(arm)} for arm in record.arms}
    first = f"{100 * record.original.test.value:.1f}"
    rows = [[str(len(record.order)), "-", first, "", *_costs(record, 0), *(first for _ in controls)]]
    for number, step in by_arm.get(record.replacement, {}).items():
        others = [by_arm[arm].get(number) for arm in controls]
        shares = [f"{100 * other.measured.test.value:.1f}" if other else "-" for other in others]
        mark, less = "*" if step == record.chosen else "", step.measured.less_original
        rows.append(
            [
                f"{mark}{step.left}",
                str(step.block),
                f"{100 * step.measured.test.value:.1f}",
                f"{100 * less.value:+.1f} ({100 * less.low:+.1f} to {100 * less.high:+.1f})",
                *_costs(record, number),
                *shares,
            ]
        )
    heading = Text(f"attention replaced by: {record.replacement}; controls on the right; test images\n", "bold")
    return Group(heading, build_table(headings, rows, words=(), gap=1), Text(f"\n{_outcome(record)}"))


def _costs(record: Conversion, number: int) -> tuple[str, str]:
    if number >= len(record.costs):
        return "", ""
    costs = record.costs[number]
    return f"{costs.parameters / 1e6:.2f}", f"{1000 * costs.seconds:.2f}"


def _outcome(record: Conversion) -> str:
    if record.chosen is None:
        return (
            f"No attention layer could be replaced without losing more than {record.max_loss:g} points of top-1 on the "
            "validation images. More epochs (--epochs) may help."
        )
    return (
        f"* chosen: {record.chosen.left} of {len(record.order)} attention layers left, for at most {record.max_loss:g} points of "
        f"top-1 on the validation images. {record.folder} is its run folder; the curves are in {record.folder / 'conversion.png'}"
    )
