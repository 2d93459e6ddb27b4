"""The loss of each image: soft-target or binary cross entropy, and a teacher's share."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe

PerImage = Float[Tensor, " batch"]
Logits = Float[Tensor, "batch classes"]


def class_weights(labels: Int[np.ndarray, " images"], classes: int) -> Float[Tensor, " classes"]:
    """Weights that let every class count the same: images / (classes x images of the class); scikit-learn's `balanced`."""
    counts = np.bincount(labels, minlength=classes)
    return torch.tensor(len(labels) / (classes * np.maximum(counts, 1)), dtype=torch.float32)


def classification_loss(
    recipe: Recipe, logits: Logits, targets: Float[Tensor, "batch classes"], weights: Float[Tensor, " classes"] | None
) -> PerImage:
    """Cross entropy with soft targets, or the mean over classes of binary cross entropy (DeiT III, arXiv 2204.07118)."""
    if recipe.loss == "bce":
        by_class = functional.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="none")
        return by_class.mean(dim=1)
    return functional.cross_entropy(logits, targets, weight=weights, reduction="none")


def teacher_loss(recipe: Recipe, logits: Logits, teacher_logits: Logits) -> PerImage:
    """The loss against a teacher (DeiT, arXiv 2012.12877, section 4, eqs. 2 and 3; soft: divided by classes as in its code)."""
    if recipe.distillation == "hard":
        return functional.cross_entropy(logits, teacher_logits.argmax(dim=1), reduction="none")
    t = recipe.distillation_temperature
    student, teacher = (functional.log_softmax(scores / t, dim=1) for scores in (logits, teacher_logits))
    return functional.kl_div(student, teacher, reduction="none", log_target=True).mean(dim=1) * t * t


class Criterion(nn.Module):
    """The loss of each image under a recipe.

    Args:
        recipe: Its loss and distillation fields.
        weights: For each class, or None.
        teacher: What to distil from, or None.
        preprocess: How the student's input is normalised; the teacher's own may differ.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        weights: Float[Tensor, " classes"] | None,
        teacher: nn.Module | None,
        preprocess: Preprocess,
    ) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.recipe = recipe
        self.teacher: DistillationTeacher | None = None
        if teacher is not None:
            from timm.task import DistillationTeacher

            self.teacher = DistillationTeacher(teacher).requires_grad_(False)
        # Compared once here: in every step, as timm's teacher does it, the comparison would wait for the GPU.
        self.as_student = self.teacher is not None and (
            torch.equal(self.teacher.mean_kd.flatten(), mean) and torch.equal(self.teacher.std_kd.flatten(), std)
        )
        self.register_buffer("weights", weights)
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(
        self,
        output: Logits | tuple[Logits, Logits],
        targets: Float[Tensor, "batch classes"],
        images: Float[Tensor, "batch channels height width"],
    ) -> PerImage:
        """Loss of each image.

        Args:
            output: The student's logits; from a network with a distillation token, the pair of both heads' logits.
            targets: Soft targets.
            images: As the student saw them, mixed.
        """
        logits, distilled = output if isinstance(output, tuple) else (output, output)
        loss = classification_loss(self.recipe, logits, targets, self.weights)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            if not self.as_student:
                images = (images * self.std + self.mean - self.teacher.mean_kd) / self.teacher.std_kd
            teacher_logits = self.teacher(images)
        share = self.recipe.distillation_weight
        return (1 - share) * loss + share * teacher_loss(self.recipe, distilled, teacher_logits)
