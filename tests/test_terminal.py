"""The progress bar and the table that all commands share."""

from __future__ import annotations

import io
import re

import pytest

from ffvit.terminal import Terminal, build_table, progress, track


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(width: int = 80) -> tuple[Terminal, Screen]:
    page = Screen()
    console = Terminal(file=page, width=width)
    console._force_terminal = True
    return console, page


def shown(table, width: int) -> list[str]:
    page = io.StringIO()
    Terminal(file=page, width=width).print(table, highlight=False)
    return page.getvalue().splitlines()


def test_a_table_keeps_its_numbers_whole_and_folds_words():
    rows = [("runs/a-folder-with-a-long-name", "1,234,567.8 (1,000,000.0-2,000,000.0)", "[12]")]
    lines = shown(build_table(("network", "images/s", "% of\nmatmul"), rows), width=60)
    assert max(map(len, lines)) <= 60
    text = "\n".join(lines)
    assert "1,234,567.8 (1,000,000.0-2,000,000.0)" in text
    assert "[12]" in text  # not read as markup
    assert "".join(line.partition(" ")[0] for line in lines[2:]) == "runs/a-folder-with-a-long-name"


def test_numbers_stand_on_the_right_and_words_on_the_left():
    lines = shown(build_table(("name", "n", "why"), [("a", "1", "x"), ("long", "100", "y")], words=(0, 2)), width=80)
    assert [line.rstrip() for line in lines] == ["name    n  why", "a       1  x", "long  100  y"]


def test_a_table_in_markdown():
    lines = shown(build_table(("name", "n\nof m"), [("a", "1")], markdown=True), width=80)
    assert [line for line in lines if line.strip()] == ["| name | n of m |", "|------|--------|", "| a    |      1 |"]


@pytest.mark.parametrize("items", [[1, 2, 3], (number for number in (1, 2, 3))])
def test_items_are_counted_on_a_bar_that_goes_away(items):
    console, page = screen()
    seen = []
    for item in track(items, "looking [at] images", console, unit="images", after_seconds=0.0):
        seen.append(item)
        assert "looking [at] images" in page.getvalue()
    assert seen == [1, 2, 3]
    assert not console._live_stack


def test_a_bar_shows_nothing_before_its_time_or_without_a_terminal():
    console, page = screen()
    assert list(track([1, 2, 3], "looking", console, after_seconds=1000.0)) == [1, 2, 3]
    assert page.getvalue() == ""
    pipe = io.StringIO()
    assert list(track([1, 2, 3], "looking", Terminal(file=pipe), after_seconds=0.0)) == [1, 2, 3]
    assert pipe.getvalue() == ""


def test_a_bar_is_removed_where_the_work_fails():
    console, _ = screen()

    def unreadable():
        yield 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(track(unreadable(), "looking", console, after_seconds=0.0))
    assert not console._live_stack


@pytest.mark.parametrize("width", [40, 80])
def test_a_bar_fits_its_line(width):
    console, page = screen(width)
    with progress(console, "images") as bar:
        task = bar.add_task(
            "a description of what is being done that is longer than a line of a terminal has room", total=9
        )
        bar.update(task, advance=5)
        bar.refresh()
    lines = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", page.getvalue()).replace("\r", "\n").splitlines()
    assert any("5/9" in line for line in lines)
    assert max(map(len, lines)) <= width
