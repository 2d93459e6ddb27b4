"""What a person sees while a run trains: a bar on a terminal, a line for each epoch everywhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ffvit.terminal import percent

WHOLE = 1_000_000
"""Units of the bar."""


class TrainingDisplay:
    """Shows a run's progress, on the first process only.

    Args:
        console: Where.
        shown: Whether this process shows anything.
    """

    def __init__(self, console: Console, shown: bool) -> None:
        self.console = console
        self.shown = shown
        self._bar = Progress(
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=WHOLE, figures="")
        self._mark: tuple[float, int] | None = None

    def __enter__(self) -> TrainingDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, share: float) -> None:
        """The run begins, or is resumed, at this share of the whole."""
        self._bar.reset(self._task, completed=round(WHOLE * share))

    def step(self, epoch: str, share: float, images: int, loss: float, rate: float) -> None:
        """So far: the share of the run that is done, images seen, last loss, learning rate."""
        now = time.perf_counter()
        speed = ""
        if self._mark is not None and images > self._mark[1]:
            speed = f"{(images - self._mark[1]) / (now - self._mark[0]):,.0f} images/s  "
        self._mark = (now, images)
        figures = f"{speed}loss {loss:.3f}  rate {rate:.1e}"
        self._bar.update(self._task, description=epoch, completed=round(WHOLE * share), figures=figures)

    def scoring(self, what: str) -> None:
        """Images are being scored, which trains nothing."""
        self._bar.update(self._task, figures=f"scoring the {what}")
        self._mark = None

    def say(self, words: Any) -> None:
        """Something a person should know, above the bar."""
        if self.shown:
            text = Text(words) if isinstance(words, str) else words  # a string would be parsed as markup
            self.console.print(text, highlight=False, soft_wrap=isinstance(words, str))

    def epoch(self, row: dict[str, Any], epochs: int | None, bad_images: int = 0) -> None:
        """An epoch is done: its row of metrics as a line, and how many images could not be read so far."""
        parts = [
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}" if epochs else f"epoch {row['epoch']:>3}",
            f"loss {row['loss']:.3f}",
            *(
                f"{label} top-1 {percent(row[key]['top1']):>7}"
                for key, label in (("weights", "weights"), ("average", "average"))
                if key in row
            ),
            f"{row['images_per_second']:,.0f} images/s",
            *([f"{bad_images:,} unreadable"] if bad_images else []),
        ]
        self.say("  ".join(parts))


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    seconds = round(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // small} {smaller}"
    return f"{seconds} s"
