from __future__ import annotations

from math import e, log

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from timm.loss import SoftTargetCrossEntropy
from torch import nn
from torch.nn import functional

from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe
from ffvit.training.losses import Criterion, class_weights, classification_loss, teacher_loss

BCE = Recipe(loss="bce")
HALF, ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


LOGITS = drawn(5, 4)
TARGETS = drawn(5, 4, seed=1).softmax(dim=1)
IMAGES = drawn(5, 3, 6, 2, seed=2)


def test_class_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [7, 1, 4])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(labels, 3).tolist() == pytest.approx(expected)


def test_a_class_without_images_has_a_finite_weight():
    assert class_weights(np.array([0, 0, 2]), 4).isfinite().all()


class TestClassification:
    def test_soft_targets_as_timm(self):
        mine = classification_loss(Recipe(), LOGITS, TARGETS, None)
        torch.testing.assert_close(mine.mean(), SoftTargetCrossEntropy()(LOGITS, TARGETS))

    def test_binary_as_torch(self):
        mine = classification_loss(BCE, LOGITS, TARGETS, None)
        torch.testing.assert_close(mine.mean(), nn.BCEWithLogitsLoss()(LOGITS, TARGETS))

    @pytest.mark.parametrize("recipe", [Recipe(), BCE])
    def test_each_image_by_itself(self, recipe):
        alone = [classification_loss(recipe, LOGITS[[i]], TARGETS[[i]], None) for i in range(5)]
        torch.testing.assert_close(classification_loss(recipe, LOGITS, TARGETS, None), torch.cat(alone))

    def test_weights_count_each_class_of_a_soft_target(self):
        # Both classes have probability 1/2; a quarter of the target counts 3 times, three quarters 5 times.
        logits, target = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.25, 0.75]], dtype=torch.float64)
        weights = torch.tensor([3.0, 5.0], dtype=torch.float64)
        loss = (0.25 * 3 + 0.75 * 5) * log(2)
        assert classification_loss(Recipe(), logits, target, weights).item() == pytest.approx(loss, rel=1e-12)
        assert classification_loss(BCE, logits, target, weights).item() == pytest.approx(
            (3 + 5) * log(2) / 2, rel=1e-12
        )


class TestTeacher:
    """By hand: the student's probabilities are 1/2, 1/4, 1/4, the teacher's 1/8, 1/8, 3/4 (at temperature 1)."""

    STUDENT = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log()
    TEACHER = torch.tensor([[1.0, 1.0, 6.0]], dtype=torch.float64).log()

    def test_hard_is_the_answers_cross_entropy(self):
        loss = teacher_loss(Recipe(distillation="hard"), self.STUDENT, self.TEACHER)
        assert loss.tolist() == pytest.approx([log(4)], rel=1e-12)

    def test_soft_is_the_divergence_over_the_classes(self):
        loss = teacher_loss(Recipe(distillation="soft"), self.STUDENT, self.TEACHER)
        divergence = 1 / 8 * log(1 / 4) + 1 / 8 * log(1 / 2) + 3 / 4 * log(3)
        assert loss.tolist() == pytest.approx([divergence / 3], rel=1e-12)

    def test_a_temperature_divides_logits_and_its_square_multiplies(self):
        recipe = Recipe(distillation="soft", distillation_temperature=2.0)
        loss = teacher_loss(recipe, 2 * self.STUDENT, 2 * self.TEACHER)
        divergence = 1 / 8 * log(1 / 4) + 1 / 8 * log(1 / 2) + 3 / 4 * log(3)
        assert loss.tolist() == pytest.approx([4 * divergence / 3], rel=1e-12)

    def test_soft_is_the_line_in_deits_losses(self):
        t = 3.0
        student, teacher = drawn(5, 4), drawn(5, 4, seed=1)
        theirs = (
            functional.kl_div(
                functional.log_softmax(student / t, dim=1),
                functional.log_softmax(teacher / t, dim=1),
                reduction="sum",
                log_target=True,
            )
            * (t * t)
            / student.numel()
        )
        mine = teacher_loss(Recipe(distillation="soft", distillation_temperature=t), student, teacher)
        torch.testing.assert_close(mine.mean(), theirs)


class Answering(nn.Module):
    """A teacher that answers with the mean of each channel of what it is shown."""

    def __init__(self, mean=HALF, std=HALF) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": mean, "std": std}
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        self.seen = images
        return self.scale * images.mean(dim=(2, 3))


def criterion(teacher=None, mean=HALF, std=HALF, weights=None, **fields) -> Criterion:
    return Criterion(Recipe(**fields), weights, teacher, Preprocess(img_size=(8, 8), mean=mean, std=std))


class TestCriterion:
    STUDENT, TARGET = drawn(5, 3), drawn(5, 3, seed=1).softmax(dim=1)

    def test_without_a_teacher_is_the_classification(self):
        weights = torch.tensor([1.0, 2.0, 3.0])
        mine = criterion(weights=weights)(self.STUDENT.float(), self.TARGET.float(), IMAGES.float())
        expected = classification_loss(Recipe(), self.STUDENT.float(), self.TARGET.float(), weights)
        assert torch.equal(mine, expected)

    @pytest.mark.parametrize("kind", ["soft", "hard"])
    def test_shares_the_loss_with_the_teacher(self, kind):
        fields = {"distillation": kind, "distillation_weight": 0.3, "distillation_temperature": 2.0}
        mine = criterion(Answering(), **fields).double()(self.STUDENT, self.TARGET, IMAGES)
        classified = classification_loss(Recipe(), self.STUDENT, self.TARGET, None)
        taught = teacher_loss(Recipe(**fields), self.STUDENT, IMAGES.mean(dim=(2, 3)))
        torch.testing.assert_close(mine, 0.7 * classified + 0.3 * taught)

    def test_a_second_head_learns_from_the_teacher(self):
        heads = self.STUDENT, drawn(5, 3, seed=5)
        mine = criterion(Answering(), distillation_weight=0.3).double()(heads, self.TARGET, IMAGES)
        classified = classification_loss(Recipe(), heads[0], self.TARGET, None)
        taught = teacher_loss(Recipe(), heads[1], IMAGES.mean(dim=(2, 3)))
        torch.testing.assert_close(mine, 0.7 * classified + 0.3 * taught)

    def test_the_teacher_sees_images_normalised_for_it(self):
        theirs, ours = ((0.1, 0.2, 0.3), (2.0, 3.0, 4.0)), ((0.5, 0.6, 0.7), (0.25, 0.5, 0.75))
        pixels = drawn(5, 3, 6, 2)

        def normalised(mean, std):
            return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

        teacher = Answering(*theirs)
        criterion(teacher, *ours).double()(self.STUDENT, self.TARGET, normalised(*ours))
        torch.testing.assert_close(teacher.seen, normalised(*theirs), rtol=1e-5, atol=1e-6)  # the buffers began as fp32

    def test_the_teacher_is_not_taught(self):
        teacher = Answering().train()
        student = self.STUDENT.clone().requires_grad_()
        criterion(teacher, distillation="soft").double()(student, self.TARGET, IMAGES).sum().backward()
        assert student.grad.abs().min() > 0
        assert not teacher.training
        assert teacher.scale.grad is None
        assert not teacher.scale.requires_grad


def test_certain_and_wrong_is_finite():
    loss = classification_loss(Recipe(), torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1.0]]), None)
    assert loss.item() == pytest.approx(1e4)
    assert e ** -loss.item() == 0
