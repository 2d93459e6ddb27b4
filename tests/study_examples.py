"""Findings as a real study would make them, without training anything."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ffvit.study.findings import (
    ArmFinding,
    Comparison,
    Cost,
    Disagreement,
    DisputedImage,
    Epoch,
    Findings,
    RunFinding,
)
from ffvit.study.statistics import difference, mean, outcome, seeds_to_settle

IMAGES, EPOCHS, MARGIN = 359, 12, 0.01

# name, role, share right, parameters, operations, seconds an image, seconds a run
ARMS = (
    ("feed-forward", "arm", 0.969, 118_000, 4_900_000, 0.0021, 21.0),
    ("attention", "arm", 0.974, 102_000, 5_600_000, 0.0034, 29.0),
    ("attention only", "arm", 0.912, 84_000, 4_100_000, 0.0046, 34.0),
    ("no mixing", "control", 0.83, 67_000, 2_200_000, 0.0012, 13.0),
    ("random mixing", "control", 0.90, 67_000, 2_700_000, 0.0015, 15.0),
)


def study(folder: Path, seeds: int = 3) -> Findings:
    """Five arms on ten classes of digits."""
    draw = np.random.default_rng(1)
    hard = draw.normal(size=IMAGES)
    answers = {
        name: hard + 0.5 * draw.normal(size=IMAGES) + 0.6 * draw.normal(size=(seeds, IMAGES))
        + 0.02 * draw.normal(size=(seeds, 1))
        for name, *_ in ARMS
    }  # fmt: skip
    correct = {name: answers[name] < np.quantile(answers[name], share) for name, _, share, *_ in ARMS}
    truth = np.arange(IMAGES) % 10
    asked = (
        ("feed-forward", "attention"),
        ("attention only", "attention"),
        ("no mixing", "attention"),
        ("random mixing", "attention"),
    )
    return Findings(
        title="Do the digits need attention?",
        folder=folder,
        arms=tuple(_arm(*arm, correct[arm[0]], draw) for arm in ARMS),
        comparisons=tuple(_comparison(one, other, correct) for one, other in asked),
        disagreements=tuple(_disagreement(one, other, correct, truth) for one, other in asked),
        margin=MARGIN,
        images=f"digits: 1,797 images of 10 classes, 8 x 8 px; 1,150 to train on, 288 to select on, {IMAGES} to test on",
        test_images=IMAGES,
        held=(
            f"Epochs: {EPOCHS} for every arm, of the same images in the same order.",
            "Parameters: not held; 0.07 to 0.12 million.",
            "Recipe: digits, the same for every arm.",
        ),
        statistics=(
            "Intervals account for both sources of chance, seeds and test images.",
            "4 questions share one error rate of 5 %: each difference has a 98.75 % interval (Bonferroni).",
            "Not covered: other data, other recipes, errors in the labels.",
        ),
        missing=(),
        measured_on="AVX2, 2 cores, torch 2.11, fp32",
        repeat=(("again", "ffvit compare --study study.yaml --out again"), ("commit", "5f25314")),
        plan="title: Do the digits need attention?\ndata: digits\narms: [feed-forward, attention, attention only]\nseeds: [0, 1, 2]\nmargin: 1.0\n",
    )


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
    return ArmFinding(
        name=name,
        role=role,
        network=f"width 64, depth 4, 4 x 4 patches of 8 x 8 px; {name} over patches, feedforward over features",
        parameters=parameters,
        flops=flops,
        epochs=EPOCHS,
        tuned={"learning_rate": 0.006},
        top1=mean(correct),
        runs=tuple(runs),
        planned=len(runs),
        cost=Cost(latency, 1.3 * latency, 16 / latency, 64),
        published=None,
        differs=("position: none against vectors",) if role == "control" else (),
    )


def _comparison(one, other, correct) -> Comparison:
    its = difference(correct[one], correct[other], 0.9875)
    shown, more = outcome(its, MARGIN), seeds_to_settle(its, MARGIN)
    per_run = tuple(
        ((seed, None), float(a.mean() - b.mean()))
        for seed, (a, b) in enumerate(zip(correct[one], correct[other], strict=True))
    )
    headline = {
        "better": f"{one.capitalize()} is better than {other}",
        "worse": f"{one.capitalize()} is worse than {other}",
        "as good": "You don't need attention: as good without it",
        "not worse": "You likely don't need attention: no worse without it",
        "open": "Not settled yet whether you need attention",
    }[shown]
    words = (
        f"Without attention: {100 * correct[one].mean():.1f} % against {100 * correct[other].mean():.1f} %. "
        f"Difference {100 * its.value:+.1f} points (98.75 % interval {100 * its.low:+.1f} to {100 * its.high:+.1f}; "
        f"{its.seeds} seeds, paired). It costs 0.62x the time a prediction and 1.16x the parameters."
    )
    return Comparison(one, other, its, per_run, shown, headline, words, more)


def _disagreement(one, other, correct, truth) -> Disagreement:
    ours, theirs = correct[one].mean(axis=0), correct[other].mean(axis=0)
    classes = [
        (str(digit), int((truth == digit).sum()), float(ours[truth == digit].mean()), float(theirs[truth == digit].mean()))
        for digit in range(10)
    ]  # fmt: skip
    classes.sort(key=lambda each: -abs(each[2] - each[3]))
    pictures, labels = load_digits(return_X_y=True)

    def disputed(where: np.ndarray) -> tuple[DisputedImage, ...]:
        return tuple(
            DisputedImage(f"digits/{i}.png", str(labels[i]), str((labels[i] + 5) % 10), png(pictures[i].reshape(8, 8) * 15.9))
            for i in np.flatnonzero(where)[:12]
        )  # fmt: skip

    only_one, only_other = (ours > 0.5) & (theirs < 0.5), (theirs > 0.5) & (ours < 0.5)
    counts = int(only_one.sum()), int(only_other.sum())
    return Disagreement(one, other, tuple(classes), disputed(only_one), disputed(only_other), counts)
