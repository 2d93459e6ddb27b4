from __future__ import annotations

import io
import json
from dataclasses import astuple

import numpy as np
import pytest
from rich.console import Console

import ffvit
from ffvit.data.splits import open_images
from ffvit.inference.corruptions import PATCHES, Condition
from ffvit.inference.intervals import PairedDifference, Proportion
from ffvit.inference.robustness import Robustness
from ffvit.inference.robustness_plot import write
from ffvit.inference.robustness_report import robustness_report
from untrained import CPU, network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some digits as files, the fourth of them broken."""
    images, folder = open_images("digits", None, None), tmp_path_factory.mktemp("digits")
    for index in range(40):
        file = folder / str(images.labels[index]) / f"{index:04d}.png"
        file.parent.mkdir(exist_ok=True)
        images.read(index).save(file)
    sorted(folder.rglob("*.png"))[3].write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def score(folder):
    return ffvit.evaluate(
        network(0), folder, hardware=CPU, corruptions="patches", severities=(4, 1), reference=network(1), seed=5
    )


def test_each_condition_is_scored_on_the_same_images(score):
    robustness = score.robustness
    assert [(each.corruption, each.severity) for each in robustness.conditions] == [
        ("none", 0), *((name, level) for name in PATCHES for level in (1, 4))
    ]  # fmt: skip
    assert robustness.correct.shape == (7, 39)
    np.testing.assert_array_equal(robustness.correct[0], score.predictions.correct)
    assert not all(np.array_equal(row, robustness.correct[0]) for row in robustness.correct[1:])
    wilson = astuple(Proportion.of(robustness.correct[6].sum().item(), 39))
    assert astuple(robustness.top1(["occlusion"], 4)) == pytest.approx(wilson)
    assert robustness.top1(["occlusion"]).value == pytest.approx(robustness.correct[5:].mean())


def test_the_reference_sees_the_same_images(score):
    other = score.reference
    np.testing.assert_array_equal(other.robustness.correct[0], other.predictions.correct)
    assert score.less_reference == PairedDifference.of(score.predictions.correct, other.predictions.correct)
    less = score.robustness.less(other.robustness, ["patch_drop"], 1)
    assert less == PairedDifference.of(score.robustness.correct[3], other.robustness.correct[3])


def test_json_holds_all_of_it(score):
    figures = json.loads(json.dumps(score.to_dict("a", "b")))
    assert figures["reference"]["weights"] == "b"
    assert figures["reference"]["top1_less_reference"]["value"] == pytest.approx(score.less_reference.value)
    corruptions = figures["corruptions"]
    assert (corruptions["images"], corruptions["seed"]) == (39, 5)
    assert set(corruptions["corruptions"]) == set(PATCHES)
    drop = corruptions["corruptions"]["patch_drop"]
    assert set(drop) == {"mean", "severity_1", "severity_4"}
    assert drop["severity_4"]["top1"]["value"] == score.robustness.correct[4].mean()
    assert drop["severity_4"]["less_reference"]["low"] <= drop["severity_4"]["less_reference"]["high"]
    assert "mean" not in corruptions  # there is none of ImageNet-C's


def printed(score: object) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(robustness_report(score, "a", "b"))
    return console.file.getvalue()


def test_the_table_fits_eighty_columns(score):
    text = printed(score)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "Corrupted images: top-1 in percent with its 95 % interval; 39 images, seed 5" in text
    row = next(line for line in text.splitlines() if line.startswith("patch shuffle"))
    assert row.count("(") == 3
    assert "Warning, of b: 1 of 40 images could not be read." in text


def test_the_mean_is_of_the_corruptions_of_imagenet_c(tmp_path):
    conditions = (Condition("none", 0), *(Condition(name, 2) for name in ("fog", "snow", "occlusion")))
    correct = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    robustness = Robustness(conditions, correct, 0)
    assert robustness.averaged == ("fog", "snow")
    assert robustness.to_dict()["mean"]["top1"]["value"] == 3 / 8
    write({"a": robustness, "b": robustness}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_reference_with_other_classes_is_refused(folder):
    with pytest.raises(ffvit.UserError, match="reference: has other classes than the network"):
        ffvit.evaluate(network(0), folder, hardware=CPU, reference=network(1, "9876543210"))


def test_a_figure_is_of_corruptions(folder, tmp_path):
    with pytest.raises(ffvit.UserError, match="figure: is of corruptions: give --corruptions too"):
        ffvit.evaluate(network(0), folder, hardware=CPU, figure=tmp_path / "plot.png")
