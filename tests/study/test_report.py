from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ffvit.study.findings import DisputedImage, Findings
from ffvit.study.report.page import page
from ffvit.study.report.terminal import summary_table
from ffvit.study.report.write import write_report
from study_examples import ARMS, png, study

EVIL = '<script>alert("1")</script> a|b\n$x^2$ `é`'
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def findings(folder: Path, *names: str, **fields) -> Findings:
    """The example, or as many of its arms as there are names for, called by them."""
    made = study(folder)
    if names:
        kept = [name for name, role, *_ in ARMS if role == "arm"][: len(names)]
        new = dict(zip(kept, names, strict=True)) | {name: name for name, role, *_ in ARMS if role == "control"}
        made = replace(
            made,
            title=names[0],
            arms=tuple(replace(each, name=new[each.name]) for each in made.arms if each.name in new),
            comparisons=_renamed(made.comparisons, new),
            disagreements=tuple(
                replace(each, classes=tuple((f"{names[0]} {name}", *rest) for name, *rest in each.classes),
                        only_against=(DisputedImage(names[0], names[0], names[-1], png(np.zeros((8, 8)))),))
                for each in _renamed(made.disagreements, new)
            ),
            images=f"359 images from {names[0]}",
            plan=f"title: {names[0]}\n```\nseeds: 3\n",
        )  # fmt: skip
    return replace(made, **fields)


def _renamed(pairs: tuple, new: dict[str, str]) -> tuple:
    return tuple(
        replace(each, arm=new[each.arm], against=new[each.against])
        for each in pairs
        if each.arm in new and each.against in new
    )


class Check(HTMLParser):
    """Collects what a page loads, what it is made of, and which names it gives twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.unscoped = self.unnamed = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        has = dict(attributes)
        self.tags.append(tag)
        self.loads += [has[name] for name in ("src", "href", "xlink:href") if has.get(name)]
        self.ids += [has["id"]] if "id" in has else []
        self.unscoped += tag == "th" and "scope" not in has
        self.unnamed += (tag == "img" and not has.get("alt")) or (
            tag == "svg" and not has.get("aria-label") and has.get("aria-hidden") != "true"
        )
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The folder of the example's report."""
    return write_report(findings(tmp_path_factory.mktemp("report"))).parent


@pytest.fixture(scope="module")
def evil(tmp_path_factory) -> Path:
    """The folder of a report on names that would break one."""
    made = findings(tmp_path_factory.mktemp("evil"), EVIL, EVIL + " 2", EVIL + " 3", missing=(EVIL,))
    return write_report(made).parent


def test_page_loads_nothing_and_says_the_verdict_first(written: Path):
    made = findings(written)
    text = (written / "report.html").read_text()
    check = Check(text)
    assert all(each.startswith(("data:image/png;base64,", "#")) for each in check.loads)
    assert "script" not in check.tags
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert text.index(made.comparisons[0].headline) < text.index("<figure>") < text.index("<table>")


def test_page_is_told_aloud_too(written: Path):
    text = (written / "report.html").read_text()
    check = Check(text)
    assert 'lang="en"' in text
    assert check.headings[0] == 1
    assert check.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(check.headings))
    assert not check.unscoped
    assert not check.unnamed
    assert len(check.ids) == len(set(check.ids))
    assert {each[1:] for each in check.loads if each.startswith("#")} <= set(check.ids)


def test_every_number_has_its_unit(written: Path):
    text = (written / "report.html").read_text()
    for words in ("96.8 % (", "2.1 ms", "7,619 images/s", "20 s", "640 MiB", "4.9 MFLOPs", "118 k", "98.75 %"):
        assert words in text, words


def test_controls_stand_apart_and_external_networks_are_marked(tmp_path: Path):
    made = findings(tmp_path)
    arms = tuple(replace(each, role="external") if each.name == "attention only" else each for each in made.arms)
    text = page(replace(made, arms=arms), {})
    table = text[text.index("<table>") : text.index("</table>")]
    assert (
        table.index("attention only") < table.index("(external)") < table.index("Controls") < table.index("no mixing")
    )


def test_what_came_from_outside_is_escaped_everywhere(evil: Path):
    text = (evil / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    markdown = (evil / "report.md").read_text()
    assert findings(evil, EVIL).plan.strip() in markdown  # within a fence that is longer than any in it
    before_plan = markdown[: markdown.index("````yaml")]
    assert "<script" not in before_plan
    assert "$x" not in before_plan.replace(r"\$", "")
    for svg in (evil / "figures").glob("*.svg"):
        ElementTree.parse(svg)
        assert "<script" not in svg.read_text()


def test_rows_of_a_markdown_table_have_the_same_cells(evil: Path):
    tables = re.findall(r"(?:^\|.*\n)+", (evil / "report.md").read_text(), re.MULTILINE)
    assert len(tables) > 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_figures_are_there_as_svg_and_png(written: Path):
    names = {"verdict", "differences", "runs", "costs", "curves", "classes"}
    assert {file.stem for file in (written / "figures").glob("*.svg")} == names
    for name in names:
        with Image.open(written / "figures" / f"{name}.png") as picture:
            assert picture.width > 600
        assert f"figures/{name}.png" in (written / "report.md").read_text()


def test_the_same_findings_make_the_same_bytes(written: Path, tmp_path: Path):
    write_report(findings(tmp_path))
    files = [file for file in written.rglob("*.*") if file.is_file()]
    assert len(files) == 14
    for file in files:
        assert file.read_bytes() == (tmp_path / file.relative_to(written)).read_bytes(), file


def test_small_pictures_are_shown_pixel_by_pixel(tmp_path: Path):
    made = findings(tmp_path)
    pictures = tuple(
        DisputedImage(str(number), "1", "7", each)
        for number, each in enumerate((png(np.zeros((63, 63))), png(np.zeros((64, 64))), b""))
    )
    only = replace(made.disagreements[0], only_arm=pictures, only_against=())
    text = page(replace(made, disagreements=(only,)), {})
    assert text.count('class="small"') == 1
    assert text.count("<img") == 2
    assert '<span class="none">2</span>' in text


def test_all_that_is_missing_is_said(tmp_path: Path):
    text = page(findings(tmp_path, missing=tuple(f"run {number}: failed" for number in range(40))), {})
    assert text.index("And 34 more") < text.index("<h2>")
    assert "run 39: failed" in text
    assert 'id="missing"' in text


def _nothing_finished(its: Findings) -> Findings:
    arms = tuple(replace(each, top1=None, runs=(), cost=None) for each in its.arms)
    return replace(its, arms=arms, comparisons=(), disagreements=())


def _one_seed(its: Findings) -> Findings:
    one = study(its.folder, seeds=1)
    return replace(one, arms=tuple(replace(each, planned=3) for each in one.arms))


def _folds(its: Findings) -> Findings:
    keys = [(seed, fold) for seed in range(2) for fold in range(5)]
    arms = tuple(
        replace(each, runs=tuple(replace(each.runs[0], seed=seed, fold=fold) for seed, fold in keys))
        for each in its.arms
    )
    asked = tuple(
        replace(each, per_run=tuple((key, 0.01 * key[1]) for key in keys), more_seeds=None) for each in its.comparisons
    )
    return replace(its, arms=arms, comparisons=asked)


def _curves(its: Findings, change: Callable) -> Findings:
    return replace(
        its,
        arms=tuple(
            replace(each, runs=tuple(replace(run, curve=change(run.curve), peak_memory=None) for run in each.runs))
            for each in its.arms
        ),
    )


def _many(its: Findings) -> Findings:
    arms = tuple(replace(its.arms[0], name=f"arm {number} of a very long name indeed") for number in range(30))
    asked = tuple(replace(its.comparisons[0], arm=each.name, against=arms[0].name) for each in arms[1:])
    return replace(its, arms=arms, comparisons=asked, disagreements=())


def _one_cost(its: Findings) -> Findings:
    return replace(its, arms=(its.arms[0], *(replace(each, cost=None) for each in its.arms[1:])))


@pytest.mark.parametrize(
    "change",
    [
        lambda its: replace(its, comparisons=(), disagreements=()),
        lambda its: replace(its, arms=its.arms[:1], comparisons=(), disagreements=()),
        _nothing_finished,
        lambda its: replace(its, arms=(*its.arms[:4], replace(its.arms[4], top1=None, runs=(), cost=None)), comparisons=its.comparisons[:1]),
        lambda its: _curves(_one_cost(its), lambda curve: tuple(replace(epoch, top1=None) for epoch in curve)),
        lambda its: _curves(replace(its, arms=tuple(replace(each, published=(0.614, "a paper"), cost=None) for each in its.arms)), lambda curve: curve[:1]),
        _one_seed,
        lambda its: _curves(_folds(its), lambda curve: ()),
        _many,
        lambda its: replace(its, margin=0.0, disagreements=(replace(its.disagreements[0], classes=tuple((str(n), 3, 0.1, 0.2) for n in range(300)), only_arm=()),)),
        lambda its: findings(its.folder, "網絡 🙂", "مرحبا", "caf\udce9\x07"),
    ],
    ids=["nothing compared", "one arm", "nothing finished", "an arm unfinished", "one cost, no selection", "published, one epoch, no cost",
         "one seed", "folds, no curves", "many arms", "no margin, many classes", "all letters"],
)  # fmt: skip
def test_what_is_there_is_reported_whatever_is_not(tmp_path: Path, change):
    made = change(findings(tmp_path))
    text = write_report(made).read_text()
    assert made.arms[0].name in text
    assert ("published top-1" in text) == any(each.published for each in made.arms)
    assert ("No verdict yet" in text) == (not made.comparisons)
    for svg in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(svg)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(summary_table(made))
    assert max(map(len, console.file.getvalue().splitlines())) <= 80


def test_terminal_shows_verdict_and_table(tmp_path: Path):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    made = findings(tmp_path)
    console.print(summary_table(made))
    text = console.file.getvalue()
    assert text.index(made.comparisons[0].headline) < text.index("top-1")
    assert "no mixing (control)" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
def test_in_a_browser_nothing_runs_over_the_side(tmp_path: Path):
    write_report(findings(tmp_path, "a" * 80, "feed-forward " * 9, "attention"))
    probe, widths = tmp_path / "probe.html", (360, 390, 1280)
    frames = "".join(f'<iframe src="report.html" style="width:{width}px;height:2000px"></iframe>' for width in widths)
    probe.write_text(
        f"""<style>iframe {{ border: 0; display: block }}</style>{frames}<pre id=o></pre><script>
        onload = () => {{ for (const f of document.querySelectorAll('iframe')) {{
        const d = f.contentDocument.documentElement, h = f.contentDocument.querySelector('.headline').getBoundingClientRect();
        o.textContent += `over ${{d.scrollWidth - d.clientWidth}} headline ${{h.top}} to ${{h.bottom}} end\n`; }} }}</script>"""
    )
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile",
         "--virtual-time-budget=4000", "--window-size=1400,6200", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    ).stdout  # fmt: skip
    found = re.findall(r"over (-?\d+) headline (-?[\d.]+) to ([\d.]+) end", shown)
    assert len(found) == len(widths), shown[-500:]
    for over, top, bottom in found:
        assert int(over) <= 0
        assert 0 < float(top) < float(bottom) < 900
