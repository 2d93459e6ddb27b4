from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from ffvit.inference.metrics import compute_metrics
from ffvit.inference.predictions import Predictions
from ffvit.inference.report import report


def printed(
    answers: Predictions, title: str = "net", temperature: float | None = None, *, terminal: bool = False
) -> str:
    console = Console(
        file=io.StringIO(), width=80, force_terminal=terminal, color_system="truecolor" if terminal else None
    )
    console.print(report(compute_metrics(answers, temperature), title))
    return console.file.getvalue()


def answers_of(labels: list[int], predicted: list[int], classes: list[str]) -> Predictions:
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), len(classes)).float()
    return Predictions.of(logits, torch.tensor(labels), classes)


THREE = answers_of([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 0, 0], ["cat", "dog", "emu"])


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_numbers_and_units():
    lines = lines_of(printed(THREE, "net on test"))
    assert lines[0] == "net on test, 8 images, 3 classes"
    assert "top-1 accuracy 62.5 % 30.6 to 86.3 %" in lines
    assert "balanced accuracy 58.3 %" in lines
    assert "cat 4 60.0 (23.1-88.2) 75.0 (30.1-95.4) 66.7 (31.6-89.6)" in lines
    assert "emu 2 - 0.0 (0.0-65.8) 0.0 (0.0-79.3)" in lines
    assert "cat 3 1 ." in lines
    assert "emu cat 2 100.0 %" in lines
    loss = next(line for line in lines if line.startswith("loss"))
    assert loss.count("nats") == 2


def test_says_where_the_temperature_comes_from():
    assert "each half is judged at that of the other half" in printed(THREE)
    given = printed(THREE, temperature=1.5)
    assert "at temperature 1.50" in given
    assert "was fitted on other images" in given


def test_says_how_many_images_the_calibration_is_of():
    part = replace(THREE, logits=THREE.logits[:5], logits_of=THREE.logits_of[:5])
    assert "Calibration is of the 5 images whose logits were kept." in " ".join(printed(part).split())
    assert "logits were kept" not in printed(THREE)


@pytest.mark.parametrize("classes", [1, 2, 12, 13, 25, 26, 300])
def test_fits_80_columns_with_whole_numbers(classes: int):
    names = [f"a fairly long name for class {each}" for each in range(classes)]
    labels = [each % classes for each in range(7000)]
    predicted = [(each * each) % classes for each in range(7000)]
    text = printed(answers_of(labels, predicted, names))
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert not re.search(r"(?<!\d )\(\d", text), "a share and its interval are on one line"
    assert ("Confusion" in text) == (classes <= 12)
    assert (f"The 10 classes of lowest F1, of {classes} with images" in text) == (classes > 25)


def test_the_worst_classes_come_first_and_those_without_images_not_at_all():
    labels = list(range(29)) * 2
    predicted = [0 if each in (7, 9) else each for each in range(29)] * 2
    text = printed(answers_of(labels, predicted, [f"c{each}" for each in range(30)]))
    assert "The 10 classes of lowest F1, of 29 with images" in text
    shown = [line.split()[0] for line in lines_of(text.split("lowest F1")[1].split("Most")[0]) if line[:1] == "c"]
    assert shown[1:5] == ["c7", "c9", "c0", "c1"]
    assert len(shown) == 11


def test_without_a_terminal_there_is_no_escape_code_and_with_one_the_matrix_is_shaded():
    assert "\x1b" not in printed(THREE)
    text = printed(answers_of([0] * 100 + [1], [0] * 99 + [1] * 2, ["cat", "dog"]), terminal=True)
    # 1 of 100 is 0.2 + 0.8 * 0.1 of the way from white to (178, 24, 43); 99 of 100 is 0.996 of the way to blue.
    assert re.search(r"48;2;34;103;172m *99", text)
    assert re.search(r"48;2;233;190;196m *1", text)


def test_names_are_not_markup():
    text = printed(answers_of([0, 1], [1, 1], ["[red]", "[/x]"]), title="[bold]net")
    assert "[bold]net" in text
    assert "1 [red]" in text
    assert "[red] [/x] 1 100.0 %" in lines_of(text)


def test_all_right_says_so():
    assert "Every image was predicted correctly." in printed(answers_of([0, 1], [0, 1], ["a", "b"]))


def test_one_image_has_no_loss_interval():
    lines = lines_of(printed(answers_of([0], [0], ["a", "b"])))
    assert "loss 0.313 nats" in lines
