"""Which parameters decay, and the optimizer, which is timm's."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn
from torch.optim import Optimizer

from ffvit.config.recipe import Recipe
from ffvit.errors import ConfigError, did_you_mean

FUSED = 1_000_000
"""Parameters from which on a step in one piece is faster than all tensors at once, operation by operation."""

MAP = "position.map", "position.class_token"


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters without and with weight decay.

    None on those of one dimension (biases, norms) and on what the network names itself (class token, positions),
    except a position map where the recipe says so, as in the paper's released code.
    """
    spared: set[str] = set(getattr(network, "no_weight_decay", set)())
    if recipe.decay_position_map:
        spared -= set(MAP)
    groups: dict[float, list[nn.Parameter]] = {0.0: [], recipe.weight_decay: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            without = parameter.ndim <= 1 or name in spared
            groups[0.0 if without else recipe.weight_decay].append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items() if parameters]


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over the network's parameters.

    Raises:
        UserError: timm knows no optimizer of that name, or it takes no such settings.
    """
    known = list_optimizers()
    if recipe.optimizer not in known:
        raise ConfigError(
            f"recipe.optimizer: timm has none called {recipe.optimizer!r}{did_you_mean(recipe.optimizer, known)}"
        )
    settings: dict[str, Any] = {"betas": recipe.betas, "eps": recipe.epsilon} if "adam" in recipe.optimizer else {}
    try:
        optimizer = create_optimizer_v2(
            parameter_groups(network, recipe),
            opt=recipe.optimizer,
            lr=recipe.peak_lr,
            weight_decay=recipe.weight_decay,
            **settings,
        )
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"recipe.optimizer {recipe.optimizer!r}: {error}") from None
    fused = sum(weight.numel() for weight in network.parameters()) >= FUSED
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None:  # left to PyTorch, which does neither on a processor
            group |= {"fused": True, "foreach": False} if fused and "fused" in group else {"foreach": True}
    return optimizer
