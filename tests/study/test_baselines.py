from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ffvit.config.data import Data
from ffvit.data.images import ArrayImages
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import UserError
from ffvit.study import baselines
from ffvit.study.baselines import measure_baselines


def by_name(splits: Splits) -> dict[str, baselines.Baseline]:
    return {each.name: each for each in measure_baselines(splits, seed=0)}


def made_up(train: np.ndarray, others: np.ndarray, side: int = 8) -> Splits:
    """Images of one grey each, which is 40 x their class, and a little noise."""
    noise = np.random.RandomState(0)

    def images(name: str, labels: np.ndarray) -> ArrayImages:
        shades = 40 * labels[:, None, None] + noise.randint(0, 20, (len(labels), side, side))
        return ArrayImages(name, shades.astype(np.uint8), labels)

    classes = tuple("abcde"[: train.max() + 1])
    return Splits(classes, images("train", train), images("validation", others), images("test", others), "made up")


def test_the_digits_are_told_apart_as_scikit_learn_does_it_plainly():
    splits = open_splits(Data())
    found = by_name(splits)
    digits = load_digits()

    def plainly(split) -> tuple[np.ndarray, np.ndarray]:
        numbers = [int(split.name(index)[len("digits[") : -1]) for index in range(len(split))]
        return digits.data[numbers] / 16, digits.target[numbers]

    (train, classes), (test, wanted) = plainly(splits.train), plainly(splits.test)
    assert found["largest class"].correct.mean() == np.mean(wanted == np.bincount(classes).argmax())
    for name, model, scaler in (
        ("nearest neighbours", KNeighborsClassifier(1), None),
        ("logistic regression", LogisticRegression(C=0.1, max_iter=200), StandardScaler().fit(train)),
    ):
        scaled = (train, test) if scaler is None else (scaler.transform(train), scaler.transform(test))
        right = model.fit(scaled[0], classes).predict(scaled[1]) == wanted
        assert right.mean() > 0.95
        assert np.mean(right == found[name].correct) > 0.995, name  # pixels are rounded to bytes
    assert found["nearest neighbours"].notes == "k = 1, on 8 x 8 px"


def test_every_baseline_answers_the_same_images_in_their_order():
    splits = open_splits(Data())
    names = tuple(splits.test.name(index) for index in range(len(splits.test)))
    for each in measure_baselines(splits, seed=0):
        assert each.images == names
        assert each.correct.shape == (len(names),)
        assert each.accuracy == each.correct.mean()


def test_an_unreadable_image_is_left_out_of_training_and_test(photos: Path, tmp_path: Path):
    for split, count in (("train", 6), ("val", 3)):
        for folder in (photos / split).iterdir():
            (tmp_path / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                (tmp_path / split / folder.name / file.name).write_bytes(file.read_bytes())
    splits = open_splits(Data(source=str(tmp_path), validation=0.25))
    for file in (splits.train.name(0), splits.test.name(0)):
        Path(file).write_bytes(b"no image")
    found = measure_baselines(splits, seed=0)
    assert len(found) == 3
    for each in found:
        assert len(each.images) == len(each.correct) == 11
        assert splits.test.name(0) not in each.images
    assert found[1].notes.endswith("on 16 x 16 px, 17 of 18 training images, 11 of 12 test images")


def test_images_none_of_which_can_be_read(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the images"):
        measure_baselines(open_splits(Data(source=str(tmp_path))), seed=0)


def test_a_class_that_most_images_have_is_what_the_largest_class_is_right_on():
    splits = made_up(np.repeat([0, 1], [95, 5]), np.repeat([0, 1], [19, 1]))
    found = by_name(splits)
    assert found["largest class"].correct.tolist() == [True] * 19 + [False]
    assert found["largest class"].notes == "a: 95.0% of the training images"
    assert found["nearest neighbours"].correct.all()
    assert found["logistic regression"].correct.all()


def test_the_setting_is_chosen_on_the_selection_part_and_scored_on_the_test_part():
    """Training labels with noise, which one neighbour repeats and several outvote."""
    labels = np.arange(200) % 2
    splits = made_up(labels, np.arange(40) % 2)
    flipped = np.where(np.arange(200) % 10 < 2, 1 - labels, labels)
    splits = Splits(splits.classes, ArrayImages("x", splits.train.arrays, flipped), splits.validation, splits.test, "")
    found = by_name(splits)["nearest neighbours"]
    assert not found.notes.startswith("k = 1,")
    assert found.accuracy > 0.9


def test_without_a_selection_part_a_fifth_of_the_training_images_chooses():
    splits = made_up(np.arange(100) % 3, np.arange(30) % 3)
    splits = Splits(splits.classes, splits.train, None, splits.test, "")
    assert by_name(splits)["logistic regression"].accuracy == 1.0


def test_a_single_class_leaves_only_the_largest_class():
    splits = made_up(np.zeros(20, dtype=np.int64), np.zeros(5, dtype=np.int64))
    assert list(by_name(splits)) == ["largest class"]


def test_more_images_than_are_looked_at_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_TRAINING", 50)
    monkeypatch.setattr(baselines, "MOST_TEST", 20)
    splits = made_up(np.arange(200) % 4, np.arange(60) % 4)
    first, again, other = (measure_baselines(splits, seed)[1] for seed in (0, 0, 1))
    assert first.notes.endswith("on 8 x 8 px, 50 of 200 training images, 20 of 60 test images")
    assert first.images == again.images != other.images
    assert len(first.images) == 20


def test_large_colour_images_are_seen_at_16_px_in_colour(tmp_path: Path):
    """Classes that differ in colour alone, as grey the same."""
    for name, colour in (("green", (0, 100, 0)), ("red", (196, 0, 0))):
        (tmp_path / name).mkdir()
        for number in range(10):
            PIL.Image.new("RGB", (40, 50), tuple(min(255, value + number) for value in colour)).save(
                tmp_path / name / f"{number}.png"
            )
    found = by_name(open_splits(Data(source=str(tmp_path))))
    assert found["nearest neighbours"].accuracy == found["logistic regression"].accuracy == 1.0
    assert "16 x 16 px" in found["nearest neighbours"].notes


def test_what_they_take_is_bounded_however_many_images_there_are():
    def predicted(images: int) -> float:
        labels = np.arange(images) % 4
        some = ArrayImages("x", np.broadcast_to(np.uint8(0), (images, 64, 64)), labels)
        return baselines.predicted_seconds(Splits(tuple("abcd"), some, some, some, ""), load=1e-3)

    assert predicted(1_000) < predicted(10_000) < predicted(100_000) == predicted(1_000_000)
