"""Layer-wise regression: a mixer trained to compute what attention computes, apart from the rest of the network."""

from __future__ import annotations

import copy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

STEPS, BATCH, LR = 500, 64, 5e-3
KEPT_BYTES = 2**29
"""Of what enters and leaves attention, at most."""

Tokens = Float[Tensor, "images tokens width"]


def kept_images(tokens: int, width: int) -> int:
    """How many images' activations are kept."""
    return KEPT_BYTES // (2 * 4 * tokens * width)


def regress(mixer: nn.Module, inputs: Tokens, outputs: Tokens, seed: int) -> tuple[nn.Module, float]:
    """Train a mixer on pairs of inputs and outputs; a tenth of the images is held out.

    Args:
        mixer: With its start; stays as it is.
        inputs: What enters attention.
        outputs: What leaves it.
        seed: Of the order of the images.

    Returns:
        The mixer, the trained one or the start, whichever is nearer on the held-out images, and the share of the outputs' squares
        that it leaves over there.
    """
    held = max(1, len(inputs) // 10)
    before = _left_over(mixer, inputs[:held], outputs[:held])
    trained = copy.deepcopy(mixer).train()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    if not parameters or len(inputs) == held:
        return mixer, before
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS)
    scale, draws = outputs.square().mean(), np.random.default_rng(seed)
    for _ in range(STEPS):
        taken = torch.from_numpy(draws.integers(held, len(inputs), BATCH)).to(inputs.device)
        loss = functional.mse_loss(trained(inputs[taken]), outputs[taken]) / scale
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    after = _left_over(trained.eval(), inputs[:held], outputs[:held])
    return (trained, after) if after < before else (mixer, before)


@torch.no_grad()
def _left_over(mixer: nn.Module, inputs: Tokens, outputs: Tokens) -> float:
    parts = zip(inputs.split(BATCH), outputs.split(BATCH), strict=True)
    return sum((mixer(x) - y).square().sum().item() for x, y in parts) / outputs.square().sum().item()
