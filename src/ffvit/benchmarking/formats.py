"""Every format of a run on this machine: written to a temporary folder, proven as `ffvit export` does, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.text import Text

from ffvit.benchmarking.report import with_range
from ffvit.benchmarking.targets import Target
from ffvit.config.hardware import Hardware
from ffvit.data.decode import open_image
from ffvit.data.images import BadImageError, Images
from ffvit.errors import DataError, DeviceError, UserError, did_you_mean
from ffvit.exporting.command import export
from ffvit.exporting.formats import FORMATS
from ffvit.exporting.proof import Proof
from ffvit.inference.predictor import Predictor
from ffvit.inference.run_images import evenly_spaced
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import time_calls
from ffvit.terminal import build_table, percent, progress

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Images at once that are tried."""

NEAR_BEST = 0.97
"""Of batches whose images per second are this near the best, the smallest is taken: more only wait longer."""

CPU = torch.device("cpu")
RUN = "PyTorch"
"""What the run itself is called beside its formats."""


@dataclass
class FormatRow:
    """What was measured of a format.

    Attributes:
        format: As `ffvit export` calls it; of the run itself `RUN`.
        engine: What runs it.
        proof: That it predicts as its network; None for the run itself.
        size: Bytes of its files.
        batch: Images at once at which it predicts most images per second.
        single_seconds: Of a call with one image, the median in each round.
        batch_seconds: Of a call with `batch` images, likewise.
    """

    format: str
    engine: str
    proof: Proof | None
    size: int | None
    batch: int = 1
    single_seconds: list[float] = field(default_factory=list)
    batch_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FormatsBenchmark:
    """All formats of a run.

    Attributes:
        run: Its name.
        rounds: How often everything was measured.
        rows: The run itself, then its formats.
        skipped: The formats that cannot be had here, each with the reason.
    """

    run: str
    rounds: int
    rows: list[FormatRow]
    skipped: dict[str, str]


Call = Callable[[int], Callable[[], object]]
"""What predicts so many images, as something to call."""


def measure_formats(
    target: Target, formats: Sequence[str], *, batch: int | None, rounds: int, seconds: float, console: Console
) -> FormatsBenchmark:
    """Export a run to formats, prove each, and time those that passed on prepared validation images.

    Args:
        target: A run folder.
        formats: Some of `FORMATS`, or `all`.
        batch: Images at once. Default: of `BATCHES` the best for each format.
        rounds: How often everything is timed.
        seconds: Of each measurement in a round, about; one call at least.
        console: Where to show progress.

    Raises:
        UserError: It is no run folder, a format is unknown, or none of them can be had here.
        DiskFullError: The temporary folder's disk is full.
    """
    chosen = _select(formats)
    if not target.has_run:
        raise UserError(
            f"--formats: each format is proven on a run's validation images: {target.name} is no run folder"
        )
    validation = target.splits().validation
    if validation is None:
        raise DataError(f"--formats: {target.name} has no validation split to prove the formats on")
    batches = BATCHES if batch is None else (batch,)
    skipped: dict[str, str] = {}
    with TemporaryDirectory(prefix="ffvit-formats-") as folder, progress(console) as bar:
        task = bar.add_task("", total=len(chosen) + (len(chosen) + 1) * (1 + rounds))

        def tell(words: str) -> None:
            bar.update(task, advance=1, description=words)

        rows = [FormatRow(RUN, "PyTorch, as ffvit predict", None, None)]
        calls = [_call(Path(target.name), validation, max(batches))]
        for name in chosen:
            tell(f"exporting and proving {name}")
            try:
                done = export(target.name, format=name, out=Path(folder) / f"{name}{FORMATS[name].suffix}")
                calls.append(_call(done.path, validation, max(batches)))
                rows.append(FormatRow(name, FORMATS[name].engine, done.proof, done.size))
            except UserError as error:
                skipped[name] = str(error)
        if len(rows) == 1:
            raise DeviceError(
                f"none of these formats can be had here: {'; '.join(f'{name}: {why}' for name, why in skipped.items())}"
            )
        for row, call in zip(rows, calls, strict=True):
            tell(f"looking for the best batch of {row.format}")
            row.batch = _best_batch(call, batches, seconds)
        for _ in range(rounds):
            for row, call in zip(rows, calls, strict=True):
                tell(f"timing {row.format}")
                row.single_seconds.append(median(time_calls(call(1), CPU, seconds)))
                row.batch_seconds.append(median(time_calls(call(row.batch), CPU, seconds)))
        calls.clear()  # some engines keep their files open
    return FormatsBenchmark(target.name, rounds, rows, skipped)


def _select(formats: Sequence[str]) -> list[str]:
    if not formats:
        raise UserError(f"--formats: name one at least, or all (there are: {', '.join(FORMATS)})")
    for name in formats:
        if name not in (*FORMATS, "all"):
            raise UserError(
                f"--formats: there is no {name!r}{did_you_mean(name, FORMATS)} (there are: all, {', '.join(FORMATS)})"
            )
    return list(FORMATS) if "all" in formats else list(dict.fromkeys(formats))


def _call(weights: Path, images: Images, most: int) -> Call:
    predictor = Predictor(weights, hardware=Hardware(accelerator="cpu"))
    prepared = _prepared(predictor, images, most)
    return lambda count: lambda: predictor.run(prepared[:count])


def _prepared(predictor: Predictor, images: Images, count: int) -> UInt8[np.ndarray, "images height width channels"]:
    """So many images as the predictor takes them, the same again where there are fewer."""
    chosen, ready = evenly_spaced(images, count), []
    for index in range(len(chosen)):
        try:
            ready.append(predictor.prepare(open_image(chosen, index)))
        except BadImageError:
            continue
    if not ready:
        raise DataError(f"none of the {len(chosen)} validation images could be read")
    return np.stack([ready[number % len(ready)] for number in range(count)])


def _best_batch(call: Call, batches: Sequence[int], seconds: float) -> int:
    speeds = {count: count / median(time_calls(call(count), CPU, seconds / len(batches))) for count in batches}
    return min(count for count, speed in speeds.items() if speed >= NEAR_BEST * max(speeds.values()))


def print_formats(benchmark: FormatsBenchmark, console: Console) -> None:
    """Print what was proven, the latencies, and which formats cannot be had here and why."""
    console.print(f"{machine_name(CPU)}; torch {torch.__version__}", highlight=False, soft_wrap=True)
    console.print(Text.assemble(("\nProof", "bold"), f": {benchmark.run}, validation images"))
    headings = ["format", "runs on", "MiB", "same class", "top-1\nbefore", "top-1\nafter"]
    console.print(build_table(headings, list(_proofs(benchmark)), words=(0, 1)), highlight=False)
    rounds = f"{benchmark.rounds} round{'s' if benchmark.rounds > 1 else ''}"
    console.print(
        Text.assemble(("\nLatency", "bold"), f": {benchmark.run}, prepared images, median (lowest-highest) of {rounds}")
    )
    headings = ["format", "1 image\nms", "best\nbatch", "images/s"]
    cells = [
        [
            row.format,
            with_range([1e3 * one for one in row.single_seconds]),
            str(row.batch),
            with_range([row.batch / one for one in row.batch_seconds]),
        ]
        for row in benchmark.rows
    ]
    console.print(build_table(headings, cells), highlight=False)
    console.print()
    for name, reason in benchmark.skipped.items():
        console.print(f"not measured: {name}: {reason}", highlight=False, markup=False)
    if benchmark.rounds > 1:
        share = 100 * (1 - 2.0 ** (1 - benchmark.rounds))
        console.print(
            f"With {share:.0f} % confidence a median lies between its lowest and highest, if rounds are independent.",
            highlight=False,
        )


def _proofs(benchmark: FormatsBenchmark) -> Iterator[list[str]]:
    for row in benchmark.rows:
        if row.proof is not None and row.size is not None:
            before, after = (percent(row.proof.top1(logits).value) for logits in (row.proof.before, row.proof.after))
            same = f"{row.proof.agree:,} of {row.proof.images:,}"
            yield [row.format, row.engine, f"{row.size / 2**20:,.1f}", same, before, after]


def formats_to_json(benchmark: FormatsBenchmark) -> dict[str, Any]:
    """All that was measured, round by round: seconds, bytes."""
    rows = []
    for row in benchmark.rows:
        fields = {name: value for name, value in vars(row).items() if name != "proof"}
        if (proof := row.proof) is not None:
            fields["proof"] = {
                "images": proof.images, "same_class": proof.agree, "logit_difference": proof.difference,
                "level_difference": proof.level_difference, "top1_before": asdict(proof.top1(proof.before)),
                "top1_after": asdict(proof.top1(proof.after)),
            }  # fmt: skip
        rows.append(fields)
    return {
        "machine": machine_name(CPU), "torch": torch.__version__, "run": benchmark.run, "rounds": benchmark.rounds,
        "rows": rows, "skipped": benchmark.skipped,
    }  # fmt: skip
