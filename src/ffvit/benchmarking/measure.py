"""Networks and engines measured in turns, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ffvit.benchmarking.agreement import Agreement, measure_agreement
from ffvit.benchmarking.targets import Target
from ffvit.benchmarking.workload import PLAIN, build_predictor, images_for, predicting, training
from ffvit.errors import DeviceError, OutOfMemoryError, UserError, did_you_mean
from ffvit.profiling.count import count
from ffvit.profiling.hardware_peak import TYPES, matmul_rate, peak_matmul, slow_precision_reason
from ffvit.profiling.memory import peak_bytes
from ffvit.profiling.timing import Latency, forward_call, time_calls

PASSES = {"predict": 1, "train": 3}
"""Forward passes that a step is counted as: the backward pass computes two gradients of every matmul."""


Tell = Callable[..., None]


@dataclass
class Row:
    """What was measured of one network on one engine.

    Attributes:
        network: Its name or its weights.
        engine: What runs it.
        precision: What it computes in.
        work: `predict` or `train`.
        flops: Operations an image.
        images_per_second: Of each round.
        shares: What part of the machine's matrix product that is, of each round; none in int8.
        latencies: Seconds of single images, of all rounds.
        peak: Bytes at most, or None where the system does not tell.
        answered: How good its answers are, where there is a run to tell.
    """

    network: str
    engine: str
    precision: str
    work: str
    flops: int
    images_per_second: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    peak: int | None = None
    answered: Agreement | None = None

    @property
    def speed(self) -> float:
        """Images a second, the median of the rounds."""
        return median(self.images_per_second)

    @property
    def share(self) -> float | None:
        """The median share of the machine's matrix product."""
        return median(self.shares) if self.shares else None

    @property
    def latency(self) -> Latency | None:
        """Of one image."""
        return Latency.of(self.latencies) if self.latencies else None


@dataclass(frozen=True)
class SkippedRow:
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
        rounds: Turns of each row.
        products: The matrix product that is 100 %, by precision: its size, and its rate of each round.
        rows: What was measured.
        left_out: What was not.
    """

    device: torch.device
    batch: int
    rounds: int
    products: dict[str, tuple[int, list[float]]]
    rows: list[Row]
    left_out: list[SkippedRow]


@dataclass(frozen=True)
class _Turn:
    row: Row
    model: nn.Module | None
    batch: Callable[[], object]
    image: Callable[[], object] | None


def measure(
    subjects: Sequence[Target],
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
        subjects: The networks.
        engines: As in `ffvit.inference.engines.ENGINES`.
        precisions: As in `ffvit.inference.engines.PRECISIONS`. Default: fp32, and bf16 where the machine is fast at it.
        device: What on.
        batch: Images at once.
        rounds: Turns of each.
        seconds: Of each measurement in a turn, about; one call at least.
        train: Whether to measure training too, in PyTorch.
        console: Where to show progress.

    Raises:
        UserError: An engine or precision is unknown, nothing that was asked for can run here, or a network cannot be
            made.
        OutOfMemoryError: The GPU's memory is too small.
    """
    pairs, learning, left_out = _which(engines, precisions, device)
    learning = learning if train else []
    if not pairs and not learning:
        reasons = "; ".join(f"{its.engine} {its.precision}: {its.reason}" for its in left_out)
        raise DeviceError(f"nothing of this runs here: {reasons}")
    sizes = {
        each: peak_matmul(each, device).size
        for each in TYPES
        if any(each == its for _, its in pairs) or each in learning
    }
    found = Benchmark(device, batch, rounds, {each: (size, []) for each, size in sizes.items()}, [], left_out)
    try:
        with _progress(console) as progress:
            bar = progress.add_task("", total=len(subjects) * (len(pairs) + len(learning)) * (1 + rounds))

            def tell(what: str, done: int = 1) -> None:
                progress.update(bar, description=what, advance=done)

            turns = [turn for subject in subjects for turn in _made(subject, pairs, learning, device, batch, tell)]
            for _ in range(rounds):
                _round(turns, found, seconds, tell)
            for subject in subjects:
                tell(f"scoring {subject.given}", 0)
                _score(subject, turns, device, batch)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            "the GPU's memory is too small for these networks at once: use a smaller --batch"
        ) from None
    found.rows += [turn.row for turn in turns]
    return found


def _which(
    engines: Sequence[str], precisions: Sequence[str] | None, device: torch.device
) -> tuple[list[tuple[str, str]], list[str], list[SkippedRow]]:
    """The engines and precisions that run here, the precisions to train in, and what is left out."""
    from ffvit.inference.engines import ENGINES, PRECISIONS, unavailable_reason

    for option, given, known in (("--engines", engines, ENGINES), ("--precisions", precisions, PRECISIONS)):
        if given is None:
            continue
        if not given:
            raise UserError(f"{option}: name one at least (there are: {', '.join(known)})")
        for each in given:
            if each not in known:
                raise UserError(
                    f"{option}: there is no {each!r}{did_you_mean(each, known)} (there are: {', '.join(known)})"
                )
    left_out: list[SkippedRow] = []
    if precisions is None:
        slow = slow_precision_reason("bf16", device)
        precisions = ["fp32"] if slow else ["fp32", "bf16"]
        if slow:
            left_out.append(SkippedRow("all engines", "bf16", f"{slow}; --precisions bf16 measures it all the same"))
    pairs: list[tuple[str, str]] = []
    for engine in dict.fromkeys(engines):
        for precision in dict.fromkeys(precisions):
            reason = None if (engine, precision) == PLAIN else unavailable_reason(engine, precision, device)
            if reason is None:
                pairs.append((engine, precision))
            else:
                left_out.append(SkippedRow(engine, precision, reason))
    return pairs, [each for each in dict.fromkeys(precisions) if each in TYPES], left_out


def _made(
    subject: Target,
    pairs: Sequence[tuple[str, str]],
    learning: Sequence[str],
    device: torch.device,
    batch: int,
    tell: Tell,
) -> Iterator[_Turn]:
    """A network on all its engines, and in training, with the memory that each takes."""
    network = subject.network()
    flops = count(network).flops
    for engine, precision in pairs:
        tell(f"making {subject.given}, {engine} {precision}")
        row = Row(subject.given, engine, precision, "predict", flops)
        if device.type == "cpu" or engine in ("torch", "compiled"):  # what others allocate on a GPU, PyTorch cannot see
            row.peak = peak_bytes(partial(predicting, subject, engine, precision, device, batch), device)
        model = build_predictor(subject, engine, precision, device)
        images = images_for(network, batch, device)
        yield _Turn(row, model, forward_call(model, images), forward_call(model, images[:1].clone()))
    for precision in learning:
        tell(f"making {subject.given}, training in {precision}")
        row = Row(subject.given, "torch", precision, "train", PASSES["train"] * flops)
        make = partial(training, subject, precision, device, batch)
        row.peak = peak_bytes(make, device)
        yield _Turn(row, None, make(), None)


def _round(turns: Sequence[_Turn], found: Benchmark, seconds: float, tell: Tell) -> None:
    """A turn of the machine's limits, and of everything after it."""
    now = {}
    for precision, (size, rates) in found.products.items():
        now[precision] = matmul_rate(size, precision, found.device)
        rates.append(now[precision])
    for turn in turns:
        row = turn.row
        tell(f"{row.work}: {row.network}, {row.engine} {row.precision}")
        speed = found.batch / median(time_calls(turn.batch, found.device, seconds))
        row.images_per_second.append(speed)
        if row.precision in now:
            row.shares.append(speed * row.flops / now[row.precision])
        if turn.image is not None:
            row.latencies += time_calls(turn.image, found.device, seconds)


def _score(subject: Target, turns: Sequence[_Turn], device: torch.device, batch: int) -> None:
    """Say how good the answers of a run's network are, if it was run on anything but plain PyTorch."""
    its = [turn for turn in turns if turn.row.network == subject.given and turn.model is not None]
    if subject.has_run and any((turn.row.engine, turn.row.precision) != PLAIN for turn in its):
        models = [turn.model for turn in its if turn.model is not None]
        for turn, answers in zip(its, measure_agreement(subject, models, device, batch), strict=True):
            turn.row.answered = answers


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
