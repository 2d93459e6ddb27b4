"""What a person sees while a study runs: a live table of its runs on a terminal, a line a run everywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ffvit.inference.report import percent
from ffvit.run_folder import Run
from ffvit.study.jobs import Job
from ffvit.study.run_job import Outcome
from ffvit.training.progress import format_duration


class LiveDisplay:
    """Shows a study's progress.

    Args:
        console: Where.
        slots: How many runs are in progress at once.
    """

    def __init__(self, console: Console, slots: int) -> None:
        self.console, self.slots = console, slots
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._began: dict[str, float] = {}
        self._seconds: dict[bool, list[float]] = {True: [], False: []}  # of trials, and of the runs that count
        self._done = 0
        self._total = 0
        self._trials = 0

    def __enter__(self) -> LiveDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, runs: Sequence[Job], trials: int) -> None:
        """The next part of the study: its runs, some of which may be done already, and about so many trials before them."""
        self._total = len(runs)
        self._done = sum(job.finished() for job in runs)
        self._trials = trials
        before = f", {self._done} of them done before" if self._done else ""
        search = f", each after a search of about {trials:.0f} trials" if trials and self._done < len(runs) else ""
        self.say(f"training: {len(runs)} runs{before}{search}, {self.slots} at once")

    def say(self, words: str) -> None:
        """Something a person should know."""
        self.console.print(Text(words), highlight=False, soft_wrap=True)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A run has ended: a line for it."""
        began = self._began.pop(job.title, time.monotonic())
        if outcome.status != "done":
            return
        self._seconds[job.trial is not None].append(time.monotonic() - began)
        if job.trial is not None:  # on a terminal the live table shows it; elsewhere its lines would bury the runs
            return
        self._done += 1
        summary = Run(job.folder).summary() or {}
        number = f"{self._done:>{len(str(self._total))}}/{self._total}"
        figure = f"top-1 {percent(summary['test']['top1']['value'])}"
        unread = f"  {summary['bad_images']:,} images unreadable" if summary.get("bad_images") else ""
        self.say(f"{number}  {job.title}  {figure}  {format_duration(summary['seconds'])}{unread}")

    def look(self, running: Sequence[Job]) -> None:
        """Draw the runs in progress."""
        now = time.monotonic()
        for job in running:
            self._began.setdefault(job.title, now)
        if not self.console.is_terminal:
            return
        table = Table.grid(padding=(0, 2))
        for job in running:
            epoch, figures = _last(job)
            bar = ProgressBar(total=job.config.recipe.epochs, completed=epoch, width=20)
            took = format_duration(now - self._began[job.title])
            table.add_row(Text(job.title), bar, f"epoch {epoch}/{job.config.recipe.epochs}", figures, took)
        left = self._left()
        whole = Table.grid(padding=(0, 2))
        whole.add_row("study", ProgressBar(total=self._total, completed=self._done, width=30), left)
        self._live.update(Group(table, whole), refresh=True)

    def round_seconds(self, runs: int) -> float | None:
        """Seconds until so many unfinished runs and their searches are done; None before a run has finished."""
        trials, counted = (median(its) if its else None for its in (self._seconds[True], self._seconds[False]))
        if counted is None:
            return None
        trial = trials or 0.0
        begun = max(0.0, len(self._seconds[True]) - self._trials * len(self._seconds[False])) * trial
        begun += sum(time.monotonic() - began for began in self._began.values())
        return max(0.0, (counted + self._trials * trial) * runs - begun) / self.slots

    def _left(self) -> str:
        left = self.round_seconds(self._total - self._done)
        about = "" if left is None else f", about {format_duration(left)} left"
        return f"{self._done}/{self._total} runs{about}"


def _last(job: Job) -> tuple[int, str]:
    """The last finished epoch of a run, and its figures."""
    try:
        row: dict[str, Any] = json.loads((job.folder / "metrics.jsonl").read_text().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return 0, ""
    top1 = max((row[key]["top1"] for key in ("weights", "average") if key in row), default=None)
    return row["epoch"], f"loss {row['loss']:.3f}" + (f"  top-1 {percent(top1)}" if top1 is not None else "")
