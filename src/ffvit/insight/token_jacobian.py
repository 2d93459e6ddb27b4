"""How strongly a branch's update of one token reacts to another token: the same question to every mixer.

J_ij(x) is the Jacobian of the update of token i with respect to token j, a matrix of features x features. It is never written
out: for a random vector v of signs, v^T J_ij comes from one backward pass for all j, and E ||v^T J_ij||^2 = ||J_ij||_F^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ffvit.insight.layers import LayeredNetwork, Map


@dataclass(frozen=True)
class TokenJacobian:
    """The Jacobian of a branch's update, tokens to tokens.

    Attributes:
        queries: The tokens i whose updates were looked at.
        strength: Root mean square over images of ||J_ij||_F, for each of these i and all j.
        static: Share of the mean square that is the same for all images.
        uniform: Share of the mean square that is the same for all images and for all j: taking the mean of all tokens.
        images: How many images it is from.
    """

    queries: tuple[int, ...]
    strength: Float[Tensor, "queries tokens"]
    static: float
    uniform: float
    images: int


def token_jacobian(
    update: Map,
    tokens: Float[Tensor, "images tokens features"],
    queries: Sequence[int],
    projections: int,
    seed: int = 0,
) -> TokenJacobian:
    """The Jacobian of an update, at tokens of several images.

    Args:
        update: The branch's.
        tokens: Its input.
        queries: Tokens i.
        projections: Random vectors for each i, the same for all images.
        seed: Of these.
    """
    images, _, features = tokens.shape
    generator = torch.Generator().manual_seed(seed)
    leaf = tokens.detach().requires_grad_()
    with torch.enable_grad():
        output = update(leaf)
    strength, power, static, uniform = [], 0.0, 0.0, 0.0
    for query in queries:
        squares = torch.zeros(tokens.shape[1], dtype=torch.float64)
        for _ in range(projections):
            signs = torch.randint(0, 2, (features,), generator=generator).to(tokens) * 2 - 1
            cotangent = torch.zeros_like(output)
            cotangent[:, query] = signs
            (rows,) = torch.autograd.grad(output, leaf, cotangent, retain_graph=True, allow_unused=True)
            rows = torch.zeros_like(leaf) if rows is None else rows
            squares += rows.square().sum(dim=2).mean(dim=0).double().cpu()
            own, common, flat = _shares(rows)
            power, static, uniform = power + own, static + common, uniform + flat
        strength.append((squares / projections).sqrt())
    return TokenJacobian(
        tuple(queries),
        torch.stack(strength),
        _share(static, power),
        _share(uniform, power),
        images,
    )


def _shares(rows: Float[Tensor, "images tokens features"]) -> tuple[float, float, float]:
    """Mean square over images, that of the mean over images, and that of its mean over tokens, without bias.

    ||mean||^2 of n images has the variance / n in it: E <x_a, x_b> of two different images has not.
    """
    rows = rows.double()
    flat = rows.mean(dim=1) * rows.shape[1] ** 0.5
    return float(rows.square().sum() / len(rows)), _between_images(rows), _between_images(flat)


def _between_images(values: Float[Tensor, "images ..."]) -> float:
    count = len(values)
    if count == 1:
        return float("nan")
    return float((values.sum(dim=0).square().sum() - values.square().sum()) / (count * (count - 1)))


def _share(part: float, whole: float) -> float:
    return float("nan") if whole == 0 else min(max(part / whole, 0.0), 1.0) if part == part else part


def evenly_spread(network: LayeredNetwork, count: int) -> list[int]:
    """At most so many patches, as rows and columns that are evenly spread over the grid, as tokens."""
    side = max(1, int(count**0.5))
    rows, columns = (
        sorted({int((place + 0.5) * length / min(side, length)) for place in range(min(side, length))})
        for length in network.grid
    )
    return [network.prefix + row * network.grid[1] + column for row in rows for column in columns]
