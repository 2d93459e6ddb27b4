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

from ffvit.run_folder import Run
from ffvit.study.jobs import Job
from ffvit.study.run_job import Outcome
from ffvit.terminal import percent
from ffvit.training.progress import format_duration


class LiveDisplay:
    """Shows a study's progress, with `slots` runs at once."""

    def __init__(self, console: Console, slots: int) -> None:
        self.console, self.slots = console, slots
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._started: dict[str, float] = {}
        self._trial_seconds: list[float] = []
        self._run_seconds: list[float] = []
        self._done = self._total = self._trials = 0

    def __enter__(self) -> LiveDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, runs: Sequence[Job], trials: int) -> None:
        """Show the next part of the study: its runs, some of which may be done already, and about `trials` before each."""
        self._total, self._trials = len(runs), trials
        self._done = sum(job.finished() for job in runs)
        before = f", {self._done} of them done before" if self._done else ""
        search = f", each after a search of about {trials:.0f} trials" if trials and self._done < len(runs) else ""
        self.say(f"training: {len(runs)} runs{before}{search}, {self.slots} at once")

    def say(self, message: str) -> None:
        """Print a message."""
        self.console.print(Text(message), highlight=False, soft_wrap=True)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Print a line for a run that has ended."""
        seconds = time.monotonic() - self._started.pop(job.title, time.monotonic())
        if outcome.status != "done":
            return
        if job.trial is not None:  # on a terminal the live table shows it; elsewhere its lines would bury the runs
            self._trial_seconds.append(seconds)
            return
        self._run_seconds.append(seconds)
        self._done += 1
        summary = Run(job.folder).summary() or {}
        number = f"{self._done:>{len(str(self._total))}}/{self._total}"
        top1 = f"top-1 {percent(summary['test']['top1']['value'])}"
        unread = f"  {summary['bad_images']:,} images unreadable" if summary.get("bad_images") else ""
        self.say(f"{number}  {job.title}  {top1}  {format_duration(summary['seconds'])}{unread}")

    def update(self, running: Sequence[Job]) -> None:
        """Draw the runs in progress; the time of a new one counts from here."""
        now = time.monotonic()
        for job in running:
            self._started.setdefault(job.title, now)
        if not self.console.is_terminal:
            return
        table = Table.grid(padding=(0, 2))
        for job in running:
            epoch, metrics = _last_epoch(job)
            epochs, elapsed = job.config.recipe.epochs, format_duration(now - self._started[job.title])
            bar = ProgressBar(total=epochs, completed=epoch, width=20)
            table.add_row(Text(job.title), bar, f"epoch {epoch}/{epochs}", metrics, elapsed)
        left = self.round_seconds(self._total - self._done)
        about = "" if left is None else f", about {format_duration(left)} left"
        study = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._total, completed=self._done, width=30)
        study.add_row("study", bar, f"{self._done}/{self._total} runs{about}")
        self._live.update(Group(table, study), refresh=True)

    def round_seconds(self, runs: int) -> float | None:
        """Seconds until `runs` unfinished runs and their searches are done; None before a run has finished."""
        if not self._run_seconds:
            return None
        run, trial = median(self._run_seconds), median(self._trial_seconds or [0.0])
        ahead = max(0.0, len(self._trial_seconds) - self._trials * len(self._run_seconds)) * trial
        ahead += sum(time.monotonic() - started for started in self._started.values())
        return max(0.0, (run + self._trials * trial) * runs - ahead) / self.slots


def _last_epoch(job: Job) -> tuple[int, str]:
    """The last finished epoch of a run, and its metrics."""
    try:
        row: dict[str, Any] = json.loads((job.folder / "metrics.jsonl").read_text().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return 0, ""
    top1 = max((row[key]["top1"] for key in ("weights", "average") if key in row), default=None)
    return row["epoch"], f"loss {row['loss']:.3f}" + (f"  top-1 {percent(top1)}" if top1 is not None else "")
