from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from ffvit.errors import UserError
from ffvit.inference.metrics import Confusion, Evaluation, compute_metrics
from ffvit.inference.predictions import Predictions


def answered(labels: list[int], predicted: list[int], classes: int) -> Predictions:
    """Answers of a network that gives its answer a logit of 1 and all else 0."""
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()
    return Predictions.of(logits, torch.tensor(labels), [f"class {each}" for each in range(classes)])


def random_answers(images: int = 397, classes: int = 11, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1.5
    return Predictions.of(logits, labels, [f"class {each}" for each in range(classes)])


def test_numbers_on_paper():
    #       truth 0: 3 right, 1 taken for 1; truth 1: 2 right; truth 2: 1 right, 2 taken for 0, 1 for 1
    evaluation = compute_metrics(answered([0, 0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, 2, 0, 0, 1], 3))
    assert evaluation.images == 10
    assert evaluation.top1.value == 0.6
    assert evaluation.top5 is None
    assert evaluation.confusion.tolist() == [[3, 1, 0], [0, 2, 0], [2, 1, 1]]
    zero, one, two = evaluation.per_class
    assert (zero.name, zero.support) == ("class 0", 4)
    assert (zero.precision.value, zero.recall.value, zero.f1.value) == pytest.approx((3 / 5, 3 / 4, 6 / 9))
    assert (one.precision.value, one.recall.value, one.f1.value) == pytest.approx((2 / 4, 1, 4 / 6))
    assert (two.precision.value, two.recall.value, two.f1.value) == pytest.approx((1, 1 / 4, 2 / 5))
    assert evaluation.balanced_accuracy == pytest.approx((3 / 4 + 1 + 1 / 4) / 3)
    assert evaluation.macro_precision == pytest.approx((3 / 5 + 2 / 4 + 1) / 3)
    assert evaluation.macro_f1 == pytest.approx((6 / 9 + 4 / 6 + 2 / 5) / 3)
    assert evaluation.worst_pairs == (
        Confusion("class 2", "class 0", 2, 2 / 4),
        Confusion("class 0", "class 1", 1, 1 / 4),
        Confusion("class 2", "class 1", 1, 1 / 4),
    )


def test_agrees_with_sklearn():
    answers = random_answers()
    evaluation = compute_metrics(answers)
    truth, predicted = answers.labels, answers.predicted
    precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, predicted)
    for index, each in enumerate(evaluation.per_class):
        assert each.support == support[index]
        values = (each.precision.value, each.recall.value, each.f1.value)
        assert values == pytest.approx((precision[index], recall[index], f1[index]))
    np.testing.assert_array_equal(evaluation.confusion, metrics.confusion_matrix(truth, predicted))
    assert evaluation.top1.value == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert evaluation.top5.value == pytest.approx(metrics.top_k_accuracy_score(truth, answers.logits, k=5))
    assert evaluation.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert (evaluation.macro_precision, evaluation.macro_f1) == pytest.approx((precision.mean(), f1.mean()))


def test_intervals_are_of_the_right_counts():
    answers = answered([0] * 10 + [1] * 20, [0] * 7 + [1] * 3 + [1] * 18 + [0] * 2, 2)
    evaluation = compute_metrics(answers)
    zero = evaluation.per_class[0]
    for share, right, of in ((evaluation.top1, 25, 30), (zero.recall, 7, 10), (zero.precision, 7, 9)):
        wilson = stats.binomtest(right, of).proportion_ci(method="wilson")
        assert (share.value, share.low, share.high) == pytest.approx((right / of, wilson.low, wilson.high))
    jaccard = stats.binomtest(7, 12).proportion_ci(method="wilson")
    assert zero.f1.low == pytest.approx(2 * jaccard.low / (1 + jaccard.low))


def test_loss_interval_is_students():
    answers = random_answers(images=23)
    loss = compute_metrics(answers).loss
    theirs = stats.ttest_1samp(answers.loss.astype(np.float64), 0).confidence_interval(0.95)
    assert (loss.low, loss.high) == pytest.approx((theirs.low, theirs.high))
    assert loss.value == pytest.approx(answers.loss.mean())


@settings(max_examples=50)
@given(st.data())
def test_every_interval_holds_its_estimate(data: st.DataObject):
    classes = data.draw(st.integers(1, 7))
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=30))
    evaluation = compute_metrics(answered(*map(list, zip(*pairs, strict=True)), classes), temperature=1.3)
    shares = [share for each in evaluation.per_class for share in (each.precision, each.recall, each.f1)]
    for share in (evaluation.top1, evaluation.top5, *shares):
        assert share is None or 0 <= share.low <= share.value <= share.high <= 1
    assert evaluation.confusion.sum() == evaluation.images
    json.dumps(evaluation.to_dict(), allow_nan=False)


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(random):
    answers = random_answers(images=101)
    order = list(range(101))
    random.shuffle(order)
    shuffled = Predictions.of(torch.tensor(answers.logits[order]), torch.tensor(answers.labels[order]), answers.classes)
    assert flat(compute_metrics(shuffled, temperature=1.3)) == pytest.approx(
        flat(compute_metrics(answers, temperature=1.3))
    )
    assert compute_metrics(shuffled).temperature == pytest.approx(compute_metrics(answers).temperature, rel=2e-3)


def flat(evaluation: Evaluation) -> dict[str, object]:
    """All figures by their path, one level deep."""
    rows: dict[str, object] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                walk(f"{path}.{key}", each)
        elif isinstance(value, list | tuple):
            for index, each in enumerate(value):
                walk(f"{path}.{index}", each)
        else:
            rows[path] = value

    walk("", evaluation.to_dict())
    return rows


def test_a_class_without_images_has_no_measures_and_is_left_out_of_averages():
    evaluation = compute_metrics(answered([0, 0, 1, 1], [0, 2, 1, 1], 4))
    for absent in evaluation.per_class[2:]:
        assert (absent.support, absent.precision, absent.recall, absent.f1) == (0, None, None, None)
    assert evaluation.balanced_accuracy == 0.75
    assert evaluation.macro_precision == 1


def test_a_class_that_is_never_answered_has_no_precision_and_counts_as_zero_in_the_average():
    evaluation = compute_metrics(answered([0, 1], [0, 0], 2))
    never = evaluation.per_class[1]
    assert (never.precision, never.recall.value, never.f1.value) == (None, 0, 0)
    assert evaluation.macro_precision == 0.25


def test_all_right():
    evaluation = compute_metrics(answered([0, 1, 2] * 10, [0, 1, 2] * 10, 3))
    assert (evaluation.top1.value, evaluation.top1.high) == (1, 1)
    assert evaluation.worst_pairs == ()
    assert evaluation.macro_f1 == 1
    assert evaluation.calibration_error_at_temperature == pytest.approx(0, abs=1e-6)


def test_all_wrong():
    evaluation = compute_metrics(answered([0, 1, 2] * 10, [1, 2, 0] * 10, 3))
    assert (evaluation.top1.value, evaluation.top1.low) == (0, 0)
    assert evaluation.macro_f1 == 0
    assert [pair.count for pair in evaluation.worst_pairs] == [10, 10, 10]


def test_one_image():
    evaluation = compute_metrics(answered([1], [1], 2))
    assert (evaluation.loss.low, evaluation.loss.high) == (None, None)
    assert (evaluation.temperature, evaluation.calibration_error_at_temperature) == (None, None)
    assert evaluation.calibration_error is not None


def test_only_the_ten_most_frequent_wrong_answers():
    evaluation = compute_metrics(
        answered(list(range(12)) * 2 + [11], [(each + 1) % 12 for each in range(12)] * 2 + [0], 12)
    )
    assert [pair.count for pair in evaluation.worst_pairs] == [3] + [2] * 9
    assert evaluation.worst_pairs[0].label == "class 11"
    assert evaluation.worst_pairs[1].label == "class 0"


def test_a_given_temperature_is_used_and_a_fitted_one_lowers_the_error():
    answers = random_answers()
    sharp = Predictions.of(torch.tensor(4 * answers.logits), torch.tensor(answers.labels), answers.classes)
    given = compute_metrics(sharp, temperature=4.0)
    assert (given.temperature, given.temperature_given) == (4, True)
    assert given.calibration_error_at_temperature == pytest.approx(compute_metrics(answers).calibration_error, abs=1e-6)
    fitted = compute_metrics(sharp)
    assert not fitted.temperature_given
    assert fitted.calibration_error_at_temperature < fitted.calibration_error / 2


def test_calibration_is_of_the_images_with_logits():
    whole = random_answers()
    kept = np.arange(0, 397, 3)
    part = compute_metrics(replace(whole, logits=whole.logits[kept], logits_of=kept))
    alone = compute_metrics(
        Predictions.of(torch.tensor(whole.logits[kept]), torch.tensor(whole.labels[kept]), whole.classes)
    )
    assert part.top1 == compute_metrics(whole).top1
    assert part.calibration_images == len(kept)
    for name in ("calibration_error", "temperature", "calibration_error_at_temperature"):
        assert getattr(part, name) == pytest.approx(getattr(alone, name))


def test_without_logits_there_is_no_calibration():
    whole = random_answers()
    none = compute_metrics(replace(whole, logits=whole.logits[:0], logits_of=np.arange(0)))
    assert (none.calibration_error, none.temperature, none.calibration_error_at_temperature) == (None, None, None)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_above_zero(temperature: float):
    with pytest.raises(UserError, match="must be above 0 and finite"):
        compute_metrics(random_answers(), temperature=temperature)


def test_json_is_without_the_confusion_matrix_over_100_classes():
    for classes, kept in ((100, True), (101, False)):
        fields = json.loads(json.dumps(compute_metrics(answered([0, 1], [0, 0], classes)).to_dict(), allow_nan=False))
        assert (fields["confusion"] is not None) == kept
        assert len(fields["per_class"]) == classes
