"""Accuracy at image sizes that a network was not trained at: `python benchmarks/resolution.py DATA --out FOLDER`.

FF-only, Toeplitz and attention networks of the same body are trained at each size, and evaluated at 0.5 to 2 times of it
without more training: the weights over patches of FF-only by every method, the positions of attention by timm's. Then they are trained
on shortly at the other size. Runs that are there are kept, so that a command that was stopped goes on.

The images must be larger than the largest size, or they are enlarged: what is measured then is what the network makes of the same
picture in more patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import pandas as pd
from cyclopts import Parameter
from plots import picture
from pydantic import PositiveInt
from rich.console import Console
from scipy import stats

import ffvit
from ffvit import Architecture, Branch, Recipe
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.config.recipe import RECIPES
from ffvit.models.image_size import set_image_size
from ffvit.models.token_resize import METHODS
from ffvit.plot_style import ARMS
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device
from ffvit.run_folder import Run
from ffvit.terminal import track

FACTORS = 0.5, 0.75, 1.0, 1.25, 1.5, 2.0
SCALES = {"FF-only, trained at 0.5, 1 and 1.5": (1.0, 0.5, 1.5)}
AGAIN = 0.5, 2.0
"""Where they are trained on, too."""

BLOCKS: dict[str, tuple[Branch, ...]] = {
    "FF-only": FF_ONLY,
    "Toeplitz": (Branch("toeplitz", "patches"), Branch("feedforward", "features")),
    "attention": transformer(heads=3),
    "FF-only, trained at 0.5, 1 and 1.5": FF_ONLY,
}
NAMES = {
    "pinv": "FF-only, pseudo-inverse (area)",
    "bilinear": "FF-only, pseudo-inverse (bilinear)",
    "interpolate": "FF-only, both fields interpolated",
    "block": "FF-only, block-diagonal",
    "patch": "FF-only, patch grows instead",
}


def main(
    data: Path,
    *,
    out: Annotated[Path, Parameter(name="--out")],
    sizes: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (16, 24, 32),
    patch: PositiveInt = 4,
    seeds: PositiveInt = 3,
    epochs: PositiveInt = 25,
    picture_out: Path | None = None,
) -> None:
    """Train, evaluate at other sizes, and print the tables.

    Parameters
    ----------
    data
        Grey images with train/ and val/.
    out
        Folder of the runs.
    sizes
        Image sizes to train at, in pixels.
    patch
        Side of a patch in pixels.
    seeds
        Runs of each network at each size.
    epochs
        Epochs of each run; the runs that are trained on have a fifth of them.
    picture_out
        Draw the accuracies there (PNG).
    """
    console = Console(width=130, highlight=False)
    console.print(f"{machine_name(default_device())}; {data.name}; {seeds} seeds; top-1 in %, mean (95 % interval)\n")
    tables = []
    for size in sizes:
        rows = []
        for name, seed in track([(name, seed) for name in BLOCKS for seed in range(seeds)], f"{size} px"):
            run = _trained(data, out, name, size, patch, seed, epochs)
            for factor in FACTORS:
                other = round(size * factor / patch) * patch
                scores = _scores(run, data / "val", name, other)
                if factor in AGAIN and name not in SCALES:
                    scores[f"{name}, trained on"] = _trained_on(run, out, other, epochs)
                rows += [
                    {"size": size, "factor": factor, "method": method, "seed": seed, "top1": share}
                    for method, share in scores.items()
                ]
        tables.append(pd.DataFrame(rows))
        console.print(f"trained at {size} px\n\n{_markdown(tables[-1], size, patch)}\n")
    table = pd.concat(tables)
    if picture_out is not None:
        _draw(table, sizes, picture_out)


def _recipe(epochs: int, warmup: int) -> Recipe:
    return RECIPES["digits"].replace(epochs=epochs, warmup_epochs=warmup, lr=4e-3)


def _trained(data: Path, out: Path, name: str, size: int, patch: int, seed: int, epochs: int) -> Run:
    folder = out / f"{name}-{size}-{seed}"
    if (folder / "summary.json").is_file():
        return Run(folder)
    # Initial weights and positions as a study chooses them: the paper's, for a width of 768, starve attention at 48.
    network = Architecture(
        width=48, depth=4, block=BLOCKS[name], img_size=size, patch=patch, in_chans=1, readout="mean",
        position="vectors", position_std=0.7, init="pytorch",
    )  # fmt: skip
    return ffvit.train(
        network, str(data), recipe=_recipe(epochs, 3).replace(image_scales=SCALES.get(name, ())), seed=seed, out=folder, overwrite=folder.exists(),
        hardware=ffvit.Hardware(workers=0),
    )  # fmt: skip


def _trained_on(run: Run, out: Path, size: int, epochs: int) -> float:
    folder = out / f"{run.path.name}-to-{size}"
    if not (folder / "summary.json").is_file():
        ffvit.train(
            None, run.config.data, recipe=_recipe(max(1, epochs // 5), 0).replace(lr=1e-3), start_from=run.path,
            image_size=size, seed=run.config.seed, out=folder, overwrite=folder.exists(),
            hardware=ffvit.Hardware(workers=0),
        )  # fmt: skip
    summary = Run(folder).summary()
    assert summary is not None
    return summary["test"]["top1"]["value"]


def _scores(run: Run, data: Path, name: str, size: int) -> dict[str, float]:
    """Top-1 at another size by every method that serves it."""
    trained = ffvit.load(run.path).architecture
    methods = ("pinv",)
    if name == "FF-only" and size != trained.img_size[0]:
        methods = tuple(method for method in METHODS if method != "block" or size % trained.img_size[0] == 0)
    scores = {
        NAMES[method] if name == "FF-only" else name: _top1(ffvit.load(run.path), data, size, method)
        for method in methods
    }
    patch = size // trained.grid[0]
    if name == "FF-only" and patch * trained.grid[0] == size != trained.img_size[0]:
        network = ffvit.load(run.path)
        set_image_size(network, (size, size), (patch, patch))
        scores[NAMES["patch"]] = _top1(network, data, size, "pinv")
    if size == trained.img_size[0] and name == "FF-only":
        scores = dict.fromkeys(NAMES.values(), scores[NAMES["pinv"]])
    return scores


def _top1(network, data: Path, size: int, method: str) -> float:
    score = ffvit.evaluate(
        network, str(data), image_size=size, resize_method=method, hardware=ffvit.Hardware(workers=0)
    )
    return score.evaluation.top1.value


def _interval(shares: pd.Series) -> tuple[float, float, float]:
    half = stats.t.ppf(0.975, len(shares) - 1) * shares.std() / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
    return shares.mean(), shares.mean() - half, shares.mean() + half


def _markdown(table: pd.DataFrame, size: int, patch: int) -> str:
    lines = ["| | " + " | ".join(f"{round(size * factor / patch) * patch} px" for factor in FACTORS) + " |"]
    lines.append("|---|" + "---|" * len(FACTORS))
    for method in dict.fromkeys(table["method"]):
        cells = []
        for factor in FACTORS:
            shares = 100 * table.loc[(table["method"] == method) & (table["factor"] == factor), "top1"]
            mean, low, high = _interval(shares) if len(shares) else (np.nan,) * 3
            cells.append("" if np.isnan(mean) else f"{mean:.1f} ({low:.1f} to {high:.1f})")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _draw(table: pd.DataFrame, sizes: tuple[int, ...], path: Path) -> None:
    lines = [method for method in dict.fromkeys(table["method"]) if "trained on" not in method]
    with picture(path) as figure:
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            for method, colour in zip(lines, (*ARMS, "#555555", "#000000"), strict=True):
                part = table[(table["size"] == size) & (table["method"] == method)]
                means = 100 * part.groupby("factor")["top1"].mean()
                axes.plot(means.index, means, "o-", color=colour, ms=3, lw=1.3, label=method)
            axes.set_title(f"trained at {size} px")
            axes.set_xlabel("times the trained size")
            axes.set_xticks([0.5, 1, 1.5, 2])
        panels[0].set_ylabel("top-1, %")
        panels[0].set_ylim(0, 100)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)


if __name__ == "__main__":
    cyclopts.run(main)
