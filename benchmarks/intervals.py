"""Whether a study's statements hold what they promise: `python benchmarks/intervals.py`, `--help` for the options.

Simulates thousands of studies whose truth is known, and counts

- in how many an interval covers the truth, or a statement is false: by the rule of ffvit when it had one outcome (`Before`,
  written out here) and by the rule of today, case by case;
- how ffvit's interval compares with three that are often used: Student's t over the seeds, the test images alone (the
  runs' predictions pooled as if they were one), and a bootstrap over seeds and images;
- how cross-validation and redrawn splits fare on real classifiers, whose true difference is known from 200,000 images;
- how much of the variance between real networks is due to their training sets.

An image has a difficulty (its logit, from a beta distribution of the given accuracy); a seed moves all images of its arm
by a normal draw of sd 0.2 and each image by another of sd 0.5. Each figure has a Monte-Carlo error of sqrt(p (1 - p) /
studies), printed beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from time import perf_counter
from typing import Annotated

import cyclopts
import numpy as np
from cyclopts import Parameter
from pydantic import PositiveInt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import special, stats
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

from ffvit.study.decision import comparison_levels, direction, effective_margin, look_level, looks, size
from ffvit.study.power import seeds_until_conclusive
from ffvit.study.statistics import Difference, difference, failure_interval, fold_difference, image_noise
from ffvit.study.variance import Redrawn

app = cyclopts.App(help=__doc__, help_format="plaintext")

SPLITS = Redrawn(train=0.72, test=0.2)
"""The default split: a fifth is the test split, a tenth of the rest the validation split."""

Arms = tuple[np.ndarray, np.ndarray]
Study = Callable[[np.random.Generator], tuple[float, float]]
"""Simulates one study: what is counted, by the rule before and by the rule of today."""


# The old rule, for comparison.


@dataclass(frozen=True)
class Before:
    """The difference of a crossed table by the old rule: Hillis's degrees of freedom, the wider of two intervals."""

    value: float
    error: float
    degrees: float
    seed_error: float
    seeds: int
    images: int
    level: float

    @classmethod
    def of(cls, arms: Arms, level: float = 0.95) -> Before:
        """From the answers of two arms."""
        table = arms[0].astype(float) - arms[1]
        seeds, images = table.shape
        value = table.mean().item()
        if seeds == 1:  # Agresti and Min
            padded = images + 2
            middle, discordant = table.sum().item() / padded, np.abs(table).sum().item()
            return cls(value, sqrt((discordant + 1) / padded - middle**2) / sqrt(padded), 1e9, 0.0, 1, images, level)
        of_seeds = images * table.mean(axis=1).var(ddof=1).item()
        of_images = seeds * table.mean(axis=0).var(ddof=1).item()
        squares = table.var().item() * table.size - (seeds - 1) * of_seeds - (images - 1) * of_images
        residual = max(squares, 0.0) / ((seeds - 1) * (images - 1))
        both = of_seeds + max(of_images - residual, 0.0)
        if both < 2 / table.size:
            return cls(value, sqrt(2.0) / table.size, seeds - 1, 0.0, seeds, images, level)
        degrees = min((both / of_seeds) ** 2 * (seeds - 1) if of_seeds else 1e9, (seeds - 1) * (images - 1))
        return cls(value, sqrt(both / table.size), degrees, sqrt(of_seeds / table.size), seeds, images, level)

    @property
    def half(self) -> float:
        """Half of the interval."""
        quantiles = special.stdtrit([self.degrees, max(self.seeds - 1, 1)], (1 + self.level) / 2)
        return float(max(quantiles * [self.error, self.seed_error]))

    def covers(self, truth: float) -> bool:
        """Whether the interval does."""
        return abs(self.value - truth) <= self.half

    def outcome(self, margin: float) -> str:
        """One word of five, of which `as good` hid better and worse."""
        if margin > 0:
            lower = min(margin - self.value, margin + self.value)
            errors = np.array([self.error, self.seed_error or self.error])
            tails = special.stdtr([self.degrees, max(self.seeds - 1, 1)], -lower / errors)
            if max(tails) <= 0.9 * (1 - self.level):
                return "as good"
        if abs(self.value) > self.half:
            return "better" if self.value > 0 else "worse"
        return "not worse" if self.value - self.half > -margin else "open"


def nadeau_bengio(values: np.ndarray, test_over_train: float) -> bool:
    """Whether the corrected resampled t-test's interval, the old rule where splits are redrawn, covers zero."""
    error = sqrt((1 / values.size + test_over_train) * values.var(ddof=1))
    return bool(abs(values.mean()) <= special.stdtrit(values.size - 1, 0.975) * error)


# What is simulated.


def difficulties(draw: np.random.Generator, images: int | tuple[int, ...], accuracy: float) -> np.ndarray:
    """The logits of images of all degrees of difficulty."""
    difficulty = draw.beta(accuracy, 1 - accuracy, size=images).clip(1e-6, 1 - 1e-6)
    return np.log(difficulty / (1 - difficulty)).astype(np.float32)


def answered(draw: np.random.Generator, logits: np.ndarray, of_seeds: float = 0.2) -> np.ndarray:
    """Whether runs (all axes but the last) are right on images (the last)."""
    moved = logits + of_seeds * draw.standard_normal((*logits.shape[:-1], 1), np.float32)
    moved += 0.5 * draw.standard_normal(logits.shape, np.float32)
    return draw.random(logits.shape, np.float32) < 1 / (1 + np.exp(-moved))


def simulated(
    draw: np.random.Generator, seeds: int, images: int, accuracy: float, shift: float = 0.0, of_seeds: float = 0.2, interaction: float = 0.0
) -> Arms:  # fmt: skip
    """The answers of two arms, seeds by images; `shift` moves the first one's logits, `interaction` those of images."""
    logits = difficulties(draw, images, accuracy)
    arms = [logits + move + interaction * draw.standard_normal(images, np.float32) for move in (shift, 0.0)]
    first, second = (answered(draw, np.broadcast_to(arm, (seeds, images)), of_seeds) for arm in arms)
    return first, second


def true_difference(shift: float, accuracy: float = 0.8, of_seeds: float = 0.2) -> float:
    """What a shift of the logits is worth among all images and seeds, to a hundredth of a point."""
    draw = np.random.default_rng(0)
    logits = difficulties(draw, 1_000_000, accuracy) + sqrt(of_seeds**2 + 0.5**2) * draw.standard_normal(1_000_000)
    return float((1 / (1 + np.exp(-(logits + shift))) - 1 / (1 + np.exp(-logits))).mean())


def covers(its: Difference, truth: float = 0.0) -> bool:
    """Whether the interval does."""
    return its.low <= truth <= its.high


def splits(draw: np.random.Generator, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of so many images (or groups) a run trains on, and is tested on."""
    order = draw.permutation(units)
    return order[: round(SPLITS.train * units)], order[units - round(SPLITS.test * units) :]


def redrawn_difference(
    pairs: Sequence[Arms], level: float = 0.95, groups: Sequence[np.ndarray] | None = None
) -> Difference:
    """Today's rule where every repetition has its own test split."""
    values = np.array([[one.mean() - other.mean()] for one, other in pairs])
    noise = np.array(
        [[image_noise(one, other, None if groups is None else groups[at])] for at, (one, other) in enumerate(pairs)]
    )
    return fold_difference(values, noise, SPLITS, len(pairs[0][0]), level)


# The cases.


def procedure(images: int, validation: int) -> Study:
    """Equal arms whose rate is chosen among three by one short trial: once for all seeds, or in every repetition."""
    rates = np.array([-0.4, 0.0, -0.2], np.float32)

    def study(draw: np.random.Generator) -> tuple[float, float]:
        logits, runs = difficulties(draw, images, 0.9), [[], []]  # type: ignore[var-annotated]
        for _ in range(2):
            held_out = difficulties(draw, (5, 1, validation), 0.9) + rates[:, None]
            chosen = rates[answered(draw, held_out, 0.1).mean(axis=-1).argmax(axis=-1)]
            for way, its in zip(runs, (np.repeat(chosen[:1], 5), chosen), strict=True):
                way.append(answered(draw, logits + its[:, None], 0.1))
        return not Before.of(tuple(runs[0])).covers(0), not covers(difference(*runs[1]))

    return study


def fixed_training_set(sd: float, seeds: int = 5, images: int = 1000) -> Study:
    """All repetitions share one training set, which favors an arm: is the mean over all training sets covered?"""

    def study(draw: np.random.Generator) -> tuple[float, float]:
        logits = difficulties(draw, images, 0.8)
        first, second = (
            answered(draw, np.broadcast_to(logits + sd * draw.standard_normal(dtype=np.float32), (seeds, images)))
            for _ in range(2)
        )
        return Before.of((first, second)).covers(0), covers(difference(first, second))

    return study


def given_training_set(sd: float, seeds: int = 5, images: int = 1000) -> Study:
    """Train and validation split redrawn (9 of 10 train): is the mean over all splits of this training set covered?"""
    grid = np.linspace(-4 * sd, 4 * sd, 21)
    worth = [true_difference(move, of_seeds=sqrt(0.2**2 + 0.1 * sd**2)) for move in grid]

    def study(draw: np.random.Generator) -> tuple[float, float]:
        logits, own = difficulties(draw, images, 0.8), sd * sqrt(0.9) * draw.standard_normal(2)
        moves = own[:, None] + sd * sqrt(0.1) * draw.standard_normal((2, seeds))
        first, second = (answered(draw, logits + move[:, None].astype(np.float32)) for move in moves)
        truth = float(np.subtract(*np.interp(own, grid, worth)))
        return Before.of((first, second)).covers(truth), covers(difference(first, second), truth)

    return study


def fresh_training_sets(sd: float, seeds: int = 5, images: int = 1000) -> Study:
    """Every repetition has a training set of its own, and all answer the same test images."""

    def study(draw: np.random.Generator) -> tuple[float, float]:
        logits = difficulties(draw, images, 0.8)
        first, second = (answered(draw, logits + sd * draw.standard_normal((seeds, 1), np.float32)) for _ in range(2))
        return Before.of((first, second)).covers(0), covers(difference(first, second))

    return study


def redrawn_splits(sd: float, seeds: int = 5, images: int = 1000, group: int = 1) -> Study:
    """Every repetition splits the same images anew. A run is moved by the sum of its training images' influences.

    Training sets overlap as they do in truth, by 72 % of their images; test sets by 20 %. With groups, no split cuts one,
    and arms differ from group to group by a normal draw of sd 1.
    """

    def study(draw: np.random.Generator) -> tuple[float, float]:
        units = images // group
        influence, own = draw.standard_normal((2, 2, units))
        logits = difficulties(draw, images, 0.8)
        pairs, places = [], []
        for _ in range(seeds):
            train, test = splits(draw, units)
            moves = sd * sqrt(len(train)) * influence[:, train].mean(axis=1)
            at = (test[:, None] * group + np.arange(group)).ravel()
            of_group = own[:, at // group] if group > 1 else np.zeros((2, 1))
            its = answered(draw, (logits[at] + moves[:, None] + of_group).astype(np.float32))
            pairs.append((its[0], its[1]))
            places.append(at // group)
        values = np.array([one.mean() - other.mean() for one, other in pairs])
        now = redrawn_difference(pairs, groups=places if group > 1 else None)
        return nadeau_bengio(values, SPLITS.test / SPLITS.train), covers(now)

    return study


def grouped(group: int, seeds: int = 5, images: int = 1000) -> Study:
    """Test images in groups, and arms that differ from group to group."""

    def study(draw: np.random.Generator) -> tuple[float, float]:
        groups = np.arange(images) // group
        logits = difficulties(draw, images, 0.8)
        own = draw.standard_normal((2, images // group), np.float32)[:, groups]
        first, second = (answered(draw, np.broadcast_to(logits + move, (seeds, images)), 0.05) for move in own)
        return Before.of((first, second)).covers(0), covers(difference(first, second, groups=groups))

    return study


def diverging(seeds: int, images: int = 1000) -> Study:
    """One arm diverges (to 10 %) in a tenth of its seeds, equal but for that. Now: the difference of finished pairs.

    Before, such a run counted like any other, and the truth is then the mean over runs that diverge and that do not.
    """

    def study(draw: np.random.Generator) -> tuple[float, float]:
        first, second = simulated(draw, seeds, images, 0.8)
        failed = draw.random(seeds) < 0.1
        first[failed] = draw.random((int(failed.sum()), images)) < 0.1
        before = Before.of((first, second)).covers(-0.1 * 0.7)
        return before, failed.sum() > seeds - 2 or covers(difference(first[~failed], second[~failed]))

    return study


def failures(seeds: int) -> Study:
    """The share of runs that diverge, a tenth: nothing said of it before."""

    def study(draw: np.random.Generator) -> tuple[float, float]:
        its = failure_interval(int((draw.random(seeds) < 0.1).sum()), seeds)
        return nan, its.low <= 0.1 <= its.high

    return study


def one_seed(draw: np.random.Generator) -> tuple[float, float]:
    """Two equal arms, one seed, 1,000 images."""
    arms = simulated(draw, 1, 1000, 0.8)
    return Before.of(arms).outcome(0.0) != "open", direction(difference(*arms)) != "not shown"


def one_more(draw: np.random.Generator) -> tuple[float, float]:
    """Two equal arms; a seed more by hand, from 3 to 20, until better or worse is said."""
    one, other = simulated(draw, 20, 500, 0.8)
    counts = range(3, 21)
    before = any(Before.of((one[:n], other[:n])).outcome(0.0) != "open" for n in counts)
    levels = [look_level((3,), look) for look in range(1, len(counts) + 1)]
    now = any(
        direction(difference(one[:n], other[:n], at)) != "not shown" for n, at in zip(counts, levels, strict=True)
    )
    return before, now


def sequential(draw: np.random.Generator) -> tuple[float, float]:
    """Two equal arms; looks at 3, 5, 8, 13, 20 as planned, then two more by hand. Before: at the same level each."""
    one, other = simulated(draw, 22, 500, 0.8)
    counts = (*looks(3, 20), 21, 22)
    before = any(Before.of((one[:n], other[:n])).outcome(0.0) != "open" for n in counts)
    levels = [look_level(looks(3, 20), look) for look in range(1, len(counts) + 1)]
    now = any(
        direction(difference(one[:n], other[:n], at)) != "not shown" for n, at in zip(counts, levels, strict=True)
    )
    return before, now


def margin_changed() -> Study:
    """Two points of difference; a margin of 1, set to 3 after the runs. Before: counts. Now: the plan's decides."""
    shift = 0.25

    def study(draw: np.random.Generator) -> tuple[float, float]:
        arms = simulated(draw, 5, 2000, 0.8, shift, of_seeds=0.1)
        return Before.of(arms).outcome(0.03) == "as good", size(difference(*arms), 0.01) == "equivalent"

    return study


def picked(count: int) -> Study:
    """Equal arms: after the runs, the largest of several differences is made the main comparison."""

    def study(draw: np.random.Generator) -> tuple[float, float]:
        logits = np.broadcast_to(difficulties(draw, 500, 0.8), (count + 1, 5, 500))
        reference, *arms = answered(draw, logits)
        before = [Before.of((arm, reference)) for arm in arms]
        largest = max(before, key=lambda its: abs(its.value))
        its = [difference(arm, reference, level) for arm, level in zip(arms, comparison_levels(count), strict=True)]
        main = direction(its[0])
        said = [main, *(direction(each, main) for each in its[1:])]
        return largest.outcome(0.0) != "open", any(each != "not shown" for each in said)

    return study


def gate(edge: float, shift: float) -> Study:
    """A main difference that is real, and three others at the margin's edge: is any size or direction wrong?

    Before: all four share the error rate. The first figure counts wrong directions or sizes by the old rule, the second
    by today's.
    """

    def study(draw: np.random.Generator) -> tuple[float, float]:
        logits = np.broadcast_to(difficulties(draw, 1000, 0.8), (5, 5, 1000)).copy()
        logits[1] -= 2 * shift
        logits[2:] -= shift
        reference, *arms = answered(draw, logits)
        before = [Before.of((arm, reference), 0.9875).outcome(edge) for arm in arms[1:]]
        its = [difference(arm, reference, level) for arm, level in zip(arms, comparison_levels(4), strict=True)]
        main = size(its[0], edge)
        wrong = [size(each, edge, main) != "not shown" for each in its[1:]]
        return any(word == "as good" for word in before), any(wrong) or main == "equivalent"

    return study


def contradiction(draw: np.random.Generator) -> tuple[float, float]:
    """Equivalence said while the printed interval leaves the margin, or a direction that it shows is hidden."""
    arms = simulated(draw, 10, 2000, 0.8, -0.2, of_seeds=0.1)
    before, its, margin = Before.of(arms), difference(*arms), 0.025
    hidden = before.outcome(margin) == "as good" and (
        abs(before.value) + before.half > margin or abs(before.value) > before.half
    )
    outside = size(its, margin) == "equivalent" and not -margin < its.low <= its.high < margin
    return hidden, outside or ((direction(its) == "not shown") == (its.low > 0 or its.high < 0))


def mistakes(draw: np.random.Generator) -> tuple[float, float]:
    """99.8 against 99.1 %, 4.5 times the mistakes, with a margin of one point: called equivalent?"""
    first, second = (draw.random((5, 10_000)) < accuracy for accuracy in (0.998, 0.991))
    margin = effective_margin(0.01, first.mean().item(), second.mean().item())
    return Before.of((first, second)).outcome(0.01) == "as good", size(
        difference(first, second), margin
    ) == "equivalent"


def ratio_edge(draw: np.random.Generator) -> tuple[float, float]:
    """99.0 against 98.5 %, just 1.5 times the mistakes: called equivalent?"""
    first, second = (draw.random((5, 20_000)) < accuracy for accuracy in (0.99, 0.985))
    margin = effective_margin(0.01, first.mean().item(), second.mean().item())
    return Before.of((first, second)).outcome(0.01) == "as good", size(
        difference(first, second), margin
    ) == "equivalent"


def more_seeds(draw: np.random.Generator) -> tuple[float, float]:
    """A guess of further seeds at 5 seeds that one seed more makes half or twice as large; now: ranges that do not meet."""
    arms = simulated(draw, 6, 1000, 0.8, 0.2)
    guesses = []
    for seeds in (5, 6):
        its = difference(arms[0][:seeds], arms[1][:seeds])
        error = its.standard_error * sqrt(seeds)
        need = next(
            (
                n
                for n in range(2, 101)
                if stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, abs(its.value) / error * sqrt(n)) >= 0.8
            ),
            101,
        )
        guesses.append((max(need - seeds, 0), seeds_until_conclusive(its, 0.0)))
    (first, now), (second, later) = guesses
    before = first > 0 and not first / 2 - 1 < second < 2 * first - 1
    if now is None or later is None or now == (0, 0):
        return before, False
    return before, later != (0, 0) and not (later[0] + 1 <= now[1] and now[0] <= later[1] + 1)


def cases() -> Iterator[tuple[str, str, Study, float]]:
    """Name, what is wanted, study, and its share of the studies."""
    for images in (360, 2000, 10_000):
        for validation in (144, 1000):
            yield (
                f"equal arms, rates chosen on {validation:,} images, {images:,} test images: interval misses 0",
                "<= 6.5",
                procedure(images, validation),
                1,
            )
    for sd in (0.2, 0.4):
        yield (
            f"training set favors an arm (sd {sd}), one training set: covered, over all training sets",
            "said in words",
            fixed_training_set(sd),
            1,
        )
        yield (
            f"... official test split, validation split redrawn (sd {sd}): covered, for this training set",
            ">= 93",
            given_training_set(sd),
            1,
        )
        yield f"... fresh training sets (sd {sd}): covered", ">= 93", fresh_training_sets(sd), 1
        for seeds in (3, 5, 10):
            for images in (1000, 5000):
                yield (
                    f"... splits redrawn from {images:,} images (sd {sd}), {seeds} repetitions: covered",
                    ">= 93",
                    redrawn_splits(sd, seeds, images),
                    1,
                )
    yield (
        "no effect of training sets, splits redrawn from 1,000 images, 5 repetitions: covered",
        ">= 93",
        redrawn_splits(0.0),
        1,
    )
    for group in (5, 10):
        yield f"test images in groups of {group}, arms differ by group: covered", ">= 93", grouped(group), 1
        yield (
            f"... splits redrawn by group ({group}; training sets: sd 0.2): covered",
            ">= 93",
            redrawn_splits(0.2, group=group),
            1,
        )
    for seeds in (3, 5):
        yield (
            f"an arm diverges in 10 % of its seeds, {seeds} seeds: difference covered",
            ">= 93",
            diverging(seeds),
            1,
        )
        yield f"... {seeds} seeds: share of runs that diverge covered", ">= 93", failures(seeds), 1
    yield "one seed, equal arms, 1,000 images: better or worse", "never", one_seed, 1
    yield "equal arms, a seed more by hand until better or worse, up to 20", "<= 5", one_more, 1
    yield "equal arms, sequential (3, 5, 8, 13, 20), then two more by hand", "<= 5", sequential, 1
    yield "2 points, margin of 1 set to 3 after the runs: equivalent", "<= 5", margin_changed(), 1
    for count in (2, 5, 8):
        yield f"equal arms, the largest of {count} differences made the comparison: any false", "<= 5", picked(count), 1
    edge = -true_difference(-0.35)
    yield "main difference real, three others just the margin: any called wrongly", "<= 5", gate(edge, 0.35), 1
    yield "equivalent said against the printed interval, or a direction hidden", "never", contradiction, 1
    yield "99.8 against 99.1 %, margin of 1 point: equivalent", "never", mistakes, 0.5
    yield "99.0 against 98.5 %, 1.5 times the mistakes: equivalent", "<= 5", ratio_edge, 0.5
    yield "seeds still needed: one seed more makes it half or double (now: the ranges part)", "<= 5", more_seeds, 0.5


def before_and_now(studies: int, seed: int, console: Console) -> Table:
    """Every case by the old rule and by today's."""
    table = Table(title=f"% of {studies:,} simulated studies, with Monte-Carlo error")
    for name in ("case", "before", "now", "wanted"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for name, wanted, study, share in track(list(cases()), "cases", console=console, transient=True):
        draw, count = np.random.default_rng(seed), max(1, round(share * studies))
        counted = np.array([study(draw) for _ in range(count)], float).mean(axis=0)
        table.add_row(name, *(with_error(each, count) for each in counted), wanted)
    return table


def with_error(share: float, count: int) -> str:
    """In percent, with its Monte-Carlo error."""
    if isnan(share):
        return "nothing said"
    return f"{100 * share:.1f} ± {100 * sqrt(share * (1 - share) / count):.1f}"


# Other intervals, the edge of the margin, real classifiers.


def over_seeds(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether Student's t over the seeds covers zero."""
    by_seed = first.mean(axis=1) - second.mean(axis=1)
    error = by_seed.std(ddof=1) / sqrt(len(by_seed))
    return bool(abs(by_seed.mean()) <= special.stdtrit(len(by_seed) - 1, 0.975) * error)


def over_images(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the interval of the images alone covers zero."""
    by_image = (first.astype(float) - second).mean(axis=0)
    return abs(by_image.mean()) <= 1.96 * by_image.std(ddof=1) / sqrt(len(by_image))


def bootstrap(first: np.ndarray, second: np.ndarray, draw: np.random.Generator, times: int = 200) -> bool:
    """Whether a percentile bootstrap that draws seeds and images anew covers zero."""
    table = first.astype(np.float32) - second
    seeds, images = table.shape
    of_seeds = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=times) / seeds
    of_images = draw.multinomial(images, np.full(images, 1 / images), size=times) / images
    means = ((of_seeds.astype(np.float32) @ table) * of_images.astype(np.float32)).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return bool(low <= 0 <= high)


def equal_arms(studies: int, seed: int, console: Console) -> Table:
    """How often intervals of equal arms cover zero."""
    table = Table(title=f"A/A: share of {studies:,} studies of equal arms whose 95 % interval covers zero, %")
    for name in ("seeds", "images", "accuracy", "seeds differ", "arms differ by image"):
        table.add_column(name, justify="right")
    for name in ("ffvit", "t over seeds", "images alone", "bootstrap", "half width, points"):
        table.add_column(name, justify="right")
    kinds = ((0.72, 0.2, 0.0), (0.72, 0.0, 0.0), (0.9, 0.2, 0.0), (0.99, 0.2, 0.0), (0.72, 0.05, 1.0))
    sizes = ((3, 360), (3, 1000), (5, 360), (10, 1000))
    rows = [(*at, *kind) for at in sizes for kind in kinds]
    for seeds, images, accuracy, of_seeds, interaction in track(rows, "equal arms", console=console, transient=True):
        draw, covered, widths = np.random.default_rng(seed), np.zeros(4), []
        for _ in range(studies):
            one, other = simulated(draw, seeds, images, accuracy, of_seeds=of_seeds, interaction=interaction)
            its = difference(one, other)
            widths.append(50 * (its.high - its.low))
            covered += [covers(its), over_seeds(one, other), over_images(one, other), bootstrap(one, other, draw)]
        table.add_row(
            str(seeds),
            f"{images:,}",
            f"{100 * accuracy:g} %",
            "yes" if of_seeds > 0.1 else "little" if of_seeds else "no",
            "yes" if interaction else "no",
            *(f"{100 * share:.1f}" for share in covered / studies),
            f"{np.median(widths):.1f}",
        )
    return table


def margins_edge(studies: int, seed: int) -> Table:
    """How often arms that differ by just the margin are called equivalent, or the difference larger."""
    table = Table(title=f"At the margin's edge: said, % of {studies:,} studies (each at most 2.5)")
    for name in ("seeds", "images", "margin, points", "equivalent", "larger"):
        table.add_column(name, justify="right")
    edge = -true_difference(-0.35)
    for seeds in (3, 5, 10):
        for images in (360, 1000):
            draw = np.random.default_rng(seed)
            said = [size(difference(*simulated(draw, seeds, images, 0.8, -0.35)), edge) for _ in range(studies)]
            shares = (f"{100 * said.count(each) / studies:.1f}" for each in ("equivalent", "larger"))
            table.add_row(str(seeds), f"{images:,}", f"{100 * edge:.2f}", *shares)
    return table


def classified(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of two classes that a Gaussian model separates better than a line."""
    labels = draw.integers(2, size=count)
    return draw.standard_normal((count, 8)) * (1 + 0.8 * labels[:, None]) + 0.35 * labels[:, None], labels


def correct(points: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> Arms:
    """The answers of two classifiers trained on some points, on others."""
    one, other = (
        each.fit(points[train], labels[train]).predict(points[test]) == labels[test]
        for each in (GaussianNB(), LinearDiscriminantAnalysis())
    )
    return one, other


def classifiers(studies: int, seed: int) -> Table:
    """How often intervals cover the true difference of two classifiers, trained on a set of 300 or less."""
    table = Table(title=f"Two classifiers, 300 images: interval covers their true difference, % of {studies:,} studies")
    for name in ("repetitions", "splits", "now", "before (Nadeau and Bengio)", "t over the runs"):
        table.add_column(name, justify="right")
    big = classified(np.random.default_rng(123), 200_000)
    for repeats, folds in ((1, 5), (3, 5), (1, 10), (5, 1), (10, 1)):
        draw, covered, true = np.random.default_rng(seed), np.zeros(3), []
        shares = SPLITS if folds == 1 else Redrawn(1 - 1 / folds, 1 / folds)
        for _ in range(60):
            points, labels = classified(draw, round(300 * shares.train))
            one, other = GaussianNB().fit(points, labels), LinearDiscriminantAnalysis().fit(points, labels)
            true.append(one.score(*big) - other.score(*big))
        truth = float(np.mean(true))
        for _ in range(studies):
            points, labels = classified(draw, 300)
            values, noise = np.empty((repeats, folds)), np.empty((repeats, folds))
            for repeat in range(repeats):
                cuts: Iterable[tuple[np.ndarray, np.ndarray]] = [splits(draw, 300)]
                if folds > 1:
                    cuts = StratifiedKFold(folds, shuffle=True, random_state=int(draw.integers(2**31))).split(
                        points, labels
                    )
                for fold, cut in enumerate(cuts):
                    one, other = correct(points, labels, *cut)
                    values[repeat, fold], noise[repeat, fold] = one.mean() - other.mean(), image_noise(one, other)
            covered += [
                covers(fold_difference(values, noise, shares, 300), truth),
                nadeau_bengio(values - truth, shares.test / shares.train),
                stats.ttest_1samp(values.ravel(), truth).pvalue > 0.05,
            ]
        name = f"{folds} folds" if folds > 1 else "72 % train, 20 % test"
        table.add_row(str(repeats), name, *(with_error(share, studies) for share in covered / studies))
    return table


def training_share(sets: int, seed: int) -> Table:
    """How much of the variance between runs is due to the training set, the rest to seeds: two perceptrons on digits."""
    table = Table(
        title=f"Variance due to training sets, of that by training sets and seeds ({sets} sets of 430 digits, 3 seeds)"
    )
    for name in ("of", "standard deviation by seeds, points", "share of training sets"):
        table.add_column(name, justify="right")
    pixels, labels = load_digits(return_X_y=True)
    draw, points = np.random.default_rng(seed), pixels / 16
    order = draw.permutation(len(labels))
    test, pool = order[:700], order[700:]
    accuracies = np.empty((2, sets, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 60 epochs have not converged
        for place in np.ndindex(sets, 3):
            if place[1] == 0:
                train = draw.choice(pool, 430, replace=False)
            for arm, layers in enumerate(((64,), (32, 32))):
                network = MLPClassifier(
                    layers, max_iter=60, learning_rate_init=0.01, batch_size=32, random_state=3 * place[0] + place[1]
                )
                accuracies[arm][place] = network.fit(points[train], labels[train]).score(points[test], labels[test])
    for name, values in (
        ("the difference of two", accuracies[0] - accuracies[1]),
        ("the accuracy of one", accuracies[0]),
    ):
        of_seeds = values.var(axis=1, ddof=1).mean()
        within = values.mean(axis=1).var(ddof=1) - of_seeds / 3
        of_sets = max(within, 0.0) / (1 - 430 / len(pool))  # sets drawn from one pool overlap
        table.add_row(name, f"{100 * sqrt(of_seeds):.2f}", f"{100 * of_sets / (of_sets + of_seeds):.0f} %")
    return table


@app.default
def main(
    studies: Annotated[
        PositiveInt,
        Parameter(help="Studies simulated for each case; half as many in the second table, a tenth with classifiers."),
    ] = 3000,
    seed: int = 0,
) -> None:
    """Run the simulations."""
    console, start = Console(width=150), perf_counter()
    for make in (
        lambda: before_and_now(studies, seed, console),
        lambda: equal_arms(max(1, studies // 2), seed, console),
        lambda: margins_edge(5 * studies, seed),
        lambda: classifiers(max(1, studies // 10), seed),
        lambda: training_share(max(5, studies // 50), seed),
    ):
        console.print(make())
        console.print(f"{(perf_counter() - start) / 60:.1f} minutes so far")


if __name__ == "__main__":
    app()
