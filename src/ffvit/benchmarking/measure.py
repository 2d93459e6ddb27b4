"""Networks and engines measured in turns, so that a machine whose speed drifts does so for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from rich.console import Console
from torch import nn

from ffvit.benchmarking.agreement import Agreement, measure_agreement
from ffvit.benchmarking.targets import Target
from ffvit.benchmarking.workload import PLAIN, build_predictor, prediction_call, training_call
from ffvit.errors import DeviceError, OutOfMemoryError, UserError, did_you_mean
from ffvit.profiling.count import count
from ffvit.profiling.hardware_peak import TYPES, HardwarePeak, best_peak, measure_peak, slow_precision_reason
from ffvit.profiling.memory import peak_bytes
from ffvit.profiling.timing import Latency, forward_call, random_images, time_calls
from ffvit.terminal import progress

PASSES = {"predict": 1, "train": 3}
"""Forward passes that count for one image: the backward pass computes two gradients of every matrix product."""


@dataclass
class Row:
    """What was measured of one network on one engine.

    Attributes:
        network: Its name or its weights.
        engine: What runs it.
        precision: What it computes in.
        work: `predict` or `train`.
        flops: Of one image.
        images_per_second: In each round.
        latencies: Seconds of single images, in all rounds.
        peak_memory: Bytes, or None where they cannot be measured.
        agreement: How well it predicts the run's test images, where there is a run.
    """

    network: str
    engine: str
    precision: str
    work: str
    flops: int
    images_per_second: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    agreement: Agreement | None = None

    @property
    def speed(self) -> float:
        """Images per second, the median of the rounds."""
        return median(self.images_per_second)

    @property
    def latency(self) -> Latency | None:
        """Of one image."""
        return Latency.of(self.latencies) if self.latencies else None


@dataclass(frozen=True)
class Skipped:
    """What could not be measured, and why."""

    engine: str
    precision: str
    reason: str


@dataclass
class Benchmark:
    """All that was measured.

    Attributes:
        device: What on.
        batch: Images at once.
        rounds: How often everything was measured.
        peak: This machine's matrix products in the same rounds.
        rows: What was measured.
        skipped: What was not.
    """

    device: torch.device
    batch: int
    rounds: int
    peak: HardwarePeak
    rows: list[Row]
    skipped: list[Skipped]

    def utilization(self, row: Row) -> float | None:
        """The share of this machine's matrix product that a row reached, each in its best round; None for int8."""
        if row.precision not in self.peak.matmuls:
            return None
        return max(row.images_per_second) * row.flops / self.peak.matmuls[row.precision].rate


@dataclass(frozen=True)
class Turn:
    """What is called in each round: `batch` and, for its latency, `image`; the results are added to the row."""

    row: Row
    batch: Callable[[], object]
    image: Callable[[], object] | None = None
    model: nn.Module | None = None


def measure(
    targets: Sequence[Target],
    engines: Sequence[str],
    precisions: Sequence[str] | None,
    *,
    device: torch.device,
    batch: int,
    rounds: int,
    seconds: float,
    train: bool,
    console: Console,
) -> Benchmark:
    """Measure networks on engines, in precisions.

    Args:
        targets: The networks.
        engines: Some of `ffvit.inference.engines.ENGINES`.
        precisions: Some of `ffvit.inference.engines.PRECISIONS`. Default: fp32, and bf16 where this machine is fast at it.
        device: What to compute on.
        batch: Images at once.
        rounds: How often everything is measured.
        seconds: Of each measurement in a round, about; one call at least.
        train: Measure training steps in PyTorch too.
        console: Where to show progress.

    Raises:
        UserError: An engine or precision is unknown, nothing that was asked for can run here, or a network cannot be
            made.
        OutOfMemoryError: The GPU's memory is too small.
    """
    pairs, train_in, skipped = _select(engines, precisions, device)
    train_in = train_in if train else []
    if not pairs and not train_in:
        reasons = "; ".join(f"{pair.engine} {pair.precision}: {pair.reason}" for pair in skipped)
        raise DeviceError(f"nothing of this runs here: {reasons}")
    in_use = [name for name in TYPES if name in train_in or any(name == precision for _, precision in pairs)]
    turns: list[Turn] = []
    try:
        with progress(console) as bar:
            tell = partial(
                bar.update, bar.add_task("", total=len(targets) * (len(pairs) + len(train_in)) * (1 + rounds))
            )
            for target in targets:
                for turn in _prepare(target, pairs, train_in, device, batch, tell):
                    turns.append(turn)
                    tell(advance=1)
            peak = measure_rounds(turns, in_use, device, batch, rounds, seconds, tell)
            for target in targets:
                tell(description=f"evaluating {target.name}")
                _evaluate(target, turns, device, batch)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            "the GPU's memory is too small for these networks at once: use a smaller --batch"
        ) from None
    return Benchmark(device, batch, rounds, peak, [turn.row for turn in turns], skipped)


def measure_rounds(
    turns: Sequence[Turn],
    precisions: Sequence[str],
    device: torch.device,
    batch: int,
    rounds: int,
    seconds: float,
    tell: Callable[..., None],
) -> HardwarePeak:
    """Measure all turns and the machine's matrix products once in each round; returns the best of the latter.

    Args:
        turns: What is measured.
        precisions: Of the matrix products.
        device: What all of them compute on.
        batch: Images that a turn's `batch` takes.
        rounds: How often.
        seconds: Of each measurement, about.
        tell: Called as `rich.progress.Progress.update`.
    """
    peaks = []
    for _ in range(rounds):
        peaks.append(measure_peak(precisions, device))
        for turn in turns:
            row = turn.row
            tell(description=f"{row.work}: {row.network}, {row.engine} {row.precision}")
            row.images_per_second.append(batch / median(time_calls(turn.batch, device, seconds)))
            if turn.image is not None:
                row.latencies += time_calls(turn.image, device, seconds)
            tell(advance=1)
    return best_peak(peaks)


def _select(
    engines: Sequence[str], precisions: Sequence[str] | None, device: torch.device
) -> tuple[list[tuple[str, str]], list[str], list[Skipped]]:
    """The engines and precisions that run here, the precisions to train in, and what is skipped."""
    from ffvit.inference.engines import ENGINES, PRECISIONS, unavailable_reason

    for option, given, known in (("--engines", engines, ENGINES), ("--precisions", precisions, PRECISIONS)):
        if given is None:
            continue
        if not given:
            raise UserError(f"{option}: name one at least (there are: {', '.join(known)})")
        for name in given:
            if name not in known:
                raise UserError(
                    f"{option}: there is no {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})"
                )
    skipped: list[Skipped] = []
    if precisions is None:
        slow = slow_precision_reason("bf16", device)
        precisions = ["fp32"] if slow else ["fp32", "bf16"]
        if slow:
            skipped.append(Skipped("all engines", "bf16", f"{slow}; --precisions bf16 measures it all the same"))
    pairs: list[tuple[str, str]] = []
    for engine in dict.fromkeys(engines):
        for precision in dict.fromkeys(precisions):
            reason = None if (engine, precision) == PLAIN else unavailable_reason(engine, precision, device)
            if reason is None:
                pairs.append((engine, precision))
            else:
                skipped.append(Skipped(engine, precision, reason))
    return pairs, [name for name in dict.fromkeys(precisions) if name in TYPES], skipped


def _prepare(
    target: Target,
    pairs: Sequence[tuple[str, str]],
    train_in: Sequence[str],
    device: torch.device,
    batch: int,
    tell: Callable[..., None],
) -> Iterator[Turn]:
    """A network on all its engines, and in training, with the peak memory of each."""
    network = target.network().to(device)
    flops, images = count(network).flops, random_images(network, batch)
    for engine, precision in pairs:
        tell(description=f"preparing {target.name}, {engine} {precision}")
        row = Row(target.name, engine, precision, "predict", flops)
        if device.type == "cpu" or engine in ("torch", "compiled"):  # PyTorch cannot see what others allocate on a GPU
            row.peak_memory = peak_bytes(partial(prediction_call, target, engine, precision, device, batch), device)
        model = build_predictor(target, engine, precision, device)
        yield Turn(row, forward_call(model, images), forward_call(model, images[:1].clone()), model)
    for precision in train_in:
        tell(description=f"preparing {target.name}, training in {precision}")
        row = Row(target.name, "torch", precision, "train", PASSES["train"] * flops)
        make = partial(training_call, target, precision, device, batch)
        row.peak_memory = peak_bytes(make, device)
        yield Turn(row, make())


def _evaluate(target: Target, turns: Sequence[Turn], device: torch.device, batch: int) -> None:
    """Evaluate a run's network, if it was run on anything but plain PyTorch."""
    predicting = [turn for turn in turns if turn.row.network == target.name and turn.model is not None]
    if target.has_run and any((turn.row.engine, turn.row.precision) != PLAIN for turn in predicting):
        models = [turn.model for turn in predicting if turn.model is not None]
        for turn, agreement in zip(predicting, measure_agreement(target, models, device, batch), strict=True):
            turn.row.agreement = agreement
