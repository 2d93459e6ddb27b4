"""What ffvit prints: safe for any terminal, quiet where there is none, and kept in a log file if one is asked for.

Every progress bar and every table of the command line is made here, by `progress`, `track` and `build_table`.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import length_hint
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from ffvit.errors import OutputError

Item = TypeVar("Item")

LOG = logging.getLogger("ffvit")
_SHOW_WARNING = warnings.showwarning
"""All that is printed, where `log_to` was called."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = str.maketrans({"█": "#", "…": "...", "←": "<-", "→": "->", "±": "+-", "\u00d7": "x", "“": '"', "”": '"'})
_LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def printable(text: str) -> str:
    r"""Text without what would steer a terminal: control characters and bytes that are no text become `\x1b`, `\xff`."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Terminal(Console):
    """A console for text that may hold anything.

    Control characters in the text are escaped, characters that the encoding lacks are replaced, and where the output is
    no terminal there is neither animation nor any control sequence (but colours, if FORCE_COLOR asks for them).

    Args:
        file: Where to, as for `print`; default: stdout.
        stderr: To stderr instead.
        width: Columns; default: the terminal's.
    """

    def __init__(self, file: Any = None, stderr: bool = False, width: int | None = None) -> None:
        stream: Any = file or (sys.stderr if stderr else sys.stdout)
        options: dict[str, Any] = {}
        if not stream.isatty():
            options = {"force_terminal": False, "force_interactive": False}
            if os.environ.get("FORCE_COLOR"):
                options["color_system"] = "standard"
        super().__init__(file=file, stderr=stderr, width=width, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments, without what would steer the terminal or fail in its encoding."""
        # Escapes are longer than what they stand for, so they are made before the text is cut to the width.
        if isinstance(renderable, Text) and printable(renderable.plain) != renderable.plain:
            renderable = Text(
                printable(renderable.plain),
                renderable.style,
                justify=renderable.justify,
                overflow=renderable.overflow,
                no_wrap=renderable.no_wrap,
            )
        for segment in super().render(renderable, options):
            if segment.control is None:
                text = printable(segment.text)
                if not self.encoding.startswith("utf"):
                    text = _encodable(text, self.encoding)
                if text != segment.text:
                    segment = Segment(text, segment.style)
            yield segment

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, and log the same."""
        super().print(*objects, **options)
        if LOG.handlers:
            text = Terminal(file=io.StringIO(), width=120)
            super(Terminal, text).print(*objects, **options)
            log(text.file.getvalue())  # type: ignore[attr-defined]

    def say(self, text: str, **options: Any) -> None:
        """Print text as it is, without markup, highlighting or wrapping."""
        self.print(text, markup=False, highlight=False, soft_wrap=True, **options)


def _encodable(text: str, encoding: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        pass
    return text


class _Speed(ProgressColumn):
    """Items a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self.unit}/s" if speed else "")


def progress(console: Console, unit: str = "", auto_refresh: bool = True) -> Progress:
    """A progress bar as wide as the terminal: what is done, how many of how many, the speed, the time left.

    Args:
        console: Where to show it. Nothing is shown where that is no terminal.
        unit: What is counted, to show how many a second; empty: not shown.
        auto_refresh: Redraw in a thread. False for code that forks processes: it calls `refresh` instead.
    """
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=2, no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        *([_Speed(unit)] if unit else []),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        expand=True,
        auto_refresh=auto_refresh,
    )


def track(
    items: Iterable[Item],
    description: str,
    console: Console | None = None,
    *,
    total: int | None = None,
    unit: str = "",
    after_seconds: float = 2.0,
) -> Iterator[Item]:
    """The items, counted on a progress bar that is removed at the end.

    Args:
        items: Any; without a length, and without `total`, they are only counted.
        description: What is being done.
        console: Where to show the bar; default: stderr.
        total: How many there are.
        unit: As in `progress`.
        after_seconds: Show nothing until the items have taken so long.
    """
    bar = progress(console or Terminal(stderr=True), unit)
    task = bar.add_task(description, total=total or length_hint(items) or None)
    started = time.monotonic()
    try:
        for item in items:
            if not bar.live.is_started and time.monotonic() - started >= after_seconds:
                bar.start()
            yield item
            bar.advance(task)
    finally:
        if bar.live.is_started:
            bar.stop()


def build_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]] = (),
    *,
    words: Collection[int] = (0,),
    gap: int = 2,
    markdown: bool = False,
) -> Table:
    """A table without lines. Numbers stay whole: where the terminal is too narrow, columns of words are folded.

    Args:
        headings: Of the columns; the line breaks in them are spaces in Markdown.
        rows: Their cells; brackets in a string are printed as they are, not read as markup.
        words: Which columns hold words, which stand on the left; all others hold numbers, on the right.
        gap: Spaces between columns.
        markdown: Draw it in Markdown.
    """
    style: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, gap, 0, 0), "header_style": "bold"}
    table = Table(**({"box": box.MARKDOWN} if markdown else style))
    for number, heading in enumerate(headings):
        if markdown:
            heading = heading.replace("\n", " ")
        if number in words:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def log_to(path: Path) -> None:
    """Keep all that is printed in a file too, each line with its time and the process's rank; a file is appended to.

    Raises:
        OutputError: It cannot be written, or is not such a log.
    """
    try:
        if path.exists():
            with path.open("rb") as file:
                start = file.read(19)
            if start and not _LOG_LINE.match(start):
                raise OutputError(f"{path}: exists and is no log of ffvit; give another --log-file")
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); give another --log-file") from None
    handler.setFormatter(_WithRank("%(asctime)s rank %(rank)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    warnings.showwarning = _show_and_log


def close_log() -> None:
    """Log no more, and leave logging and warnings as they were."""
    for handler in LOG.handlers[:]:
        LOG.removeHandler(handler)
        handler.close()
    LOG.setLevel(logging.NOTSET)
    LOG.propagate = True
    warnings.showwarning = _SHOW_WARNING


def _show_and_log(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    _SHOW_WARNING(message, category, *where, **more)
    log(f"{category.__name__}: {message}", logging.WARNING)


def log(text: str, level: int = logging.INFO) -> None:
    """Log text line by line; nothing where no log was asked for."""
    for line in text.rstrip().splitlines():
        LOG.log(level, "%s", printable(line.rstrip()))


def log_exception(error: BaseException) -> None:
    """Log the traceback of an error."""
    log("".join(traceback.format_exception(error)), logging.ERROR)


class _WithRank(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.rank = rank()
        return super().format(record)


def rank() -> int:
    """The number of this process among those of its run, as the launcher says."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), 0)


def percent(share: float) -> str:
    """A share as people write it: 97.2 %."""
    return f"{100 * share:.1f} %"


def digits(value: float) -> str:
    """Three significant digits, down to thousandths."""
    if value <= 0:
        return "0"
    decimals = 2 - math.floor(math.log10(value))
    return f"{value:,.{min(3, max(0, decimals))}f}"
