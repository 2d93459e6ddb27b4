"""A network lent for scoring: whatever is done with it, its owner gets it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The network in evaluation mode on a device; afterwards each of its modules has its own mode and device again."""
    modes = [(module, module.training) for module in network.modules()]
    before = next((each.device for each in network.parameters()), device)
    try:
        yield network.eval().to(device)
    finally:
        network.to(before)
        for module, training in modes:
            module.training = training
