"""How much of a trained ViT's attention can be replaced: `python benchmarks/convert.py DATA --out FOLDER`.

A ViT is trained with each seed and converted by `ffvit convert` down to no attention, with both controls. Printed are
the curve over seeds, the layers before anything is trained, and how well what is known then predicts what they cost. What is there is
kept, so that a command that was stopped goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
import numpy as np
from cyclopts import Parameter
from plots import picture
from pydantic import PositiveInt
from rich.console import Console
from scipy import stats

import ffvit
from ffvit import Architecture
from ffvit.config.architecture import transformer
from ffvit.config.recipe import RECIPES
from ffvit.conversion.record import FILE, Conversion, read_record
from ffvit.plot_style import ARMS, MUTED
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device
from ffvit.run_folder import Run


def main(
    data: Path,
    *,
    out: Annotated[Path, Parameter(name="--out")],
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2),
    depth: PositiveInt = 6,
    epochs: PositiveInt = 16,
    step_epochs: PositiveInt = 1,
    replacement: Literal["static", "linear", "pooling"] = "static",
    picture_out: Path | None = None,
    train_only: bool = False,
) -> None:
    """Train, convert, and print the tables.

    Parameters
    ----------
    data
        Grey images of 28 x 28 pixels with train/ and val/.
    out
        Folder of the runs.
    seeds
        Of the trainings and conversions.
    depth
        Blocks of the ViT.
    epochs
        Of its training.
    step_epochs
        Of the training after each replacement.
    replacement
        What takes the place of attention.
    picture_out
        Draw the curves there (PNG).
    train_only
        Train and convert; print nothing, as where seeds are shared over processes.
    """
    hardware = ffvit.Hardware(precision="fp32", workers=0)
    records = []
    for seed in seeds:
        run = _trained(data, out / f"vit-{seed}", seed, depth, epochs, hardware)
        folder = out / f"{replacement}-{seed}"
        resume = (folder / FILE).is_file()
        record = read_record(folder) if resume else None
        if record is None or len(record.costs) <= depth:
            record = ffvit.convert(
                run.path, out=folder, max_loss=100, replacement=replacement, recipe={"epochs": step_epochs}, seed=seed,
                hardware=hardware, resume=resume,
            )  # fmt: skip
        records.append(record)
    if train_only:
        return
    console = Console(width=130, highlight=False)
    console.print(
        f"{machine_name(default_device())}; {data.name}; {len(records)} seeds; mean (95 % interval over seeds)\n"
    )
    console.print(f"{_curve(records)}\n\n{_layers(records)}\n\n{_predictions(records)}", markup=False)
    if picture_out is not None:
        _draw(records, picture_out)


def _trained(data: Path, folder: Path, seed: int, depth: int, epochs: int, hardware: ffvit.Hardware) -> Run:
    if (folder / "summary.json").is_file():
        return Run(folder)
    # Initial weights and positions as a study chooses them.
    network = Architecture(
        width=64, depth=depth, block=transformer(heads=2), img_size=28, patch=4, in_chans=1, readout="mean",
        position="vectors", position_std=0.7, init="pytorch",
    )  # fmt: skip
    recipe = RECIPES["digits"].replace(epochs=epochs, crop_scale=(0.85, 1.0), flip=0.5)
    return ffvit.train(network, data, recipe, out=folder, seed=seed, hardware=hardware, loggers=())


def _interval(values: list[float], digits: int = 1) -> str:
    """Mean and 95 % interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} to {mean + half:.{digits}f})"


def _curve(records: list[Conversion]) -> str:
    """Top-1 by the number of attention layers that are left."""
    arms, count = records[0].arms, len(records[0].order)
    lines = ["| attention layers left | " + " | ".join(arms) + " | parameters, M | MFLOPs | latency, ms |"]
    lines.append("|" + "---|" * (len(arms) + 4))
    for number in range(count + 1):
        cells = []
        for arm in arms:
            steps = [{step.number: step for step in record.of_arm(arm)}.get(number) for record in records]
            measured = [
                record.original if not number else step.measured if step else None
                for record, step in zip(records, steps, strict=True)
            ]
            values = [100 * each.test.value for each in measured if each is not None]
            cells.append(_interval(values) if values else "-")
        costs = [record.costs[number] for record in records]
        cells.append(f"{costs[0].parameters / 1e6:.3f}")
        cells.append(f"{costs[0].flops / 1e6:.1f}")
        cells.append(f"{1000 * np.median([cost.seconds for cost in costs]):.2f}")
        lines.append(f"| {count - number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _layers(records: list[Conversion]) -> str:
    """What was known of each layer before anything was trained."""
    lines = [
        "| block | static share of the maps, % | left over by the closed form, % | replaced alone, untrained: KL, nats | top-1 lost, "
        "points | replaced as number |",
        "|" + "---|" * 6,
    ]
    for place, layer in enumerate(records[0].layers):
        rows = [record.layers[place] for record in records]
        places = [[block for block, _ in record.order].index(layer.block) + 1 for record in records]
        lines.append(
            f"| {layer.block} | {_interval([100 * row.static_share for row in rows], 0)} "
            f"| {_interval([100 * (row.unexplained or 0) for row in rows], 0)} "
            f"| {_interval([row.divergence for row in rows], 3)} | {_interval([100 * row.top1_lost for row in rows])} "
            f"| {', '.join(map(str, places))} |"
        )
    return "\n".join(lines)


def _predictions(records: list[Conversion]) -> str:
    """How well the layers are ranked by what is known before."""
    lines = []
    for name, known in (("static share", "static_share"), ("share left over by the closed form", "unexplained")):
        ranks = []
        for record in records:
            values = [getattr(layer, known) for layer in record.layers]
            ranks.append(stats.spearmanr(values, [layer.divergence for layer in record.layers]).statistic)
        lines.append(
            f"rank correlation of the {name} with the KL divergence, by seed: {', '.join(f'{r:+.2f}' for r in ranks)}"
        )
    return "\n".join(lines)


def _draw(records: list[Conversion], path: Path) -> None:
    count = len(records[0].order)
    with picture(path) as figure:
        curve, layers = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, arm in enumerate(records[0].arms):
            table = np.array(
                [
                    [100 * record.original.test.value, *(100 * step.measured.test.value for step in record.of_arm(arm))]
                    for record in records
                    if record.original is not None
                ]
            )
            left = count - np.arange(table.shape[1])
            for row in table:
                curve.plot(left, row, color=ARMS[number], lw=0.6, alpha=0.5)
            name = f"{arm} maps instead" if arm == "static" else arm
            curve.plot(left, table.mean(axis=0), color=ARMS[number], marker="osD"[number], ms=4, lw=1.6, label=name)
        curve.invert_xaxis()
        curve.set(
            xlabel="attention layers left",
            ylabel="top-1 on the test images, %",
            title="Attention replaced, layer by layer",
        )
        curve.grid(axis="y", color=MUTED, alpha=0.2, lw=0.5)
        curve.legend(loc="lower left")
        for number, record in enumerate(records):
            shares = [100 * layer.static_share for layer in record.layers]
            costs = [layer.divergence for layer in record.layers]
            layers.scatter(shares, costs, s=18, color=ARMS[number], marker="osD"[number % 3], label=f"seed {number}")
        layers.set(
            xlabel="static share of the attention maps, %",
            ylabel="KL divergence, nats an image",
            title="One layer replaced, untrained",
        )
        layers.set_ylim(bottom=0)
        layers.grid(color=MUTED, alpha=0.2, lw=0.5)
        layers.legend()


if __name__ == "__main__":
    cyclopts.run(main)
