"""What a forward pass keeps for the way back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def kept_bytes(forward: Callable[[], object], module: nn.Module) -> int:
    """Bytes that autograd keeps after `forward`, each storage once; the module's own parameters are not counted."""
    parameters = {each.untyped_storage()._cdata for each in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(each.nbytes() for each in kept.values())
