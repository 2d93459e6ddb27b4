from __future__ import annotations

import errno
from dataclasses import replace
from math import e, log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ffvit.errors import DiskFullError, UserError
from ffvit.inference.predictions import Predictions, read_predictions

CLASSES = ("cat", "dog", "emu")


def test_numbers_on_paper():
    # exp of the logits is 1, 1, 2 and 1, 4, 3: probabilities are quarters and eighths.
    logits = torch.tensor([[1.0, 1.0, 2.0], [1.0, 4.0, 3.0]]).log()
    answers = Predictions.of(logits, torch.tensor([0, 1]), CLASSES)
    assert answers.predicted.tolist() == [2, 1]
    assert answers.correct.tolist() == [False, True]
    assert answers.loss.tolist() == pytest.approx([log(4), log(2)])
    assert answers.confidence.tolist() == pytest.approx([1 / 2, 1 / 2])
    assert answers.logits_of.tolist() == [0, 1]
    np.testing.assert_array_equal(answers.logits, logits)


def test_top5_is_of_the_five_highest():
    logits = torch.arange(7.0).repeat(7, 1)
    answers = Predictions.of(logits, torch.arange(7), "abcdefg")
    assert answers.in_top5.tolist() == [False, False, True, True, True, True, True]


def test_a_constant_network_is_right_in_five_of_seven_and_not_in_all():
    answers = Predictions.of(torch.zeros(7, 7), torch.arange(7), "abcdefg")
    assert answers.predicted.tolist() == [0] * 7
    assert answers.in_top5.tolist() == [True] * 5 + [False] * 2


def test_half_precision_gradients_and_small_labels_are_taken_as_they_come():
    logits = torch.randn(5, 3, dtype=torch.bfloat16, requires_grad=True)
    answers = Predictions.of(logits, torch.tensor([0, 1, 2, 0, 1], dtype=torch.int32), list(CLASSES))
    assert answers.logits.dtype == np.float32
    assert answers.labels.dtype == np.int64


@pytest.mark.parametrize("wrong", [-100, -1, 3])
def test_a_label_outside_the_classes_is_named(wrong: int):
    sentence = f"labels must be 0 to 2, one for each of the 3 classes; image 1 has {wrong}, and 1 of 2 images"
    with pytest.raises(UserError, match=sentence):
        Predictions.of(torch.zeros(2, 3), torch.tensor([0, wrong]), CLASSES)


def test_an_empty_set_is_refused():
    with pytest.raises(UserError, match="there is no image"):
        Predictions.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), CLASSES)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float):
    with pytest.raises(UserError, match="not finite"):
        Predictions.of(torch.tensor([[0.0, 0.0, bad]]), torch.tensor([0]), CLASSES)


def test_a_loss_that_is_not_finite_is_refused_though_its_logits_were_not_kept():
    answers = Predictions.of(torch.zeros(2, 3), torch.tensor([1, 2]), CLASSES)
    with pytest.raises(UserError, match="not finite"):
        replace(answers, loss=np.float32([0, np.nan]), logits=answers.logits[:1], logits_of=answers.logits_of[:1])


def test_csv(tmp_path):
    logits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    answers = Predictions.of(logits, torch.tensor([1, 2]), ("cat", "dog, big", "emü"))
    answers.to_csv(tmp_path / "answers.csv", ["a/1.png", "b/2.png"])
    assert (tmp_path / "answers.csv").read_bytes().decode() == (
        "image,label,predicted,correct,confidence,loss\n"
        f'a/1.png,"dog, big","dog, big",True,{e / (e + 2):.6f},{log(e + 2) - 1:.6f}\n'
        f"b/2.png,emü,cat,False,0.333333,{log(3):.6f}\n"
    )


def test_csv_that_cannot_be_written_whole_leaves_what_was_there(tmp_path, monkeypatch):
    """As on a disk that fills up in the middle."""
    answers = Predictions.of(torch.zeros(1, 3), torch.tensor([0]), CLASSES)
    answers.to_csv(tmp_path / "answers.csv", ["a"])
    before = (tmp_path / "answers.csv").read_bytes()

    def fills_up(self, path, **_):
        Path(path).write_text("image,lab")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fills_up)
    with pytest.raises(DiskFullError, match="the disk is full"):
        answers.to_csv(tmp_path / "answers.csv", ["b"])
    assert (tmp_path / "answers.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]


def test_csv_names_the_group_of_each_image(tmp_path):
    answers = Predictions.of(torch.zeros(2, 3), torch.tensor([1, 2]), CLASSES)
    answers.to_csv(tmp_path / "answers.csv", ["a", "b"], ["007", "NA"])
    assert read_predictions(tmp_path / "answers.csv")["group"].tolist() == ["007", "NA"]
    with pytest.raises(UserError, match="3 groups were given for 2 images"):
        answers.to_csv(tmp_path / "answers.csv", ["a", "b"], ["x", "y", "z"])


def test_csv_keeps_names_that_are_no_text_and_classes_called_na(tmp_path):
    answers = Predictions.of(torch.zeros(2, 2), torch.tensor([0, 1]), ("NA", "null"))
    names = ["caf\udce9.png", "NA"]  # Latin-1 on a disk that is read as UTF-8
    answers.to_csv(tmp_path / "answers.csv", names)
    assert b"caf\xe9.png,NA,NA" in (tmp_path / "answers.csv").read_bytes()
    table = read_predictions(tmp_path / "answers.csv")
    assert table["image"].tolist() == [r"caf\xe9.png", "NA"]
    assert table["label"].tolist() == ["NA", "null"]
    assert table["loss"].dtype == float


def test_csv_needs_a_name_for_each_image(tmp_path):
    answers = Predictions.of(torch.zeros(2, 3), torch.tensor([1, 2]), CLASSES)
    with pytest.raises(UserError, match="1 image names were given for 2 images"):
        answers.to_csv(tmp_path / "answers.csv", ["a"])
