"""A small network, and findings as a real study would make them, without training anything."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from math import inf, log
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ffvit.study.decision import direction, size
from ffvit.study.findings import (
    ArmFinding,
    BaselineFinding,
    Comparison,
    Cost,
    Disagreement,
    DisagreementImage,
    EffectFinding,
    Epoch,
    Findings,
    RunFinding,
    SearchFinding,
    TrialFinding,
)
from ffvit.study.statistics import Interval, difference, mean

BODY = {
    "width": 16,
    "depth": 1,
    "img_size": 8,
    "patch": 4,
    "in_chans": 1,
    "readout": "mean",
    "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
}
"""A network for the digits, as a plan writes it."""

IMAGES, EPOCHS, MARGIN = 359, 12, 0.01
RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)

# name, role, share correct, parameters, FLOPs, seconds an image, seconds a run
ARMS = (
    ("feed-forward", "arm", 0.969, 118_000, 4_900_000, 0.0021, 21.0),
    ("attention", "arm", 0.974, 102_000, 5_600_000, 0.0034, 29.0),
    ("attention only", "arm", 0.912, 84_000, 4_100_000, 0.0046, 34.0),
    ("no mixing", "control", 0.83, 67_000, 2_200_000, 0.0012, 13.0),
    ("random mixing", "control", 0.90, 67_000, 2_700_000, 0.0015, 15.0),
)


MIXERS = {"attention": "attention", "attention only": "attention", "no mixing": "identity", "random mixing": "random"}


def study(folder: Path, seeds: int = 3) -> Findings:
    """Five arms on ten classes of digits."""
    draw = np.random.default_rng(1)
    hard = draw.normal(size=IMAGES)
    predicted = {
        name: hard + 0.5 * draw.normal(size=IMAGES) + 0.6 * draw.normal(size=(seeds, IMAGES))
        + 0.02 * draw.normal(size=(seeds, 1))
        for name, *_ in ARMS
    }  # fmt: skip
    correct = {name: predicted[name] < np.quantile(predicted[name], share) for name, _, share, *_ in ARMS}
    truth = np.arange(IMAGES) % 10
    compared = (
        ("feed-forward", "attention"),
        ("attention only", "attention"),
        ("no mixing", "attention"),
        ("random mixing", "attention"),
    )
    return Findings(
        title="Do the digits need attention?",
        folder=folder,
        arms=tuple(_arm(*arm, correct[arm[0]], draw) for arm in ARMS),
        comparisons=tuple(_comparison(one, other, correct, number == 0) for number, (one, other) in enumerate(compared)),
        effects=(
            EffectFinding("mixer: feed-forward - attention", Interval(0.012, -0.004, 0.028, 0.95), "main effect"),
            EffectFinding("mixer x width: feed-forward - attention", Interval(-0.003, -0.021, 0.015, 0.95), "interaction"),
        ),
        baselines=(
            BaselineFinding("majority class", Interval(0.103, 0.075, 0.139, 0.95), 0.001, ()),
            BaselineFinding("k-nearest neighbors on pixels (k = 3)", Interval(0.936, 0.905, 0.957, 0.95), 0.21, ("attention only", "no mixing", "random mixing")),
            BaselineFinding("logistic regression on pixels", Interval(0.889, 0.852, 0.918, 0.95), 0.94, ("no mixing",)),
            BaselineFinding("ConvNet of the same FLOPs", Interval(0.958, 0.932, 0.974, 0.95), 17.0, ("attention only", "no mixing", "random mixing")),
        ),
        disagreements=tuple(_disagreement(one, other, correct, truth) for one, other in compared),
        exploratory=(),
        warnings=(
            "k-nearest neighbors on pixels beats attention only (93.6 against 91.2 %): that network is underfit.",
            "Images were kept at their own size of 8 px; 100 more minutes would buy 40 more epochs.",
        ),
        outlook=(
            "With 3 repetitions on 359 test images the smallest difference that would likely be shown is 2.4 points.",
            "If the arms are equal: equivalence is shown in 5 % of such studies, a direction in 5 %.",
        ),
        margin=MARGIN,
        images=f"digits: 1,797 images of 10 classes, 8 x 8 px; 1,150 to train, 288 to validate, {IMAGES} to test",
        test_images=IMAGES,
        held=(
            f"Epochs: {EPOCHS} for every arm, of the same images in the same order.",
            "Parameters: not matched; 0.07 to 0.12 million.",
            "Recipe: digits, the same for every arm.",
        ),
        statistics=(
            "Intervals account for both sources of chance, repetitions and test images.",
            "The main comparison has a 95 % interval; the 3 others share one error rate of 5 %: 98.33 % intervals (Bonferroni).",
            "Not covered: other data, other recipes, errors in the labels.",
        ),
        missing=(),
        measured_on="AVX2, 2 cores, torch 2.11, fp32",
        next=(
            ("More repetitions of the main comparison", "ffvit compare --resume study --seeds 10"),
            ("Train the better arm longer on all images", "ffvit train --data digits --network study/arms.yaml --arm attention --recipe.epochs 100 --out attention-long"),
            ("Predict with it", "ffvit predict attention-long image.png"),
        ),
        repeat=(("again", "ffvit compare --study study.yaml --out again"), ("commit", "5f25314")),
        plan="title: Do the digits need attention?\ndata: digits\narms: [feed-forward, attention, attention only]\nseeds: [0, 1, 2]\nmargin: 1.0\n",
    )  # fmt: skip


def exploratory(its: Findings) -> Findings:
    """The plan was changed after runs existed."""
    return replace(
        its,
        exploratory=(
            "The margin was changed from 1 to 3 points on 2026-03-01 14:02, after 9 runs had finished.",
            "The comparison attention only against attention was added on 2026-03-01 14:05, after 15 runs had finished.",
        ),
    )


def withheld(its: Findings) -> Findings:
    """Attention is not surely better than the body that cannot mix."""
    reason = (
        "Attention does not surely beat a body that cannot mix: it trains badly here, or the images need no mixing."
    )
    main = _withheld(its.comparisons[0], reason)
    return replace(its, comparisons=(main, *its.comparisons[1:]))


def one_repetition(its: Findings) -> Findings:
    """One of three seeds has run."""
    one = study(its.folder, seeds=1)
    reason = "One repetition cannot tell how much training itself varies: no conclusion about architectures."
    return replace(
        one,
        arms=tuple(replace(each, planned=3) for each in one.arms),
        comparisons=tuple(_withheld(each, reason) for each in one.comparisons),
        missing=("no run of seeds 1, 2 was begun",),
    )


def _withheld(its: Comparison, reason: str) -> Comparison:
    headline, words = f"No conclusion about {its.arm} and {its.reference}", f"{its.words} {reason}"
    return replace(its, withheld=reason, headline=headline, words=words, win_again=None, more_seeds=None)


def two_repetitions(its: Findings) -> Findings:
    """Two seeds, with intervals as wide as two seeds make them."""
    two = study(its.folder, seeds=2)
    wide = replace(two.comparisons[0].difference, value=0.305, low=-1.0, high=1.0)
    wider = replace(two.comparisons[1].difference, value=-0.305, low=-2.024, high=1.414)
    fields = {"direction": "not shown", "size": "not shown", "more_seeds": None}
    comparisons = (
        replace(two.comparisons[0], difference=wide, **fields),
        replace(two.comparisons[1], difference=wider, **fields),
        *two.comparisons[2:],
    )
    arms = (replace(two.arms[0], top1=Interval(0.97, 0.3, 0.998, 0.95)), *two.arms[1:])
    return replace(two, comparisons=comparisons, arms=arms)


def diverged(its: Findings) -> Findings:
    """A run of the second arm diverged, and a trial of its search."""
    arm = its.arms[1]
    assert arm.search is not None
    trials = tuple(
        replace(trial, losses=(inf, *trial.losses[1:])) if trial.values["lr"] == RATES[-1] else trial
        for trial in arm.search.trials
    )
    broken = replace(arm, runs=arm.runs[:-1], failed=1, search=replace(arm.search, trials=trials))
    warning = "1 of 3 runs of attention diverged; the difference is of those that did not."
    missing = ("attention, seed 2: failed: the loss became NaN after 4,600 images",)
    return replace(its, arms=(its.arms[0], broken, *its.arms[2:]), warnings=(warning, *its.warnings), missing=missing)  # fmt: skip


def at_the_edge(its: Findings) -> Findings:
    """The first arm's search chose the largest value."""
    arm = replace(its.arms[0], search=_search(0.04, len(its.arms[0].runs), np.random.default_rng(5)))
    warning = "The search of feed-forward ended at the largest learning rate tried: it is not tuned."
    return replace(its, arms=(arm, *its.arms[1:]), warnings=(warning, *its.warnings))


VARIANTS: dict[str, Callable[[Findings], Findings]] = {
    "as planned": lambda its: its,
    "exploratory": exploratory,
    "withheld": withheld,
    "one repetition": one_repetition,
    "two repetitions": two_repetitions,
    "diverged": diverged,
    "at the edge": at_the_edge,
}


def png(pixels: np.ndarray) -> bytes:
    """Grey pixels as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _arm(name, role, share, parameters, flops, latency, seconds, correct, draw) -> ArmFinding:
    runs = []
    for seed, right in enumerate(correct):
        curve, pace = [], 2.5 + 0.3 * draw.normal()
        for epoch in range(1, EPOCHS + 1):
            left = float(np.exp(-epoch / pace))
            top1 = float(np.clip(right.mean() * (1 - 0.8 * left) + 0.006 * draw.normal(), 0, 1))
            curve.append(Epoch(epoch, 1150 * epoch, 0.35 + 0.9 * (1 - share) + 2 * left + 0.02 * draw.normal(), top1))
        time = seconds * (1 + 0.05 * draw.normal())
        runs.append(RunFinding(seed, None, float(right.mean()), 0.2, IMAGES, time, 640.0, tuple(curve)))
    settings = [("learning rate", "0.004"), ("weight decay", "0.05"), ("warm-up epochs", "2")]
    settings += [
        ("heads", "4" if "attention" in name else "none"),
        ("position", "none" if role == "control" else "sine-cosine"),
    ]
    return ArmFinding(
        name=name,
        role=role,
        network=f"width 64, depth 4, 4 x 4 patches of 2 x 2 px; {name} over patches, feedforward over features",
        parameters=parameters,
        flops=flops,
        epochs=EPOCHS,
        settings=tuple(settings),
        search=_search(0.003, len(correct), draw),
        top1=mean(correct),
        runs=tuple(runs),
        planned=len(runs),
        failed=0,
        cost=Cost(latency, 1.3 * latency, 16 / latency, 64),
        published=None,
        differs=("position: none against sine-cosine",) if role == "control" else (),
        block=((MIXERS.get(name, "feedforward"), "patches"), ("attention" if name == "attention only" else "feedforward", "features")),
    )  # fmt: skip


def _search(best, repetitions, draw) -> SearchFinding:
    trials, edges = [], 0
    for seed in range(repetitions):
        losses = [tuple(0.2 + 0.09 * log(rate / best) ** 2 + 0.02 * draw.normal() for _ in range(2)) for rate in RATES]
        chosen = min(range(len(RATES)), key=lambda number: sum(losses[number]))
        edges += chosen in (0, len(RATES) - 1)
        trials += [
            TrialFinding((seed, None), {"lr": rate}, losses[number], number == chosen)
            for number, rate in enumerate(RATES)
        ]
    return SearchFinding("lr", 4, tuple(trials), edges, repetitions)


def _comparison(one, other, correct, main) -> Comparison:
    its = difference(correct[one], correct[other], 0.95 if main else 1 - 0.05 / 3)
    per_run = tuple(
        ((seed, None), float(a.mean() - b.mean()))
        for seed, (a, b) in enumerate(zip(correct[one], correct[other], strict=True))
    )
    shown, how_much = direction(its), size(its, MARGIN)
    headline = {
        "better": f"{one.capitalize()} is better than {other} on these images",
        "worse": f"{one.capitalize()} is worse than {other} on these images",
        "not shown": f"Inconclusive: {one} against {other}",
    }[shown]
    words = (
        f"With this body of 0.1 M parameters, 12 epochs and 1,150 training images: {one} {100 * correct[one].mean():.1f} %, "
        f"{other} {100 * correct[other].mean():.1f} %. Difference {100 * its.value:+.1f} points ({its.seeds} repetitions, paired). "
        f"Direction: {shown}. Size: {how_much}. It costs 0.62x the time of a prediction (0.58 to 0.67) and 1.16x the parameters."
    )
    return Comparison(
        one, other, its, per_run, main, shown, how_much, MARGIN, None, headline, words, 0.62, (4, 11) if main else None
    )  # fmt: skip


def _disagreement(one, other, correct, truth) -> Disagreement:
    ours, theirs = correct[one].mean(axis=0), correct[other].mean(axis=0)
    classes = [
        (str(digit), int((truth == digit).sum()), float(ours[truth == digit].mean()), float(theirs[truth == digit].mean()))
        for digit in range(10)
    ]  # fmt: skip
    classes.sort(key=lambda each: -abs(each[2] - each[3]))
    pictures, labels = load_digits(return_X_y=True)

    def disputed(where: np.ndarray) -> tuple[DisagreementImage, ...]:
        return tuple(
            DisagreementImage(f"digits/{i}.png", str(labels[i]), str((labels[i] + 5) % 10), png(pictures[i].reshape(8, 8) * 15.9))
            for i in np.flatnonzero(where)[:12]
        )  # fmt: skip

    only_one, only_other = (ours > 0.5) & (theirs < 0.5), (theirs > 0.5) & (ours < 0.5)
    counts = int(only_one.sum()), int(only_other.sum())
    return Disagreement(one, other, tuple(classes), disputed(only_one), disputed(only_other), counts)
