"""What an interval shows, and which level it needs so that a study's error rates hold.

Direction and size are two statements of one interval, and neither hides the other: a difference may be real and too small
to matter. The interval is the one that is printed; as a test of equivalence it is stricter than two one-sided tests
(Schuirmann 1987) at the same level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ffvit.study.statistics import Difference

Direction = Literal["better", "worse", "not shown"]
Size = Literal["equivalent", "larger", "not shown"]

MISTAKE_RATIO = 0.5
"""Two arms are not equivalent if one may make 1 + this times the mistakes of the other."""

LEAST_MARGIN = 0.1
"""The margin is not lowered below this share of what the plan says, however few mistakes are left."""


def direction(difference: Difference, main: Direction | None = None) -> Direction:
    """`better` or `worse` if the interval excludes 0; never from one run, which tells nothing of other seeds.

    Args:
        difference: The comparison's.
        main: For a side comparison, the direction of the main one: while that is not shown, none is (see
            `comparison_levels`).
    """
    if difference.runs == 1 or main == "not shown":
        return "not shown"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "not shown"


def size(difference: Difference, margin: float, main: Size | None = None) -> Size:
    """`equivalent` if the whole interval lies within the margin, `larger` if all of it lies beyond; never from one run.

    Args:
        difference: The comparison's.
        margin: Differences below it do not matter; see `effective_margin`.
        main: For a side comparison, the size of the main one: while that is not shown, none is.
    """
    if difference.runs == 1 or main == "not shown":
        return "not shown"
    if -margin < difference.low and difference.high < margin:
        return "equivalent"
    return "larger" if difference.low > margin or difference.high < -margin else "not shown"


def effective_margin(margin: float, first: float, second: float) -> float:
    """The margin, lowered where few mistakes are left: at most half of the better arm's error rate.

    So equivalent arms never differ by more than 1.5 times the mistakes: 99.8 against 99.1 % is within one point, and 4.5
    times the mistakes. Below a tenth of the margin it is not lowered: no test set is large enough to tell one mistake in
    ten thousand from two.
    """
    return min(margin, max(MISTAKE_RATIO * (1 - max(first, second)), LEAST_MARGIN * margin))


def comparison_levels(comparisons: int, level: float = 0.95) -> tuple[float, ...]:
    """The level of every comparison's interval, the main one first: it is tested at full level, before all others.

    The others share that level among themselves (Bonferroni), and are concluded only where the main comparison is (a
    fixed sequence, Maurer, Hothorn and Lehmacher 1995): `direction` and `size` take what the main one shows. Then at most
    1 - level of studies state any wrong direction, and at most as many any wrong size.
    """
    others = comparisons - 1
    return (level, *[1 - (1 - level) / others] * others) if others else (level,)


def looks(first: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a sequential study may be looked at, each about 1.6 times the one before."""
    counts = [first]
    while counts[-1] < most:
        counts.append(min(most, round(counts[-1] * 1.6)))
    return tuple(counts)


def look_level(planned: Sequence[int], look: int, level: float = 0.95) -> float:
    """The level of the intervals at a look, for all looks together to hold at `level`, however many are added by hand.

    The looks that were planned, and all that were not, get equal shares of the error rate; each look added by hand spends
    half of what is left of the last share. So a plan of one look spends half, a first look added by hand a quarter, the
    next an eighth. By the union bound the error rate holds however the looks depend on each other.

    Args:
        planned: The planned looks, `looks` of a sequential plan; else the one number of seeds.
        look: Which look this is, from 1.
        level: Of all looks together.
    """
    share = (1 - level) / (len(planned) + 1)
    return 1 - share * 0.5 ** max(look - len(planned), 0)
