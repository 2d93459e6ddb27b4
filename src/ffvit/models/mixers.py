"""The built-in mixers. Each mixes along the middle axis of `batch length width` and returns the same shape.

A branch along patches passes tokens as they are (length = tokens, width = features); a branch along features passes them
transposed. So every mixer is written once and knows nothing of the network around it. Its row is in `config.mixers`.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from timm.layers import Attention, GatedMlp
from timm.models.mlp_mixer import SpatialGatingUnit
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.checkpoint import checkpoint

from ffvit.config.architecture import Architecture, Branch
from ffvit.config.mixers import Axis, MixerArgs, load_part


class PatchLinear(nn.Linear):
    """A linear layer along the middle axis, where the numbers of one output do not lie together in memory.

    In fp32 on a CPU the weight is the left factor, one matrix product per image: FF-base is 1.09 times as fast as with
    tokens transposed. In bf16 it is the other way round, for training above all: transposed, one product serves all
    images (docs/speed.md).
    """

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch out width"]:
        if _multiply_transposed(x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)
        return torch.baddbmm(self.bias[:, None], self.weight.expand(x.shape[0], -1, -1), x)


def _multiply_transposed(x: Tensor | Proxy) -> bool:
    """Whether products are in half precision or on another device, or a tracer or an operation counter is active.

    Exporters, fvcore and ptflops know `linear`, not `baddbmm`.
    """
    if isinstance(x, Proxy) or torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.finfo(x.dtype).bits < 32:
        return True
    return not torch.compiler.is_compiling() and is_in_torch_dispatch_mode(include_infra_modes=False)


def _linear(length: int, out: int, axis: Axis) -> nn.Linear:
    """A linear layer along the axis: of `batch length width` for patches, of `batch width length` for features."""
    return PatchLinear(length, out) if axis == "patches" else nn.Linear(length, out)


class FeedForward(nn.Module):
    """Linear, exact GELU, linear along the axis (the paper, section 2): every row of the width alike.

    Training keeps what enters the GELU and what leaves it; with `recomputes` only what enters, and the GELU again.
    """

    def __init__(self, length: int, hidden: int, axis: Axis, dropout: float) -> None:
        super().__init__()
        self.along_features = axis == "features"
        self.fc1 = _linear(length, hidden, axis)
        self.fc2 = _linear(hidden, length, axis)
        self.dropout = nn.Dropout(dropout)
        self.recomputes = False

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        # Features lie together in memory: transposed, one matrix product serves all images.
        hidden = self.fc1(x.transpose(1, 2) if self.along_features else x)
        if self.recomputes:
            y = checkpoint(self._after, hidden, use_reentrant=False, preserve_rng_state=self.dropout.p > 0)
        else:
            y = self._after(hidden)
        return y.transpose(1, 2) if self.along_features else y

    def _after(self, hidden: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows_out columns_out"]:
        if self.along_features or not _multiply_transposed(hidden):
            active = functional.gelu(hidden)
        else:  # as the numbers lie in memory: of a transposed view, compiled code makes a copy, and fuses no GELU
            active = functional.gelu(hidden.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.fc2(self.dropout(active)))


class Linear(nn.Module):
    """One matrix along the axis (ResMLP's patch layer, arXiv 2105.03404, eq. 2)."""

    def __init__(self, length: int, axis: Axis) -> None:
        super().__init__()
        self.along_features = axis == "features"
        self.fc = _linear(length, length, axis)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.fc(x.transpose(1, 2)).transpose(1, 2) if self.along_features else self.fc(x)


class Pooling(nn.Module):
    """Mean of the neighbours less the patch itself (PoolFormer, arXiv 2111.11418, eq. 4)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch width rows columns"]:
        return functional.avg_pool2d(x, self.kernel, 1, self.kernel // 2, count_include_pad=False) - x


class Toeplitz(nn.Conv2d):
    """One matrix over patches for all features, with an entry for each offset of two patches: `Linear`, but moved with the image.

    So it is a convolution with a large kernel (a two-level Toeplitz matrix), and fits every patch grid.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__(1, 1, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch width rows columns"]:
        return super().forward(x.flatten(0, 1)[:, None]).view_as(x)


class OnPatchGrid(nn.Module):
    """Lays the patches out as an image for a mixer that needs neighbours; adds nothing to a class token in front."""

    def __init__(self, mixer: nn.Module, grid: tuple[int, int]) -> None:
        super().__init__()
        self.mixer = mixer
        self.grid = grid

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        rows, columns = self.grid
        class_tokens = x.shape[1] - rows * columns
        image = x[:, class_tokens:].transpose(1, 2).unflatten(2, (rows, columns))
        return functional.pad(self.mixer(image).flatten(2).transpose(1, 2), (0, 0, class_tokens, 0))


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


class StaticAttention(nn.Module):
    """Attention whose maps are parameters, the same for every image (Synthesizer's random one, arXiv 2005.00743, section 3.1.2).

    Values and projection are those of attention; there are no queries and keys. The maps are free: no softmax makes their
    rows sum to one.
    """

    def __init__(self, length: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        bound = length**-0.5  # as PyTorch starts a linear layer over the tokens
        self.maps = nn.Parameter(torch.empty(heads, length, length).uniform_(-bound, bound))
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        values = self.value(x).unflatten(2, (self.maps.shape[0], -1)).transpose(1, 2)
        return self.dropout(self.proj((self.maps @ values).transpose(1, 2).flatten(2)))


def build_mixer(branch: Branch, architecture: Architecture, dropout: float) -> nn.Module:
    """The mixer of a branch: `batch length width` to the same shape, with `length` the axis it mixes along."""
    row, length, width = branch.row, architecture.tokens, architecture.width
    if branch.axis == "features":
        length, width = width, length
    args = MixerArgs(
        length, width, branch.axis, architecture.grid, architecture.hidden(branch), branch.heads or 1,
        architecture.kernel(branch), dropout,
    )  # fmt: skip
    mixer: nn.Module = load_part(row.build)(args)
    return OnPatchGrid(mixer, architecture.grid) if row.on_grid else mixer


# What the rows of the table build (ffvit.config.mixers).


def feed_forward(args: MixerArgs) -> nn.Module:
    """The paper's feed-forward layer, section 2."""
    return FeedForward(args.length, args.hidden, args.axis, args.dropout)


def attention(args: MixerArgs) -> nn.Module:
    """Multi-head self-attention (ViT)."""
    return Attention(args.width, num_heads=args.heads, qkv_bias=True, proj_drop=args.dropout)


def static_attention(args: MixerArgs) -> nn.Module:
    """Attention with the same maps for every image."""
    return StaticAttention(args.length, args.width, args.heads, args.dropout)


def linear(args: MixerArgs) -> nn.Module:
    """ResMLP's patch layer."""
    return Linear(args.length, args.axis)


def gmlp(args: MixerArgs) -> nn.Module:
    """GMLP's block, arXiv 2105.08050, section 2."""
    gate = partial(SpatialGatingUnit, seq_len=args.length)
    return GatedMlp(args.width, args.hidden, gate_layer=gate, drop=args.dropout)


def open_gate(mixer: GatedMlp) -> None:
    """The gate starts open: it passes everything."""
    mixer.gate.init_weights()


def pooling(args: MixerArgs) -> nn.Module:
    """PoolFormer's pooling."""
    return Pooling(args.kernel)


def convolution(args: MixerArgs) -> nn.Module:
    """A depthwise convolution over the patch grid."""
    return nn.Conv2d(args.width, args.width, args.kernel, padding=args.kernel // 2, groups=args.width)


def toeplitz(args: MixerArgs) -> nn.Module:
    """One kernel for all features."""
    return Toeplitz(args.kernel)


def fourier(_args: MixerArgs) -> nn.Module:
    """FNet's transform."""
    return Fourier()


def random(args: MixerArgs) -> nn.Module:
    """A frozen random matrix."""
    return Random(args.length)


def identity(_args: MixerArgs) -> nn.Module:
    """No mixing."""
    return nn.Identity()
