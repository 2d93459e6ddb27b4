from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

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
from ffvit.study.report.terminal import summary_table
from ffvit.study.report.write import write_report
from ffvit.study.statistics import Interval, difference

EVIL = '<script>alert("1")</script> a|b\n$x^2$ `é`'
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def curve(top: float) -> tuple[Epoch, ...]:
    return tuple(Epoch(epoch, 100 * epoch, 2 / epoch, top * (1 - 1 / (epoch + 1))) for epoch in range(1, 8))


def arm(name: str, top1: float, role: str = "arm", seeds: int = 3, **fields) -> ArmFinding:
    runs = tuple(RunFinding(seed, None, top1, 0.2, 359, 12.5, 660.0, curve(top1)) for seed in range(seeds))
    made = ArmFinding(
        name=name,
        role=role,
        network="width 64, depth 3",
        parameters=int(108_000 * (1 + top1)),
        flops=4_000_000,
        epochs=25,
        tuned={"learning_rate": 0.006},
        top1=Interval(top1, top1 - 0.02, min(1.0, top1 + 0.02), 0.95),
        runs=runs,
        planned=seeds,
        cost=Cost(0.0031, 0.004, 7800.0, 64),
        published=None,
        differs=("position: map against vectors",),
    )
    return replace(made, **fields)


def comparison(one: str, other: str, outcome: str = "open", seeds: int = 3) -> Comparison:
    draw = np.random.default_rng(0)
    its = difference(draw.random((seeds, 359)) < 0.97, draw.random((seeds, 359)) < 0.95)
    per_run = tuple(((seed, None), 0.01 * seed) for seed in range(seeds))
    return Comparison(one, other, its, per_run, outcome, f"{one} or {other}?", f"Words on {one}.", 4)


def thumbnail(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(file, "PNG")
    return file.getvalue()


def findings(folder: Path, *names: str, **fields) -> Findings:
    names = names or ("feed-forward", "attention", "attention only")
    arms = tuple(arm(name, 0.97 - 0.01 * number) for number, name in enumerate(names))
    image = DisputedImage(names[0], names[0], "7", thumbnail())
    classes = tuple((f"{names[0]} {number}", 36, 0.9 + 0.001 * number, 0.8) for number in range(10))
    made = Findings(
        title=names[0],
        folder=folder,
        arms=(*arms, arm("no mixing", 0.83, "floor"), arm("random mixing", 0.9, "floor")),
        comparisons=tuple(comparison(name, names[0]) for name in names[1:]),
        disagreements=(Disagreement(names[1], names[0], classes, (image,), (image, image), (1, 5)),)
        if names[1:]
        else (),
        margin=0.01,
        images=f"359 images from {names[0]}",
        test_images=359,
        held=("Epochs: 25 for every arm.",),
        statistics=("Intervals account for both.",),
        missing=(),
        measured_on="AVX2, 2 cores",
        repeat=(("again", "ffvit compare"), ("commit", "abc")),
        plan=f"title: {names[0]}\n```\nseeds: 3\n",
    )
    return replace(made, **fields)


class Check(HTMLParser):
    """Collects what a page loads, and which elements it leaves open."""

    VOID = ("meta", "img", "br", "link", "path", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.headings: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))


def test_page_loads_nothing_and_says_the_verdict_first(tmp_path: Path):
    page = write_report(findings(tmp_path)).read_text()
    check = Check(page)
    assert all(each.startswith(("data:image/png;base64,", "#")) for each in check.loads)
    assert "script" not in check.tags
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert page.index("attention or feed-forward?") < page.index("<table>")
    assert check.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(check.headings, check.headings[1:], strict=False))
    assert 'lang="en"' in page


def test_every_number_has_its_unit(tmp_path: Path):
    page = write_report(findings(tmp_path)).read_text()
    for words in ("97.0 % (95.0 to 99.0)", "3.1 ms", "7,800 images/s", "12 s", "660 MiB", "4 MFLOPs", "213 k"):
        assert words in page, words


def test_what_came_from_outside_is_escaped_everywhere(tmp_path: Path):
    made = findings(tmp_path, EVIL, EVIL + " 2", missing=(EVIL,))
    page = write_report(made).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    markdown = (tmp_path / "report.md").read_text()
    assert "<script" not in markdown[: markdown.index("```yaml")]  # within the fence it is text as it stands
    for svg in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text()
    before_plan = markdown[: markdown.index("```yaml")]
    tables = [line for line in before_plan.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables[:7]}
    assert len(cells) == 1
    assert markdown.count("```") == 2


def test_figures_are_there_as_svg_and_png(tmp_path: Path):
    write_report(findings(tmp_path))
    names = {"verdict", "differences", "runs", "costs", "curves", "classes"}
    assert {file.stem for file in (tmp_path / "figures").glob("*.svg")} == names
    for name in names:
        with Image.open(tmp_path / "figures" / f"{name}.png") as picture:
            assert picture.width > 600
        assert f"figures/{name}.png" in (tmp_path / "report.md").read_text()


def test_the_same_findings_make_the_same_bytes(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_report(findings(tmp_path / folder))
    for file in (tmp_path / "one").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes(), file


@pytest.mark.parametrize(
    "change",
    [
        lambda its: replace(its, comparisons=(), disagreements=()),
        lambda its: replace(its, arms=its.arms[:1], comparisons=(), disagreements=()),
        lambda its: replace(its, arms=tuple(replace(each, top1=None, runs=(), cost=None) for each in its.arms), comparisons=(), disagreements=()),
        lambda its: replace(its, arms=tuple(replace(each, cost=None) for each in its.arms)),
        lambda its: replace(its, arms=tuple(replace(each, published=(0.614, "paper")) for each in its.arms)),
        lambda its: replace(its, arms=tuple(replace(each, runs=each.runs[:1], planned=3) for each in its.arms), comparisons=(comparison("feed-forward", "attention", seeds=1),)),
        lambda its: replace(its, missing=tuple(f"run {number}: failed" for number in range(40))),
        lambda its: replace(its, arms=tuple(arm(f"arm {number} of a very long name indeed", 0.5) for number in range(30)), comparisons=(), disagreements=()),
        lambda its: replace(its, arms=tuple(replace(each, runs=tuple(replace(run, curve=tuple(replace(epoch, top1=None) for epoch in run.curve), peak_memory=None) for run in each.runs)) for each in its.arms)),
        lambda its: replace(its, disagreements=(replace(its.disagreements[0], classes=tuple((str(n), 3, 0.1, 0.2) for n in range(300)), only_arm=()),)),
    ],
    ids=["nothing compared", "one arm", "nothing finished", "no costs", "published", "one seed", "much missing", "many arms", "no selection", "many classes"],
)  # fmt: skip
def test_what_is_there_is_reported_whatever_is_not(tmp_path: Path, change):
    made = change(findings(tmp_path))
    page = write_report(made).read_text()
    assert made.arms[0].name in page
    assert ("published top-1" in page) == any(each.published for each in made.arms)
    if made.missing:
        assert "And 28 more" in page
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(summary_table(made))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80


def test_terminal_shows_verdict_and_table(tmp_path: Path):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(summary_table(findings(tmp_path)))
    text = console.file.getvalue()
    assert text.index("attention or feed-forward?") < text.index("top-1")
    assert "no mixing (floor)" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_runs_over_the_side(tmp_path: Path, width: int):
    write_report(findings(tmp_path, "a" * 80, "feed-forward " * 9, "attention"))
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"""<iframe id=f src=report.html style="width:{width}px;height:2000px;border:0"></iframe><pre id=o></pre><script>
        f.onload = () => {{ const d = f.contentDocument.documentElement, h = f.contentDocument.querySelector('.headline').getBoundingClientRect();
        o.textContent = `over ${{d.scrollWidth - d.clientWidth}} headline ${{h.top}} to ${{h.bottom}} end`; }}</script>"""
    )
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile",
         "--virtual-time-budget=4000", "--window-size=1400,2200", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    ).stdout  # fmt: skip
    found = re.search(r"over (-?\d+) headline (-?[\d.]+) to ([\d.]+) end", shown)
    assert found, shown[-500:]
    assert int(found[1]) <= 0
    assert 0 < float(found[2]) < float(found[3]) < 900
