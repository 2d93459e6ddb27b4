"""Small networks whose predictions are of no matter, so that nothing is trained."""

from __future__ import annotations

import torch

import ffvit
from ffvit.config.architecture import FF_ONLY

CPU = ffvit.Hardware(accelerator="cpu", workers=0)


def network(seed: int, classes: str = "0123456789") -> torch.nn.Module:
    """A network for images of 16 x 16 pixels, whose classes are letters or digits."""
    torch.manual_seed(seed)
    made = ffvit.create_model(
        ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=16, patch=4, num_classes=len(classes))
    )
    for parameter in made.parameters():
        if parameter.ndim > 1:  # as they begin, they would predict the same for all images
            torch.nn.init.normal_(parameter, std=0.5)
    made.class_names = tuple(classes)
    return made
