"""What a mixer over patches weighs, as maps over the image: hidden units, matrices, attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import GatedMlp
from torch import Tensor

from ffvit.insight.layers import Layer, LayeredNetwork
from ffvit.models.mixers import FeedForward, Linear, OnPatchGrid, Random, Toeplitz


@dataclass(frozen=True)
class TokenMap:
    """A number for each token.

    Attributes:
        label: What it is.
        values: The numbers, those of the tokens in front of the patches first.
        query: The token whose update is made of these, marked in the picture; None: there is none.
    """

    label: str
    values: Float[Tensor, " tokens"]
    query: int | None = None


@dataclass(frozen=True)
class LayerMaps:
    """Maps of one layer.

    Attributes:
        layer: The layer.
        kind: What they show: pairs of a hidden unit's fields, rows of a matrix, or attention.
        rows: One row of maps a line: input fields and output fields, or a query position each.
        note: What was left out, and what the columns are.
    """

    layer: Layer
    kind: str
    rows: tuple[tuple[TokenMap, ...], ...]
    note: str

    @property
    def signed(self) -> bool:
        """Whether the numbers can be below 0."""
        return self.kind != "attention"


class HiddenUse:
    """How strongly each hidden unit of a feed-forward layer over patches is active, over images and features."""

    def __init__(self, module: FeedForward) -> None:
        self._sum: Tensor | float = 0.0
        self._images = 0
        self._hook = module.fc2.register_forward_pre_hook(self._add)

    def _add(self, _: Any, inputs: tuple[Tensor]) -> None:
        self._sum = self._sum + inputs[0].abs().double().mean(dim=2).sum(dim=0)
        self._images += len(inputs[0])

    def remove(self) -> Float[Tensor, " hidden"]:
        """The mean absolute activation; nothing more is counted."""
        self._hook.remove()
        return torch.as_tensor(self._sum) / max(1, self._images)


def hidden_unit_maps(layer: Layer, activation: Float[Tensor, " hidden"], count: int) -> LayerMaps:
    """Input and output fields of the hidden units that are used most: mean |activation| x norm of the output field.

    Args:
        layer: One whose mixer is a feed-forward layer over patches.
        activation: Mean absolute activation of each unit.
        count: How many units.
    """
    module = layer.module
    assert isinstance(module, FeedForward)
    reads, writes = module.fc1.weight.detach().cpu(), module.fc2.weight.detach().cpu().T
    use = activation.cpu() * writes.double().norm(dim=1)
    units = use.argsort(descending=True)[:count].tolist()
    share = float(use[units].sum() / use.sum().clamp(min=1e-12))
    return LayerMaps(
        layer,
        "fields",
        (
            tuple(TokenMap(f"unit {unit} reads", reads[unit]) for unit in units),
            tuple(TokenMap("writes", writes[unit]) for unit in units),
        ),
        f"{len(units)} of {len(use)} units, {100 * share:.0f} % of use",
    )


def matrix_maps(network: LayeredNetwork, layer: Layer, queries: list[int]) -> LayerMaps | None:
    """Rows of the matrix over tokens that a linear, gMLP, random or Toeplitz mixer multiplies by; None: it has none."""
    row = _row_of(network, layer)
    if row is None:
        return None
    maps = tuple((TokenMap("row of the matrix", row(query), query),) for query in queries)
    return LayerMaps(layer, "matrix", maps, "the same for every feature")


def head_maps(
    layer: Layer, mean: Float[Tensor, "heads tokens tokens"], queries: list[int], count: int, kind: str = "attention"
) -> LayerMaps:
    """What the tokens at these places read by head: on average over images, or for every image.

    Args:
        layer: The layer.
        mean: The mean map of each head.
        queries: The tokens.
        count: How many heads, evenly spaced.
        kind: As of `LayerMaps`.
    """
    heads = sorted({int(place) for place in torch.linspace(0, len(mean) - 1, min(count, len(mean))).round().tolist()})
    rows = tuple(
        tuple(TokenMap(f"head {head + 1}", mean[head, query].float().cpu(), query) for head in heads)
        for query in queries
    )
    return LayerMaps(layer, kind, rows, f"{len(heads)} of {len(mean)} heads")


def _row_of(network: LayeredNetwork, layer: Layer) -> Callable[[int], Tensor] | None:
    module = layer.module.mixer if isinstance(layer.module, OnPatchGrid) else layer.module
    if layer.axis != "patches":
        return None
    if isinstance(module, Toeplitz):
        kernel = module.weight.detach().cpu()[0, 0]
        return lambda query: _toeplitz_row(network, kernel, query)
    matrix: Any = None
    if isinstance(module, Linear):
        matrix = module.fc.weight
    elif isinstance(module, Random):
        matrix = module.matrix
    elif isinstance(module, GatedMlp):
        matrix = module.gate.proj.weight
    if matrix is None:
        return None
    rows = matrix.detach().cpu()
    return lambda query: rows[query]


def _toeplitz_row(network: LayeredNetwork, kernel: Float[Tensor, "side side"], query: int) -> Float[Tensor, " tokens"]:
    rows, columns = network.grid
    row, column = divmod(query - network.prefix, columns)
    middle = kernel.shape[0] // 2
    values = torch.zeros(network.tokens)
    for token in range(rows * columns):
        down, right = token // columns - row + middle, token % columns - column + middle
        if 0 <= down < len(kernel) and 0 <= right < len(kernel):
            values[network.prefix + token] = kernel[down, right]
    return values
