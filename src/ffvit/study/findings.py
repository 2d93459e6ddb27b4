"""What a study found, as values: made from the runs alone, and all that the reports are written from.

Accuracies and differences are shares (0.713 is 71.3 %), times seconds, memory MiB, unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ffvit.study.statistics import Difference, Interval


@dataclass(frozen=True)
class Epoch:
    """One point of a learning curve, as `metrics.jsonl` has it; top1 is the selection part's, None without one."""

    epoch: int
    images: int
    loss: float
    top1: float | None


@dataclass(frozen=True)
class RunFinding:
    """A finished run."""

    seed: int
    fold: int | None
    top1: float
    loss: float
    images: int
    seconds: float
    peak_memory: float | None
    curve: tuple[Epoch, ...]


@dataclass(frozen=True)
class Cost:
    """What an arm costs to use, measured on one machine (`Findings.measured_on` says which).

    Attributes:
        latency: Seconds of one image, the median.
        latency_95: Its 95th percentile.
        throughput: Images a second in batches.
        batch: Of so many images.
    """

    latency: float
    latency_95: float
    throughput: float
    batch: int


@dataclass(frozen=True)
class ArmFinding:
    """One arm: what it is, what it reached, what it cost.

    Attributes:
        name: What people call it.
        role: `arm`; `control` for the bodies without a mixer or with a frozen random one; `external` for a network that has
            a body of its own, so that more than the mixer differs.
        network: Its network in a few words, for example "width 64, depth 4: feedforward over patches, ...".
        parameters: How many.
        flops: Operations of one prediction (a multiply-add is two).
        epochs: Epochs trained; None if it was trained for a number of minutes.
        tuned: What the search chose, {"learning_rate": 0.002}; empty without a search.
        top1: Mean over its runs, with the interval of seeds and test images; None while no run is finished.
        runs: Its finished runs, by seed and fold.
        planned: How many runs the plan has for it.
        cost: None if it was not measured.
        published: Published top-1 (a share) and its source, where the plan's networks have one.
        differs: What else than the studied factor sets it apart from the reference, a sentence each.
    """

    name: str
    role: Literal["arm", "control", "external"]
    network: str
    parameters: int
    flops: int
    epochs: int | None
    tuned: dict[str, Any]
    top1: Interval | None
    runs: tuple[RunFinding, ...]
    planned: int
    cost: Cost | None
    published: tuple[float, str] | None
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """One question of the study: `arm` against `against`.

    Attributes:
        difference: arm less against, with its simultaneous interval (as wide as the number of questions demands).
        per_run: The paired differences, ((seed, fold), difference), by seed and fold.
        outcome: `better`, `worse` (the interval leaves 0 out), `as good` (equivalence within the margin is shown),
            `not worse` (only worse-than-margin is ruled out), or `open`.
        headline: One line: "You don't need it", "Not settled", ...
        words: The verdict in a few sentences.
        more_seeds: How many more seeds would likely settle it; 0 if settled; None if no number would.
    """

    arm: str
    against: str
    difference: Difference
    per_run: tuple[tuple[tuple[int, int | None], float], ...]
    outcome: Literal["better", "worse", "as good", "not worse", "open"]
    headline: str
    words: str
    more_seeds: int | None


@dataclass(frozen=True)
class DisputedImage:
    """An image that most runs of one arm got right and most of the other wrong."""

    name: str
    truth: str
    answer: str  # of the arm that is wrong, the one most of its runs gave
    thumbnail: bytes  # PNG


@dataclass(frozen=True)
class Disagreement:
    """Where the two arms of a comparison part ways.

    Attributes:
        classes: (class, images, share right of `arm`, share right of `against`), largest difference first.
        only_arm: Images that `arm` gets right and `against` wrong.
        only_against: The other way round.
        counts: How many images each of the two lists would hold if it were not cut.
    """

    arm: str
    against: str
    classes: tuple[tuple[str, int, float, float], ...]
    only_arm: tuple[DisputedImage, ...]
    only_against: tuple[DisputedImage, ...]
    counts: tuple[int, int]


@dataclass(frozen=True)
class Findings:
    """A study's whole result.

    Attributes:
        title: The study's.
        folder: Where it lies.
        arms: In the plan's order, controls last.
        comparisons: The questions asked; the first is the one the verdict answers. Empty while runs are missing.
        disagreements: One for each comparison that has test images in common.
        margin: What "as good" means, a share.
        images: About the data, for a person.
        test_images: How many the figures rest on.
        held: What was held equal and how close it came, a sentence each.
        statistics: How the intervals were made and what they do not cover, a sentence each.
        missing: Runs that are not there and why, a line each.
        measured_on: The machine that costs were measured on.
        repeat: Command, versions, commit, hardware: (label, words).
        plan: The study.yaml, as text.
    """

    title: str
    folder: Path
    arms: tuple[ArmFinding, ...]
    comparisons: tuple[Comparison, ...]
    disagreements: tuple[Disagreement, ...]
    margin: float
    images: str
    test_images: int
    held: tuple[str, ...]
    statistics: tuple[str, ...]
    missing: tuple[str, ...]
    measured_on: str
    repeat: tuple[tuple[str, str], ...]
    plan: str
