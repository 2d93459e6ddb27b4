"""The mixers. Each mixes along the middle axis of `batch length width` and hands back the same shape.

A branch along patches hands its mixer tokens as they are (length = tokens, width = features); a branch along features
hands them transposed. So every mixer is written once, and knows nothing of what stands around it.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from timm.layers import Attention, GatedMlp
from timm.models.mlp_mixer import SpatialGatingUnit
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ffvit.architecture import Architecture, Axis, Branch


class AlongMiddle(nn.Linear):
    """A linear layer along the middle axis.

    Features lie together in memory: along them, one product serves all images. Along patches the matrix stands on the
    left, one product an image: FF-base on a CPU is 1.07 times as fast as with tokens transposed back and forth (docs/speed.md).
    """

    def __init__(self, length: int, out: int, axis: Axis) -> None:
        super().__init__(length, out)
        self.axis = axis

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch out width"]:
        if self.axis == "features" or torch.compiler.is_exporting():  # other engines know matrices on the right
            return super().forward(x.mT).mT
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        # Autocast would cast the matrix, and so write it out, once an image.
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            weight, bias = (each.to(torch.get_autocast_dtype(x.device.type)) for each in (weight, bias))
        return torch.baddbmm(bias[:, None], weight.expand(x.shape[0], -1, -1), x)


class FeedForward(nn.Module):
    """Linear, exact GELU, linear along the axis (the paper, section 2): every row of the width alike.

    Training keeps what enters the GELU and what leaves it; with `recomputes` only what enters, and the GELU again.
    """

    def __init__(self, length: int, hidden: int, axis: Axis, dropout: float) -> None:
        super().__init__()
        self.fc1 = AlongMiddle(length, hidden, axis)
        self.fc2 = AlongMiddle(hidden, length, axis)
        self.dropout = nn.Dropout(dropout)
        self.recomputes = False

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        hidden = self.fc1(x)
        if self.recomputes:
            return checkpoint(self._after, hidden, use_reentrant=False, preserve_rng_state=self.dropout.p > 0)
        return self._after(hidden)

    def _after(self, hidden: Float[Tensor, "batch hidden width"]) -> Float[Tensor, "batch length width"]:
        # Along features, units lie together in memory: compiled, a GELU of the view would turn them over.
        activated = functional.gelu(hidden.mT).mT if self.fc1.axis == "features" else functional.gelu(hidden)
        return self.dropout(self.fc2(self.dropout(activated)))


class Linear(nn.Module):
    """One matrix along the axis (ResMLP's patch layer, arXiv 2105.03404, eq. 2)."""

    def __init__(self, length: int, axis: Axis) -> None:
        super().__init__()
        self.fc = AlongMiddle(length, length, axis)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.fc(x)


class Pooling(nn.Module):
    """Mean of the neighbours less the patch itself (PoolFormer, arXiv 2111.11418, eq. 4)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch width rows columns"]:
        return functional.avg_pool2d(x, self.kernel, 1, self.kernel // 2, count_include_pad=False) - x


class OverTheGrid(nn.Module):
    """Lays the patches out as an image for a mixer that needs neighbours; adds nothing to a class token in front."""

    def __init__(self, mixer: nn.Module, grid: tuple[int, int]) -> None:
        super().__init__()
        self.mixer = mixer
        self.grid = grid

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        rows, columns = self.grid
        in_front = x.shape[1] - rows * columns
        image = x[:, in_front:].mT.unflatten(2, (rows, columns))
        return functional.pad(self.mixer(image).flatten(2).mT, (0, 0, in_front, 0))


class Fourier(nn.Module):
    """Real part of the discrete Fourier transform along the axis (FNet, arXiv 2105.03824, eq. 3; there along both).

    Scaled by 1 / sqrt(length), which keeps the size of what the next branch reads; FNet leaves that to its norms.
    """

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return torch.fft.fft(x.float(), dim=1, norm="ortho").real.to(x.dtype)  # no transform in half precision on a CPU


class Random(nn.Module):
    """A matrix that is drawn once and never trained (RandFormer, arXiv 2210.13452, eq. 5: softmax of uniform draws)."""

    matrix: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.rand(length, length).softmax(dim=-1))

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.matrix @ x


def build_mixer(branch: Branch, architecture: Architecture, dropout: float) -> nn.Module:
    """The mixer of a branch: `batch length width` to the same shape, with `length` the axis it mixes along."""
    length, width = architecture.tokens, architecture.width
    if branch.axis == "features":
        length, width = width, length
    match branch.mixer:
        case "feedforward":
            return FeedForward(length, architecture.hidden(branch), branch.axis, dropout)
        case "attention":
            return Attention(width, num_heads=branch.heads or 1, qkv_bias=True, proj_drop=dropout)
        case "linear":
            return Linear(length, branch.axis)
        case "gating":  # gMLP, arXiv 2105.08050, section 2
            gate = partial(SpatialGatingUnit, seq_len=length)
            return GatedMlp(width, architecture.hidden(branch), gate_layer=gate, drop=dropout)
        case "pooling":
            return OverTheGrid(Pooling(branch.kernel or 3), architecture.grid)
        case "convolution":
            kernel = branch.kernel or 3
            return OverTheGrid(nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width), architecture.grid)
        case "fourier":
            return Fourier()
        case "random":
            return Random(length)
        case "none":
            return nn.Identity()
