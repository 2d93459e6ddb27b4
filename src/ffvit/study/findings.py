"""What a study found, as values: made from the runs alone, and all that the reports are written from.

Accuracies and differences are shares (0.713 is 71.3 %), times seconds, memory MiB, unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ffvit.study.decision import Direction, Size
from ffvit.study.statistics import Difference, Interval

Key = tuple[int, int | None]
"""Seed and fold of a run: runs of different arms with the same key are a pair."""


@dataclass(frozen=True)
class Epoch:
    """One point of a learning curve, as `metrics.jsonl` has it; top1 is on the validation split, None without one."""

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

    Latency is that of one image, the median of all rounds; `latencies` has every round's. All arms take turns in each
    round, so rounds are pairs. Throughput is images a second, `batch` at a time.
    """

    latency: float
    latency_95: float
    throughput: float
    batch: int
    latencies: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrialFinding:
    """One configuration that the search of one repetition tried, {"lr": 0.002}, and whether the repetition trained with it.

    `losses` are the validation losses in nats of its seeds; infinite where training diverged.
    """

    repetition: Key
    values: dict[str, Any]
    losses: tuple[float, ...]
    chosen: bool


@dataclass(frozen=True)
class SearchFinding:
    """The search of one arm, over all its repetitions.

    Attributes:
        field: What was searched on an axis: `lr`, or the first of the fields searched.
        epochs: Length of a trial.
        trials: Every configuration that was tried, in every repetition.
        at_the_edge: Repetitions whose choice is the largest or smallest value tried, so that the optimum was not seen.
        repetitions: How many searched.
        failed: Repetitions in which no trial finished, so that the recipe's own values were kept.
    """

    field: str
    epochs: int
    trials: tuple[TrialFinding, ...]
    at_the_edge: int
    repetitions: int
    failed: int = 0


@dataclass(frozen=True)
class ArmFinding:
    """One arm: what it is, what it reached, what it cost.

    Attributes:
        role: `control` for the bodies without a mixer or with a frozen random one; `external` for a network that has a
            body of its own, so that more than the mixer differs.
        network: Its network in a few words, for example "width 64, depth 4: feedforward over patches, ...".
        flops: Of one prediction; a multiply-add is two.
        epochs: None if it was trained for a number of minutes.
        settings: What could differ between arms: (name, value).
        top1: Mean over its runs, with its interval; None while no run is finished.
        runs: Its finished runs, by seed and fold.
        planned: How many runs the plan has for it; `failed` of them diverged or crashed.
        cost: None if it was not measured.
        published: Published top-1 (a share) and its source, where the plan's networks have one.
        differs: What else than the studied factor sets it apart from the reference, a sentence each.
        block: The branches of a block, (mixer, axis); empty for a network that has another body.
        corrupted: As top1, on corrupted images; None where no run was scored on them.
        corrupted_difference: The same less that of the main comparison's reference, over the repetitions of both.
    """

    name: str
    role: Literal["arm", "control", "external"]
    network: str
    parameters: int
    flops: int
    epochs: int | None
    settings: tuple[tuple[str, str], ...]
    search: SearchFinding | None
    top1: Interval | None
    runs: tuple[RunFinding, ...]
    planned: int
    failed: int
    cost: Cost | None
    published: tuple[float, str] | None
    differs: tuple[str, ...]
    block: tuple[tuple[str, str], ...] = ()
    corrupted: Interval | None = None
    corrupted_difference: Difference | None = None


@dataclass(frozen=True)
class Comparison:
    """One comparison of the study: `arm` against `reference`.

    Attributes:
        difference: arm less reference, with its interval at the level that decides.
        per_run: The paired differences, ((seed, fold), difference), by seed and fold.
        main: Whether it is the study's main comparison.
        margin: The margin that applied, a share: the plan's, or less where few mistakes are left to differ in.
        withheld: Why no conclusion is drawn, in a sentence; None where one is.
        headline: The verdict in one line.
        words: The verdict in a few sentences, its scope first.
        win_again: Chance that the arm that is ahead wins again in a new repetition; None where too few tell.
        more_seeds: How many more repetitions would likely make it conclusive, from and to; None where that cannot be told.
    """

    arm: str
    reference: str
    difference: Difference
    per_run: tuple[tuple[Key, float], ...]
    main: bool
    direction: Direction
    size: Size
    margin: float
    withheld: str | None
    headline: str
    words: str
    win_again: float | None
    more_seeds: tuple[int, int] | None

    @property
    def conclusive(self) -> bool:
        """Whether a direction or a size was shown, and a conclusion may be drawn from it."""
        return self.withheld is None and (self.direction != "not shown" or self.size != "not shown")


@dataclass(frozen=True)
class EffectFinding:
    """A main effect of the plan's factors, "mixer: attention - feed-forward", or an interaction, "mixer x width: ..."."""

    name: str
    difference: Interval
    kind: Literal["main effect", "interaction"]


@dataclass(frozen=True)
class BaselineFinding:
    """What something trivial reaches on the same test images, and which arms it beats by more than the margin.

    The largest class, a pixel lookup, a linear model: mean over the repetitions' splits, with its interval, and the median
    time.
    """

    name: str
    top1: Interval
    seconds: float
    beats: tuple[str, ...]


@dataclass(frozen=True)
class DisagreementImage:
    """An image that most runs of one arm predict correctly and most of the other do not.

    `predicted` is what most runs of the arm that is incorrect predict; `thumbnail` is a PNG.
    """

    name: str
    label: str
    predicted: str
    thumbnail: bytes


@dataclass(frozen=True)
class Disagreement:
    """Where the two arms of a comparison differ.

    Attributes:
        classes: (class, images, share correct of `arm`, share correct of `reference`), largest difference first.
        only_arm: Images that only `arm` predicts correctly.
        only_reference: Images that only `reference` predicts correctly.
        counts: How many images each of the two lists would hold if it were not cut.
    """

    arm: str
    reference: str
    classes: tuple[tuple[str, int, float, float], ...]
    only_arm: tuple[DisagreementImage, ...]
    only_reference: tuple[DisagreementImage, ...]
    counts: tuple[int, int]


@dataclass(frozen=True)
class Findings:
    """A study's whole result.

    Attributes:
        arms: In the plan's order, controls last.
        comparisons: The main one first. Empty while runs are missing.
        effects: Main effects and interactions of the plan's factors, where it has several.
        disagreements: One for each comparison that has test images in common.
        exploratory: What was changed after results existed, a sentence each. Empty: the study is as planned.
        warnings: What a reader must know before the verdict, a sentence each.
        outlook: What the plan could have shown, computed before its runs, a sentence each.
        margin: The plan's, a share.
        images: The data in a sentence.
        test_images: How many each repetition was tested on.
        held: What was held equal and how close it came, a sentence each.
        statistics: How the intervals were made and what they do not cover, a sentence each.
        missing: Runs that are not there and why, a line each.
        measured_on: The machine that costs were measured on.
        next: What to do next: (what for, the command).
        repeat: Command, versions, commit, hardware: (label, words).
        plan: The study.yaml, as text.
        corruptions: On which every run was scored too.
    """

    title: str
    folder: Path
    arms: tuple[ArmFinding, ...]
    comparisons: tuple[Comparison, ...]
    effects: tuple[EffectFinding, ...]
    baselines: tuple[BaselineFinding, ...]
    disagreements: tuple[Disagreement, ...]
    exploratory: tuple[str, ...]
    warnings: tuple[str, ...]
    outlook: tuple[str, ...]
    margin: float
    images: str
    test_images: int
    held: tuple[str, ...]
    statistics: tuple[str, ...]
    missing: tuple[str, ...]
    measured_on: str
    next: tuple[tuple[str, str], ...]
    repeat: tuple[tuple[str, str], ...]
    plan: str
    corruptions: tuple[str, ...] = ()
