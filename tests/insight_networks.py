"""Small networks of 3 x 4 patches for the tests of what networks do."""

from __future__ import annotations

from typing import Any

import torch

from ffvit.config.architecture import Architecture, Branch
from ffvit.models.create import create_model


def small(*block: Branch, readout: str = "mean", **fields: Any) -> torch.nn.Module:
    """A network whose predictions differ between images."""
    torch.manual_seed(0)
    settings = {"width": 8, "depth": 2, "img_size": (6, 8), "patch": 2, "in_chans": 1, "num_classes": 5} | fields
    network = create_model(Architecture(block=block, readout=readout, **settings)).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return network
