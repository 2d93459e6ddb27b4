"""How alike the representations of two layers are: linear CKA.

Kornblith et al. 2019, arXiv 1905.00414, section 3, in the form of Nguyen et al. 2021, arXiv 2010.15327, eq. 1 to 3: HSIC is
estimated without bias (Song et al. 2012) on each minibatch, and these are averaged.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MINIBATCH = 64
"""Images of a minibatch: its size does not change what is estimated; four is the least."""


def gram(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    """The inner products of the images' representations, with zeros on the diagonal as the unbiased estimate wants them.

    The products are of each number less its mean over the minibatch, which changes no HSIC and keeps rounding small.
    """
    flat = features.flatten(1).float()
    flat = flat - flat.mean(dim=0)
    products = (flat @ flat.T).double()
    return products.fill_diagonal_(0.0)


def hsic(
    first: Float[Tensor, "layers batch batch"], second: Float[Tensor, "others batch batch"]
) -> Float[Tensor, "layers others"]:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion, of each pair of Gram matrices (eq. 3)."""
    images = first.shape[1]
    product = torch.einsum("aij,bji->ab", first, second)
    sums = first.sum(dim=(1, 2))[:, None] * second.sum(dim=(1, 2)) / ((images - 1) * (images - 2))
    through = torch.einsum("ai,bi->ab", first.sum(dim=1), second.sum(dim=2)) * 2 / (images - 2)
    return (product + sums - through) / (images * (images - 3))


class Similarity:
    """Linear CKA of each layer of one network with each layer of another, or of the same.

    Attributes:
        images: How many were added.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums: list[Tensor | float] = [0.0, 0.0, 0.0]

    def add(self, first: Float[Tensor, "layers batch batch"], second: Float[Tensor, "others batch batch"]) -> None:
        """Add a minibatch: the Gram matrices of the layers of both, on the same images."""
        self.images += first.shape[1]
        own = (hsic(each, each).diagonal() for each in (first, second))
        for place, value in enumerate((hsic(first, second), *own)):
            self._sums[place] = self._sums[place] + value

    @property
    def cka(self) -> Float[Tensor, "layers others"]:
        """CKA: 1 where representations are the same but for a rotation and a scale, about 0 where they are unrelated.

        NaN for a layer that is the same for every image, which has no similarity.
        """
        cross, first, second = (torch.as_tensor(value) for value in self._sums)
        return cross / (first[:, None].clamp(min=0) * second.clamp(min=0)).sqrt()
