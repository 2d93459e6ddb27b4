"""How far tokens travel: the mean distance between a patch and the patches that its update depends on.

The distance weighted by attention is that of Dosovitskiy et al. 2021, arXiv 2010.11929, figure 7 (there without this name for
the weights). Here the weights are attention maps, or for any mixer the norms of the Jacobian (`token_jacobian`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def patch_distances(grid: tuple[int, int]) -> Float[Tensor, "patches patches"]:
    """Distance of the centres of each two patches, in patches."""
    rows, columns = grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    return torch.cdist(places, places)


def mean_distance(
    weights: Float[Tensor, "... queries patches"], grid: tuple[int, int], queries: list[int] | None = None
) -> Float[Tensor, ...]:
    """Mean distance in patches from a query to what it reads, weighted, and then the mean over queries.

    Args:
        weights: Of each patch for each query, 0 or more; they need not sum to 1. A query without weight is left out.
        grid: Rows and columns of patches.
        queries: Which patches the queries are. Default: all.

    Returns:
        The distance; NaN where no query has weight.
    """
    weights = weights.double().cpu()
    distances = patch_distances(grid)
    distances = distances if queries is None else distances[queries]
    total = weights.sum(dim=-1)
    each = (weights * distances).sum(dim=-1) / total
    return torch.nanmean(each, dim=-1)
