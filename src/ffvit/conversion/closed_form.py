"""What takes the place of attention, fitted in closed form: linear least squares on what enters and leaves it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Attention
from torch import Tensor

from ffvit.errors import DataError
from ffvit.insight.attention_maps import MapStatistics, attention_maps
from ffvit.models.mixers import Linear, StaticAttention

RIDGE = 1e-4
"""Pull towards the start, as a share of the mean square of a feature: without it, features that are alike leave it open."""

EQUATIONS_PER_UNKNOWN = 10
"""At least: an image gives as many equations for each output token as the network has features."""

Tokens = Float[Tensor, "batch tokens width"]


class TokenRegression:
    """Least squares for `targets[t] = sum over f of matrix[t, f] features[f]`, over the images and the width of all of them.

    Args:
        features: How many vectors each target token is a sum of.
        tokens: How many target tokens.
    """

    def __init__(self, features: int, tokens: int, device: torch.device) -> None:
        self.gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.cross = torch.zeros(features, tokens, dtype=torch.float64, device=device)
        self.squares = 0.0

    def add(self, features: Float[Tensor, "batch features width"], targets: Tokens) -> None:
        """Add the equations of a batch."""
        left, right = (tensor.transpose(0, 1).flatten(1) for tensor in (features, targets))
        self.gram += (left @ left.T).double()
        self.cross += (left @ right.T).double()
        self.squares += targets.double().square().sum().item()

    def solve(self, start: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens features"]:
        """The matrix, pulled a little towards `start` (`RIDGE`)."""
        ridge = RIDGE * self.gram.diagonal().mean()
        left = self.gram + ridge * torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        return torch.linalg.solve(left, self.cross + ridge * start.T.double()).T

    def unexplained(self, matrix: Float[Tensor, "tokens features"]) -> float:
        """The share of the targets' squares that a matrix leaves over, on the images that were added."""
        matrix = matrix.double()
        explained = 2 * (matrix.T * self.cross).sum() - ((matrix @ self.gram) * matrix).sum()
        return 1 - explained.item() / self.squares if self.squares else 0.0


class StaticMaps:
    """The same maps for every image: values and projection of attention, and the maps that reproduce its output best.

    They start at the mean maps, and are pulled to them where the images leave them open.

    Attributes:
        statistics: Of the attention maps.
        unexplained: The share of the squares of what attention computes that the fitted mixer leaves over.
    """

    def __init__(self, attention: Attention, tokens: int) -> None:
        part: Any = attention
        heads, width, device = part.num_heads, part.proj.out_features, part.proj.weight.device
        self.attention, self.statistics = attention, MapStatistics()
        self.mixer = StaticAttention(tokens, width, heads, 0.0).to(device)
        self.mixer.value.load_state_dict(
            {"weight": part.qkv.weight[-width:].detach(), "bias": part.qkv.bias[-width:].detach()}
        )
        self.mixer.proj.load_state_dict(part.proj.state_dict())
        self.regression = TokenRegression(heads * tokens, tokens, device)
        self.unexplained = 1.0

    def add(self, x: Tokens, y: Tokens) -> None:
        """Add what enters and leaves attention for a batch."""
        self.statistics.add(attention_maps(self.attention, x))
        mixer = self.mixer
        values = mixer.value(x).unflatten(2, (len(mixer.maps), -1))  # batch tokens heads numbers
        projections = mixer.proj.weight.unflatten(1, (len(mixer.maps), -1))  # width heads numbers
        written = torch.einsum("bthn,whn->bhtw", values, projections).flatten(1, 2)
        self.regression.add(written, y - mixer.proj.bias)

    def fit(self) -> StaticAttention:
        """The mixer."""
        mean = self.statistics.mean.permute(1, 0, 2).flatten(1)  # tokens, heads x tokens
        matrix = self.regression.solve(mean)
        self.unexplained = self.regression.unexplained(matrix)
        maps = matrix.unflatten(1, (len(self.mixer.maps), -1)).transpose(0, 1)
        with torch.no_grad():
            self.mixer.maps.copy_(maps)
        return self.mixer


class OneMatrix:
    """One matrix over the tokens for all features, and a bias for each token (ResMLP's layer).

    Attributes:
        unexplained: As of `StaticMaps`.
    """

    def __init__(self, attention: Attention, tokens: int) -> None:
        part: Any = attention
        self.mixer = Linear(tokens, "patches").to(part.proj.weight.device)
        self.regression = TokenRegression(tokens + 1, tokens, part.proj.weight.device)
        self.unexplained = 1.0

    def add(self, x: Tokens, y: Tokens) -> None:
        """Add what enters and leaves attention for a batch."""
        self.regression.add(torch.cat((x, torch.ones_like(x[:, :1])), dim=1), y)

    def fit(self) -> Linear:
        """The mixer."""
        matrix = self.regression.solve(torch.zeros_like(self.regression.cross.T))
        self.unexplained = self.regression.unexplained(matrix)
        with torch.no_grad():
            self.mixer.fc.weight.copy_(matrix[:, :-1])
            self.mixer.fc.bias.copy_(matrix[:, -1])
        return self.mixer


CLOSED_FORMS: dict[str, type[StaticMaps | OneMatrix]] = {"static": StaticMaps, "linear": OneMatrix}
"""What has a closed form; of the others, pooling has no weights, and attention is not linear in its own."""


def check_enough(images: int, tokens: int, width: int, heads: int) -> None:
    """Check that there are enough images for the closed form.

    Raises:
        UserError: There are fewer equations than `EQUATIONS_PER_UNKNOWN` for each unknown.
    """
    needed = -(-EQUATIONS_PER_UNKNOWN * heads * tokens // width)
    if images < needed:
        raise DataError(
            f"the closed form needs {needed:,} training images for {heads} head{'s' * (heads > 1)} and {tokens} tokens; "
            f"there are {images:,}"
        )
