from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from ffvit.config.architecture import Network
from ffvit.config.recipe import named_recipe
from ffvit.run_folder import Config
from ffvit.study.jobs import Job
from ffvit.study.live_display import LiveDisplay
from ffvit.study.run_job import Outcome


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What it is set to is what time it is."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def job(number: int, trial: float | None = None) -> Job:
    config = Config(network=Network(name="ff_micro_patch2_8"), recipe=named_recipe("digits"))
    return Job("an arm", number, None, None if trial is None else {"lr": trial}, config, Path("nowhere"))


def test_the_time_left_is_less_what_goes_on_and_what_was_tried_ahead(clock, monkeypatch):
    """Four runs of 40 s, each after two trials of 10 s, two at once."""
    summary = {"test": {"top1": {"value": 0.5}}, "seconds": 40.0}
    monkeypatch.setattr("ffvit.study.live_display.Run", lambda _: SimpleNamespace(summary=lambda: summary))
    display = LiveDisplay(Console(file=io.StringIO()), 2)
    display.begin([job(number) for number in range(4)], 2)
    assert display.round_seconds(4) is None  # nothing is known yet
    for rate in (0.1, 0.2):
        both = [job(number, rate) for number in (0, 1)]
        display.update(both)
        clock.now += 10
        for each in both:
            display.ended(each, Outcome("done"))
    runs = [job(0), job(1)]
    display.update(runs)
    clock.now += 40
    display.ended(runs[0], Outcome("done"))
    assert display.round_seconds(3) == pytest.approx((3 * 60 - 2 * 10 - 40) / 2)  # of which one is nearly done
    display.ended(runs[1], Outcome("done"))
    assert display.round_seconds(2) == pytest.approx(60)
