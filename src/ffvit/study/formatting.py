"""Numbers as people write them, each with its unit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ffvit.study.findings import Key
from ffvit.study.statistics import Interval
from ffvit.terminal import percent


def points(share: float) -> str:
    """A difference in percentage points, signed: +0.7."""
    rounded = round(100 * share, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def minus(text: str) -> str:
    """Numbers with the minus sign that is as wide as a plus."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def margin(share: float) -> str:
    """A margin in percentage points: ±1."""
    return f"±{100 * share:.3g}"


def level(interval: Interval) -> str:
    """The level of an interval: 98.75 %."""
    return f"{100 * interval.level:.4g} %"


def bounds(interval: Interval) -> str:
    """A difference's interval, in points: -0.7 to +1.2."""
    return f"{points(interval.low)} to {points(interval.high)}"


def accuracy(top1: Interval | None) -> str:
    """71.3 % (70.2 to 72.4)."""
    if top1 is None:
        return "not done"
    return f"{percent(top1.value)} ({100 * top1.low:.1f} to {100 * top1.high:.1f})"


def large(number: int, unit: str = "") -> str:
    """A count with three digits: 5.72 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}{unit}"
    return f"{number:.3g} {unit}".strip()


def count(number: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def join(names: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def capitalize(text: str) -> str:
    """The text with a capital first letter, and the others as they are."""
    return text[0].upper() + text[1:]


def run_name(key: Key) -> str:
    """What a run is called in its study: seed 0, fold 2."""
    seed, fold = key
    return f"seed {seed}" if fold is None else f"seed {seed}, fold {fold}"
