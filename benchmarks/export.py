"""The table of docs/export.md: every format for networks with four ways of mixing, trained shortly on the digits.

python benchmarks/export.py --out runs/export

Top-1 and agreement are on the validation split of the run. The latency is the CPU time of one call on one thread for one
image of 8 x 8 pixels, as it is; the median of many calls, all files in turns.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
from script import run
from sklearn.datasets import load_digits

import ffvit
from ffvit import Branch
from ffvit.config.architecture import NAMED
from ffvit.exporting.formats import FORMATS
from ffvit.inference.exported import open_runner

PROGRAMS = [name for name, row in FORMATS.items() if row.read is None]
FEATURES = NAMED["ff_micro_patch2_8"].block[-1]
NETWORKS = {
    "FF only": "ff_micro_patch2_8",
    # The paper's initial weights, for a width of 768, starve attention at 64 (docs/baselines.md).
    "attention": NAMED["vit_micro_patch2_8"].replace(init="pytorch", position_std=0.5),
    **{
        name: NAMED["ff_micro_patch2_8"].replace(block=(Branch(mixer=name, axis="patches"), FEATURES))
        for name in ("convolution", "gmlp")
    },
}


def main(
    *, out: Path = Path("runs/export"), epochs: int = 15, calls: int = 300, formats: str = ",".join(PROGRAMS)
) -> None:
    """Train, export, prove and time."""
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread\n")
    print("| network | format | runs | same class, in batches and alone | largest logit difference | top-1 before | top-1 after "
          "| size | latency |\n|---|---|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    exports: dict[tuple[str, str], ffvit.Export] = {}
    for name, network in NETWORKS.items():
        folder = out / name.replace(" ", "-")
        if not (folder / "summary.json").exists():
            recipe = {"base": "digits", "epochs": epochs, "warmup_epochs": 2}
            ffvit.train(network, "digits", recipe, out=folder, hardware={"accelerator": "cpu", "precision": "fp32"})
        for form in formats.split(","):
            file = folder / f"{form}{FORMATS[form].suffix}"
            try:
                exports[name, form] = ffvit.export(folder, format=form, out=file, overwrite=True)
            except ffvit.UserError as error:
                print(f"| {name} | {form} | no: {error} | | | | | | |", flush=True)
    runners = {key: open_runner(export.path)[1] for key, export in exports.items()}
    images = np.repeat((load_digits().images[:8] * 15).astype(np.uint8)[..., None], 3, axis=3)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
    for call in range(calls):
        for key, runner in runners.items():
            start = process_time()
            runner(images[call % 8][None])
            times[key].append(process_time() - start)
    for (name, form), export in exports.items():
        proof, scale = export.proof, export.proof.scale
        before, after = (f"{100 * proof.top1(logits).value:.1f} %" for logits in (proof.before, proof.after))
        largest = max(proof.difference, proof.single_difference)
        print(f"| {name} | {form} | {FORMATS[form].engine} | {proof.agree} of {proof.images}, {proof.single_agree} of "
              f"{proof.singles} | {largest:.1e} of {scale:.0f} | {before} | {after} | {export.size / 2**20:.2f} MiB "
              f"| {1000 * median(times[name, form]):.2f} ms |")  # fmt: skip


if __name__ == "__main__":
    run(main)
