"""Whether a study's intervals hold what they promise: `python benchmarks/intervals.py`, `--help` for the options.

Simulates thousands of studies whose truth is known, and counts how often

- the 95 % interval of two equal arms covers zero (an A/A study), by ffvit's method and by three that are often used:
  Student's t over the seeds, the test images alone (the runs' answers pooled as if they were one), and a bootstrap over
  seeds and images;
- two arms that differ by just the margin are called as good;
- two equal arms are called different by a study that looks again and again and stops at the first sign;
- cross-validation's interval covers the difference of two classifiers, whose true difference is known from a test set
  of a million.

An image has a difficulty (its logit, from a beta distribution of the given accuracy); a seed moves all images of its arm
by a normal draw and each image by another; with interaction, arms differ from image to image too. Each figure has a
Monte-Carlo error of about sqrt(p (1 - p) / studies): half a point for 95 % of 2,000.
"""

from __future__ import annotations

from math import sqrt
from typing import Annotated

import cyclopts
import numpy as np
from cyclopts import Parameter
from pydantic import PositiveInt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB

from ffvit.study.statistics import difference, fold_difference, level_for, looks, outcome

app = cyclopts.App(help=__doc__, help_format="plaintext")


def simulated(
    draw: np.random.Generator,
    seeds: int,
    images: int,
    accuracy: float,
    shift: float = 0.0,
    of_seeds: float = 0.2,
    interaction: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The answers of two arms, seeds by images; `shift` moves the first one's logits."""
    difficulty = draw.beta(accuracy, 1 - accuracy, size=images).clip(1e-6, 1 - 1e-6)
    logits = np.log(difficulty / (1 - difficulty))
    arms = []
    for move in (shift, 0.0):
        arm = logits + move + interaction * draw.standard_normal(images)
        noise = of_seeds * draw.standard_normal((seeds, 1)) + 0.5 * draw.standard_normal((seeds, images))
        arms.append(draw.random((seeds, images)) < 1 / (1 + np.exp(-(arm + noise))))
    return arms[0], arms[1]


def true_difference(shift: float, accuracy: float = 0.8, of_seeds: float = 0.2) -> float:
    """What a shift of the logits is worth among all images and seeds, to a hundredth of a point."""
    draw = np.random.default_rng(0)
    difficulty = draw.beta(accuracy, 1 - accuracy, size=4_000_000).clip(1e-6, 1 - 1e-6)
    logits = np.log(difficulty / (1 - difficulty)) + sqrt(of_seeds**2 + 0.5**2) * draw.standard_normal(len(difficulty))
    return float((1 / (1 + np.exp(-(logits + shift))) - 1 / (1 + np.exp(-logits))).mean())


def over_seeds(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether Student's t over the seeds covers zero."""
    by_seed = first.mean(axis=1) - second.mean(axis=1)
    error = by_seed.std(ddof=1) / sqrt(len(by_seed))
    return bool(abs(by_seed.mean()) <= stats.t.ppf(0.975, len(by_seed) - 1) * error)


def over_images(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the interval of the images alone covers zero."""
    by_image = (first.astype(float) - second).mean(axis=0)
    return abs(by_image.mean()) <= 1.96 * by_image.std(ddof=1) / sqrt(len(by_image))


def bootstrap(first: np.ndarray, second: np.ndarray, draw: np.random.Generator, times: int = 300) -> bool:
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
    cases = [
        (seeds, images, accuracy, of_seeds, interaction)
        for seeds in (3, 5, 10)
        for images in (360, 1000)
        for accuracy, of_seeds, interaction in ((0.72, 0.2, 0.0), (0.72, 0.0, 0.0), (0.9, 0.2, 0.0), (0.99, 0.2, 0.0), (0.72, 0.05, 1.0))
    ]  # fmt: skip
    for seeds, images, accuracy, of_seeds, interaction in track(cases, "equal arms", console=console, transient=True):
        draw, covered, widths = np.random.default_rng(seed), np.zeros(4), []
        for _ in range(studies):
            one, other = simulated(draw, seeds, images, accuracy, of_seeds=of_seeds, interaction=interaction)
            its = difference(one, other)
            widths.append(50 * (its.high - its.low))
            covered += [its.low <= 0 <= its.high, over_seeds(one, other), over_images(one, other), bootstrap(one, other, draw)]  # fmt: skip
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
    """How often arms that differ by just the margin are called as good."""
    table = Table(title=f"At the margin's edge: called as good, % of {studies:,} studies (at most 5)")
    for name in ("seeds", "images", "true difference, points", "margin, points", "as good", "not worse"):
        table.add_column(name, justify="right")
    for seeds in (3, 5, 10):
        for images in (360, 1000):
            shift, draw = -0.35, np.random.default_rng(seed)
            edge = -true_difference(shift)
            said = [outcome(difference(*simulated(draw, seeds, images, 0.8, shift)), edge) for _ in range(studies)]
            shares = (f"{100 * said.count(each) / studies:.1f}" for each in ("as good", "not worse"))
            table.add_row(str(seeds), f"{images:,}", f"{-100 * edge:.2f}", f"{100 * edge:.2f}", *shares)
    return table


def looking_again(studies: int, seed: int) -> Table:
    """How often equal arms are called different by a study that goes on until settled."""
    table = Table(title=f"Until settled: equal arms called different, % of {studies:,} studies (at most 5)")
    for name in ("looks at", "ffvit", "the same looks without correction"):
        table.add_column(name, justify="right")
    for counts in (looks(3, 8), looks(3, 20)):
        draw, level, wrong, naive = np.random.default_rng(seed), level_for(len(counts)), 0, 0
        for _ in range(studies):
            one, other = simulated(draw, counts[-1], 300, 0.8)
            wrong += any(outcome(difference(one[:n], other[:n], level), 0.0) != "open" for n in counts)
            naive += any(not over_seeds(one[:n], other[:n]) for n in counts)
        names = ", ".join(map(str, counts))
        table.add_row(f"{names} seeds", f"{100 * wrong / studies:.1f}", f"{100 * naive / studies:.1f}")
    return table


def folds(studies: int, seed: int) -> Table:
    """How often cross-validation's interval covers the true difference of two classifiers trained on such a set."""
    table = Table(title=f"Cross-validation, 300 images: interval covers the true difference, % of {studies:,} studies")
    for name in ("repeats x folds", "corrected (ffvit)", "t over folds"):
        table.add_column(name, justify="right")

    def sample(draw: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = draw.integers(2, size=size)
        points = draw.standard_normal((size, 8)) * (1 + 0.8 * labels[:, None]) + 0.35 * labels[:, None]
        return points, labels

    big = sample(np.random.default_rng(123), 1_000_000)
    for repeats, count in ((1, 5), (3, 5), (1, 10)):
        draw, covered, naive, true = np.random.default_rng(seed), 0, 0, []
        for _ in range(30):  # the estimand: the mean difference of classifiers trained on sets of a fold's size
            points, labels = sample(draw, 300 * (count - 1) // count)
            one, other = GaussianNB().fit(points, labels), LogisticRegression().fit(points, labels)
            true.append(one.score(*big) - other.score(*big))
        truth = float(np.mean(true))
        for _ in range(studies):
            points, labels = sample(draw, 300)
            values = np.empty((repeats, count))
            for repeat in range(repeats):
                parts = StratifiedKFold(count, shuffle=True, random_state=int(draw.integers(2**31)))
                for fold, (train, test) in enumerate(parts.split(points, labels)):
                    one = GaussianNB().fit(points[train], labels[train])
                    other = LogisticRegression().fit(points[train], labels[train])
                    values[repeat, fold] = one.score(points[test], labels[test]) - other.score(
                        points[test], labels[test]
                    )
            its = fold_difference(values, 1 / (count - 1), 300)
            covered += its.low <= truth <= its.high
            naive += bool(stats.ttest_1samp(values.ravel(), truth).pvalue > 0.05)
        table.add_row(f"{repeats} x {count}", f"{100 * covered / studies:.1f}", f"{100 * naive / studies:.1f}")
    return table


@app.default
def main(
    studies: Annotated[
        PositiveInt,
        Parameter(help="Studies simulated for each row; at the margin's edge ten times as many, for folds a fifth."),
    ] = 2000,
    seed: int = 0,
) -> None:
    """Run the simulations."""
    console = Console(width=120)
    console.print(equal_arms(studies, seed, console))
    console.print(margins_edge(10 * studies, seed))
    console.print(looking_again(studies, seed))
    console.print(folds(max(1, studies // 5), seed))


if __name__ == "__main__":
    app()
