from __future__ import annotations

import io
import re
import shlex
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
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from ffvit.study.findings import DisagreementImage, Findings
from ffvit.study.report.content import content
from ffvit.study.report.drawing import bar
from ffvit.study.report.figures import figures_of
from ffvit.study.report.markdown import markdown
from ffvit.study.report.page import page
from ffvit.study.report.terminal import summary_table
from ffvit.study.report.write import write_report
from ffvit.study.statistics import Interval
from study_examples import (
    ARMS,
    VARIANTS,
    at_the_edge,
    diverged,
    exploratory,
    one_repetition,
    png,
    study,
    two_repetitions,
    withheld,
)

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
                        only_reference=(DisagreementImage(names[0], names[0], names[-1], png(np.zeros((8, 8)))),))
                for each in _renamed(made.disagreements, new)
            ),
            images=f"359 images from {names[0]}",
            plan=f"title: {names[0]}\n```\nseeds: 3\n",
        )  # fmt: skip
    return replace(made, **fields)


def _renamed(pairs: tuple, new: dict[str, str]) -> tuple:
    return tuple(
        replace(each, arm=new[each.arm], reference=new[each.reference])
        for each in pairs
        if each.arm in new and each.reference in new
    )


def html(made: Findings) -> str:
    """The page without its figures, which take long to draw."""
    return page(made.title, content(made, {}))


def both(made: Findings) -> tuple[str, str]:
    """What the page and the Markdown say, without figures."""
    blocks = list(content(made, {}))
    return page(made.title, blocks), markdown(blocks)


def terminal(made: Findings, width: int = 80) -> str:
    """What the terminal shows."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(summary_table(made), crop=False)
    return console.file.getvalue()


class Check(HTMLParser):
    """Collects what a page loads, what it is made of, and which names it gives twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.unscoped = self.unnamed = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        has = dict(attributes)
        self.tags.append(tag)
        self.loads += [has[name] for name in ("src", "href", "xlink:href") if has.get(name) and tag != "a"]
        self.links += [has["href"]] if tag == "a" else []
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


def test_page_loads_nothing_and_starts_with_the_verdict(written: Path):
    made = findings(written)
    text = (written / "report.html").read_text()
    check = Check(text)
    assert all(each.startswith(("data:image/png;base64,", "#")) for each in check.loads)
    assert check.links == ["https://arxiv.org/abs/2105.02723"]
    assert "script" not in check.tags
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert text.index(made.comparisons[0].headline) < text.index("<figure>") < text.index("<table>")


def test_page_is_accessible_to_screen_readers(written: Path):
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
    for words in ("96.8 % (", "2.1 ms", "7,619 images/s", "20 s", "640 MiB", "4.9 MFLOPs", "118 k", "98.33 %"):
        assert words in text, words


def test_roles_are_shown_and_controls_are_styled(tmp_path: Path):
    made = findings(tmp_path)
    arms = tuple(replace(each, role="external") if each.name == "attention only" else each for each in made.arms)
    text, in_markdown = both(replace(made, arms=arms))
    assert '<tr class="control"><th scope="row">no mixing (control)</th>' in text
    assert '<tr><th scope="row">attention only (external)</th>' in text
    assert "| attention only (external) |" in in_markdown


def test_page_and_markdown_say_the_same(tmp_path: Path):
    made = diverged(exploratory(findings(tmp_path)))
    for text in both(made):
        for sentence in (*made.exploratory, *made.warnings, *made.outlook, *made.held, *made.statistics, *made.missing):
            assert sentence in unescaped(text), sentence
        for each in made.comparisons:
            assert each.headline in unescaped(text)
            assert each.words in unescaped(text)


def unescaped(text: str) -> str:
    """The page or the Markdown as one reads it."""
    return re.sub(r"\\([|*_\[\]`#~$\\])", r"\1", text).replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_changes_and_warnings_come_before_the_verdict(tmp_path: Path):
    made = exploratory(at_the_edge(findings(tmp_path)))
    for text in (*both(made), terminal(made, 300)):
        order = [
            text.index(words)
            for words in ("Exploratory: ", made.exploratory[1][:40], made.warnings[0], made.comparisons[0].headline)
        ]
        assert order == sorted(order)
    for text in (*both(findings(tmp_path)), terminal(findings(tmp_path))):
        assert "Exploratory" not in text


def test_direction_and_size_are_two_statements(tmp_path: Path):
    made = findings(tmp_path)
    worse = next(each for each in made.comparisons if (each.direction, each.size) == ("worse", "not shown"))
    text, in_markdown = both(made)
    row = in_markdown[in_markdown.index(f"| {worse.arm} | attention | {100 * worse.difference.value:.1f}") :]
    assert row[: row.index("\n")].endswith("| worse | not shown |")
    assert '<td class="left">worse</td><td class="left">not shown</td>' in text
    assert "feed-forward (main)" in text
    assert re.search(r"worse +not shown", terminal(made))


def test_withheld_conclusion_shows_no_verdict(tmp_path: Path):
    made = withheld(findings(tmp_path))
    better = replace(made.comparisons[0], direction="better", size="larger")
    made = replace(made, comparisons=(better, *made.comparisons[1:]))
    text, in_markdown = both(made)
    assert '<p class="withheld headline">' in text
    assert '<div class="shown">' not in text[: text.index("How to read this")]
    assert "**no conclusion**" in in_markdown
    main_row = in_markdown[in_markdown.index("| feed-forward (main)") :].split("\n")[0]
    assert main_row.endswith("| no conclusion | no conclusion |")
    shown = terminal(made)
    assert re.search("no conclusion +no conclusion", shown)
    assert "better" not in shown[: shown.index("What next")]


def test_reason_of_a_statement_is_true_when_the_main_comparison_shows_nothing(tmp_path: Path):
    made = findings(tmp_path)
    held_back = replace(made.comparisons[2], direction="not shown", size="not shown")
    text = html(replace(made, comparisons=(made.comparisons[0], held_back)))
    low, high = (round(100 * bound, 1) for bound in (held_back.difference.low, held_back.difference.high))
    assert high < -1
    reason = f"interval, {low:+} to {high:+} points, excludes 0, but nothing is concluded"
    assert reason in unescaped(text)
    assert "the whole interval lies outside the margin of ±1 points, but nothing is concluded" in unescaped(text)


def test_failed_runs_are_counted_with_their_arm(tmp_path: Path):
    made = diverged(findings(tmp_path))
    for text in both(made):
        assert "2 of 3, 1 failed" in text
    assert "2 of 3" in terminal(made)
    text = html(made)
    assert "<td>0.0160</td>" not in text
    assert "diverged</td>" in text


def test_settings_that_all_arms_share_are_one_sentence(tmp_path: Path):
    text, in_markdown = both(findings(tmp_path))
    assert "Same for all arms: learning rate: 0.004; weight decay: 0.05; warm-up epochs: 2." in text
    assert "| arm | heads | position |" in in_markdown
    assert "| attention | 4 | sine-cosine |" in in_markdown


def test_search_says_whether_the_optimum_was_seen(tmp_path: Path):
    made = at_the_edge(findings(tmp_path))
    for text in both(made):
        assert "at the edge in 3 of 3: not tuned" in text
        assert "interior" in text
    drawn = figures_of(made)["search"]()
    assert "feed-forward: at the edge in 3 of 3: not tuned" in drawn.alt
    assert drawn.svg.count("interior") == 4
    assert "not tuned" in drawn.svg


def test_baselines_say_which_arms_they_beat(tmp_path: Path):
    made = findings(tmp_path)
    for text in (*both(made), terminal(made, 400)):
        assert "logistic regression on pixels" in text
        assert "beats attention only, no mixing and random mixing" in text
    none = replace(made, baselines=tuple(replace(each, beats=()) for each in made.baselines))
    assert "No baseline beats an arm by more than the margin." in html(none)
    assert "k-nearest neighbors" in figures_of(made)["accuracy"]().svg


def test_baseline_better_than_every_arm_stays_on_the_axis(tmp_path: Path):
    made = findings(tmp_path)
    arms = tuple(
        replace(arm, top1=Interval(0.5 + place / 100, 0.45, 0.57, 0.95)) for place, arm in enumerate(made.arms)
    )
    beaten = replace(made, arms=arms, baselines=(replace(made.baselines[1], top1=Interval(0.7, 0.67, 0.73, 0.95)),))
    assert max(ticks(figures_of(beaten)["accuracy"]().svg)) >= 70
    without = replace(made, baselines=())
    drawn = {"accuracy": figures_of(without)["accuracy"]()}
    assert "<figure>" in page("", content(without, drawn))
    assert "Grey squares" not in page("", content(without, drawn))


def test_commands_are_copied_whole(tmp_path: Path):
    made = findings(tmp_path)
    command = (
        "ffvit train --out 'a folder with a very long name that goes on and on' --recipe.epochs 100 --arm attention"
    )
    made = replace(made, next=(("Train", command),))
    text, in_markdown = both(made)
    assert text.index("To repeat it") < text.index(f"<code>{command}</code>".replace("'", "&#39;"))
    assert f"```sh\n{command}\n```" in in_markdown
    shown = terminal(made)
    block = shown[shown.index("  Train:\n") + len("  Train:\n") :].rstrip("\n").split("\n")
    assert len(block) > 1
    assert all(line.endswith(" \\") and len(line) <= 80 for line in block[:-1])
    assert shlex.split("\n".join(block).replace("\\\n", "")) == shlex.split(command)


def test_command_with_a_path_longer_than_the_line_is_not_broken(tmp_path: Path):
    command = f"ffvit train --config {'long/' * 20}config.yaml --epochs 3"
    shown = terminal(replace(findings(tmp_path), next=(("Train", command),)))
    block = shown[shown.index("  Train:\n") + len("  Train:\n") :].rstrip("\n")
    assert shlex.split(block.replace("\\\n", "")) == shlex.split(command)


def ticks(svg: str) -> list[int]:
    """The whole numbers that stand at a figure's axes."""
    return [int(label) for label in re.findall(r">(-?\d+)</text>", svg.replace("\N{MINUS SIGN}", "-"))]


def test_axes_stay_within_100_points(tmp_path: Path):
    made = two_repetitions(findings(tmp_path))
    drawn = figures_of(made)
    assert 50 <= max(map(abs, ticks(drawn["differences"]().svg))) <= 100
    assert "30.0 to 99.8" in drawn["accuracy"]().svg
    assert 60 <= min(ticks(drawn["accuracy"]().svg)) < 90


def test_wide_interval_of_two_repetitions_does_not_stretch_the_axis(tmp_path: Path):
    made = two_repetitions(findings(tmp_path))
    wide = replace(
        made.comparisons[0], difference=replace(made.comparisons[0].difference, value=-0.005, low=-0.9, high=0.9)
    )
    drawn = figures_of(replace(made, comparisons=(wide,)))
    for name in ("verdict", "differences"):
        assert max(map(abs, ticks(drawn[name]().svg))) <= 20
    assert "90.0 to +90.0" in drawn["differences"]().svg


def test_blocks_are_drawn_with_their_mixers_and_arms(tmp_path: Path):
    made = findings(tmp_path)
    svg = figures_of(made)["blocks"]().svg
    for words in (
        "identity",
        "random",
        "attention",
        "feedforward",
        "over patches",
        "over features",
        *(arm[0] for arm in ARMS),
    ):
        assert f">{words}</text>" in svg, words
    external = tuple(replace(arm, block=()) for arm in made.arms)
    assert "blocks" not in figures_of(replace(made, arms=external))


def test_interval_that_the_axis_cuts_ends_in_an_arrowhead():
    axes = Figure().add_subplot()
    axes.set_xlim(-100, 100)
    bar(axes, Interval(0.3, -1.4, 0.6, 0.95), 0.0, color="k")
    line, head = axes.lines
    assert list(line.get_xdata()) == [-100, 60]
    assert (head.get_marker(), list(head.get_xdata())) == ("<", [-100])


def test_every_point_of_the_cost_figure_is_named(tmp_path: Path):
    svg = figures_of(findings(tmp_path))["costs"]().svg
    assert all(f">{name}</text>" in svg for name, *_ in ARMS)


def test_learning_curves_near_the_top_are_drawn_as_errors(tmp_path: Path):
    made = findings(tmp_path)
    assert "Validation error, % (logarithmic)" in figures_of(made)["curves"]().svg
    low = _curves(made, lambda curve: tuple(replace(epoch, top1=0.3) for epoch in curve))
    assert "Validation top-1, %" in figures_of(low)["curves"]().svg


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_reported_whole(tmp_path: Path, variant: str):
    made = VARIANTS[variant](findings(tmp_path))
    text = write_report(made).read_text()
    assert made.comparisons[0].headline in text
    for svg in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(svg)
    shown = terminal(made)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_terminal_cuts_no_number_and_breaks_lines_at_words(tmp_path: Path):
    made = findings(tmp_path)
    large = replace(made.arms[0], name="feed-forward with an exceedingly long name", parameters=123_000_000, failed=2)
    shown = terminal(replace(made, arms=(large, *made.arms[1:])))
    assert "…" not in shown
    assert "123 M" in shown
    for each in made.comparisons:
        assert f"{100 * each.difference.low:+.1f} to {100 * each.difference.high:+.1f}" in shown
    words = [word for text in (*made.warnings, made.comparisons[0].words) for word in text.split()]
    assert set(words) <= set(shown.split())


def test_names_are_escaped_everywhere(evil: Path):
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


def test_figures_are_written_as_svg_and_png(written: Path):
    names = {"verdict", "differences", "accuracy", "search", "blocks", "costs", "curves", "classes"}
    assert {file.stem for file in (written / "figures").glob("*.svg")} == names
    for name in names:
        with Image.open(written / "figures" / f"{name}.png") as picture:
            assert picture.width > 600
        assert f"figures/{name}.png" in (written / "report.md").read_text()


def test_the_same_findings_make_the_same_bytes(written: Path, tmp_path: Path):
    write_report(findings(tmp_path))
    files = [file for file in written.rglob("*.*") if file.is_file()]
    assert len(files) == 18
    for file in files:
        assert file.read_bytes() == (tmp_path / file.relative_to(written)).read_bytes(), file


def test_small_pictures_are_shown_pixel_by_pixel(tmp_path: Path):
    made = findings(tmp_path)
    pictures = tuple(
        DisagreementImage(str(number), "1", "7", each)
        for number, each in enumerate((png(np.zeros((63, 63))), png(np.zeros((64, 64))), b""))
    )
    only = replace(made.disagreements[0], only_arm=pictures, only_reference=())
    text = html(replace(made, disagreements=(only,)))
    assert text.count('class="small"') == 1
    assert text.count("<img") == 2
    assert '<span class="none">2</span>' in text


def test_all_missing_runs_are_listed(tmp_path: Path):
    text = html(findings(tmp_path, missing=tuple(f"run {number}: failed" for number in range(40))))
    assert text.index("And 34 more") < text.index("<h2>")
    assert "run 39: failed" in text


def _nothing_finished(its: Findings) -> Findings:
    arms = tuple(replace(each, top1=None, runs=(), cost=None) for each in its.arms)
    return replace(its, arms=arms, comparisons=(), disagreements=())


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
    asked = tuple(replace(its.comparisons[0], arm=each.name, reference=arms[0].name) for each in arms[1:])
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
        one_repetition,
        lambda its: _curves(_folds(its), lambda curve: ()),
        _many,
        lambda its: replace(its, margin=0.0, disagreements=(replace(its.disagreements[0], classes=tuple((str(n), 3, 0.1, 0.2) for n in range(300)), only_arm=()),)),
        lambda its: findings(its.folder, "網絡 🙂", "مرحبا", "caf\udce9\x07"),
    ],
    ids=["nothing compared", "one arm", "nothing finished", "an arm unfinished", "one cost, no validation", "published, one epoch, no cost",
         "one seed", "folds, no curves", "many arms", "no margin, many classes", "all letters"],
)  # fmt: skip
def test_incomplete_findings_are_reported(tmp_path: Path, change):
    made = change(findings(tmp_path))
    text = write_report(made).read_text()
    assert made.arms[0].name in text
    assert ("published top-1" in text) == any(each.published for each in made.arms)
    assert ("No verdict yet" in text) == (not made.comparisons)
    for svg in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(svg)
    assert max(map(len, terminal(made).splitlines())) <= 80


def test_terminal_shows_verdict_and_table(tmp_path: Path):
    made = findings(tmp_path)
    text = terminal(made)
    assert text.index(made.comparisons[0].headline) < text.index("top-1")
    assert "no mixing (control)" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
def test_page_fits_its_width_in_a_browser(tmp_path: Path):
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
