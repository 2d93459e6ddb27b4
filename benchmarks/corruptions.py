"""The table and picture of docs/robustness.md: three ways of mixing patches, on corrupted digits.

python benchmarks/corruptions.py --out docs/figures/corruptions.png

Each network is trained shortly on the digits, resized to 32 pixels, as often as there are seeds; everything else is the
same. All predict the same test images under ImageNet-C's 15 corruptions and under lost and shuffled patches, at 5
severities. Figures are means over severities; intervals hold over seeds and test images (`ffvit.study.statistics`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from cyclopts import Parameter
from lightning_fabric import Fabric
from pydantic import PositiveInt
from script import run

import ffvit
from ffvit import Architecture, Branch
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.inference.corruptions import SEVERITIES, choose_corruptions
from ffvit.inference.evaluator import Evaluator
from ffvit.inference.robustness import Robustness, score_corrupted
from ffvit.inference.robustness_plot import write
from ffvit.inference.robustness_report import row_names
from ffvit.inference.run_images import splits_of
from ffvit.models.description import preprocess_of
from ffvit.profiling.hardware_peak import machine_name
from ffvit.study.statistics import Interval, crossed_difference, mean
from ffvit.terminal import Terminal, track

BLOCKS = {
    "FF only": FF_ONLY,
    "attention": transformer(heads=2),
    "convolution": (Branch("convolution", "patches"), FF_ONLY[-1]),
}
REFERENCE = "attention"


def main(
    *,
    seeds: PositiveInt = 3,
    epochs: PositiveInt = 60,
    runs: Path = Path("runs/corruptions"),
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Train three networks shortly, and score them on corrupted images.

    Parameters
    ----------
    seeds
        Runs of each network.
    epochs
        Of each run.
    runs
        Where the runs are kept; finished ones are not trained again.
    out
        Draw the picture there (PNG).
    """
    torch.set_num_threads(1)
    started = time.process_time()
    tasks = [(name, seed) for seed in range(seeds) for name in BLOCKS]
    trained = [_train(name, seed, epochs, runs) for name, seed in track(tasks, "training")]
    networks = [ffvit.load(each.path) for each in trained]
    images, preprocess = splits_of(trained[0]).test, preprocess_of(networks[0])
    evaluator = Evaluator(Fabric(accelerator="cpu", devices=1), images, preprocess, networks[0].class_names, 256, 0)
    results = score_corrupted(networks, evaluator, choose_corruptions(["all"]), SEVERITIES, 0, Terminal(stderr=True))
    by_name = {name: results[place :: len(BLOCKS)] for place, name in enumerate(BLOCKS)}

    others = [name for name in BLOCKS if name != REFERENCE]
    print(f"{machine_name(torch.device('cpu'))}; torch {torch.__version__}; digits at 32 pixels, {len(images)} test images; "
          f"seeds: {seeds}, epochs: {epochs}; {(time.process_time() - started) / 60:.0f} min of CPU time\n")  # fmt: skip
    print(f"| corruption | {' | '.join(BLOCKS)} | {' | '.join(f'{name} less {REFERENCE}' for name in others)} |")
    print(f"|---{'|---:' * (len(BLOCKS) + len(others))}|")
    for title, corruptions in row_names(results[0]):
        tables = {
            name: np.stack([each.table(corruptions).mean(axis=0) for each in seeds_of])
            for name, seeds_of in by_name.items()
        }
        shares = [_share(mean(tables[name])) for name in BLOCKS]
        less = [_points(crossed_difference(tables[name] - tables[REFERENCE], 0.95, None)) for name in others]
        print(f"| {' | '.join((title, *shares, *less))} |")
    if out is not None:
        pooled = {
            name: Robustness(each[0].conditions, np.concatenate([one.correct for one in each], axis=1), 0)
            for name, each in by_name.items()
        }
        write(pooled, out)


def _train(name: str, seed: int, epochs: int, runs: Path) -> ffvit.Run:
    folder = runs / f"{name.replace(' ', '-')}-{seed}"
    if (folder / "summary.json").exists():
        return ffvit.Run(folder)
    # As in a study: initial weights and positions of the paper starve attention at this width (docs/baselines.md).
    network = Architecture(
        width=32, depth=2, block=BLOCKS[name], img_size=32, patch=4, readout="mean", init="pytorch",
        position="vectors", position_std=0.5,
    )  # fmt: skip
    recipe = {"base": "digits", "epochs": epochs, "warmup_epochs": 2}
    hardware = {"accelerator": "cpu", "precision": "fp32", "workers": 0}
    return ffvit.train(network, "digits", recipe, seed=seed, out=folder, hardware=hardware, overwrite=True)


def _share(value: Interval) -> str:
    return f"{100 * value.value:.1f} ({100 * value.low:.1f}-{100 * value.high:.1f})"


def _points(value: Interval) -> str:
    return f"{100 * value.value:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


if __name__ == "__main__":
    run(main)
