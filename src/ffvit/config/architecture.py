"""What a network is: a stack of residual branches, each a mixer along an axis.

| | over patches | over features |
|---|---|---|
| ViT, DeiT | attention | feed-forward |
| the paper (FF only) | feed-forward | feed-forward |
| the paper, section 3.4 (attention only) | attention | attention |

An `Architecture` is a value: frozen, checked, comparable, printed as YAML, with no tensor library in it. An ablation
changes one field of it. "The paper" is L. Melas-Kyriazi, Do You Even Need Attention?, arXiv 2105.02723.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from ffvit.config.base import Value
from ffvit.config.mixers import SETTINGS, Axis, Mixer, find_mixer

Side = Annotated[int, Field(gt=0, le=2**15)]
Pair = tuple[Side, Side]


class Branch(Value):
    """One residual branch, `x + mixer(norm(x))`, with the mixer along one axis.

    Args:
        mixer: What mixes.
        axis: Along which axis it mixes: the tokens (`patches`, the class token among them) or the `features`.
        norm: The axis LayerNorm runs over, or `none`. Default: the axis whose vectors the mixer's first matrix reads,
            as in the paper: a feed-forward layer along patches reads vectors of patches; attention along patches
            reads vectors of features.
        ratio: Hidden size as a multiple of what the mixer's first matrix reads (default: 4; 6 for gMLP, half of which is
            the gate).
        hidden: Hidden size as a number instead. Along patches a fixed number makes the cost linear in the number of
            patches (the paper, section 3.5).
        heads: Attention heads; they divide the vectors, which along patches are the features.
        kernel: Side of the square of patches that pooling or a convolution sees (default 3; Toeplitz: the whole grid from
            every patch), odd.
    """

    mixer: str
    axis: Axis
    norm: Literal["patches", "features", "none"] | None = None
    ratio: Annotated[float, Field(gt=0, le=1000)] | None = None
    hidden: Annotated[int, Field(gt=0, le=2**24)] | None = None
    heads: PositiveInt | None = None
    kernel: Side | None = None

    def __init__(self, mixer: str | None = None, axis: str | None = None, **fields: Any) -> None:
        # Any string: which are right is checked below, with words.
        named = {"mixer": mixer, "axis": axis}
        super().__init__(**{name: value for name, value in named.items() if value is not None}, **fields)

    @field_validator("mixer")
    @classmethod
    def _by_import_path(cls, name: str) -> str:
        row = find_mixer(name)
        return row.path or row.name

    @model_validator(mode="after")
    def _consistent(self) -> Branch:
        row = self.row
        for name in SETTINGS:
            if getattr(self, name) is not None and name not in row.settings:
                raise ValueError(
                    f"{name} means nothing to the mixer {row.name!r}"
                    + (f", which has {', '.join(row.settings)}" if row.settings else ", which has no settings")
                )
        if self.ratio is not None and self.hidden is not None:
            raise ValueError("ratio and hidden both set the hidden size: give one")
        if self.kernel is not None and self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, to have a patch at its centre; got {self.kernel}")
        if self.axis not in row.axes:
            why = (
                ": it needs neighbours in the patch grid, and the order of features is arbitrary" if row.on_grid else ""
            )
            raise ValueError(f"{row.name} along {self.axis} means nothing{why}. Use axis {row.axes[0]!r}")
        return self

    @property
    def row(self) -> Mixer:
        """What is known of the mixer."""
        return find_mixer(self.mixer)

    @property
    def normalised_axis(self) -> Literal["patches", "features", "none"]:
        """The axis LayerNorm runs over, the default filled in."""
        return self.norm or self.row.read_axis(self.axis)

    @property
    def mixes_patches(self) -> bool:
        """Whether what one patch holds can reach every token, the class token among them, through this branch."""
        return self.row.mixes_patches(self.axis)


class Replacement(Value):
    """Blocks of a network that differ from the others.

    Args:
        blocks: Their numbers, counted from 0.
        block: Their branches, in order.
    """

    blocks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    block: Annotated[tuple[Branch, ...], Field(min_length=1)]


class Architecture(Value):
    """A network: patches, a stack of blocks of branches, a readout.

    Args:
        width: Features a token.
        depth: Number of blocks.
        block: The branches of a block, in order.
        replaced: Blocks that differ, as where attention was taken out of some of them (`ffvit convert`). Default: all are `block`.
        img_size: Height and width of the image in pixels; one number for a square.
        patch: Height and width of a patch in pixels; one number for a square.
        in_chans: Channels of the image.
        num_classes: Number of classes; 0 for a network without a head.
        readout: What the head reads: the `class token` or the `mean` over patches.
        position: A `map` of the patch grid, resized bilinearly to it, with a vector for the class token (the paper);
            one of the `vectors` for every token (ViT); fixed 2-D sine-cosine vectors (`sincos`, MoCo v3); or `none`.
        position_grid: Height and width of the position map; default: the patch grid. The paper's is 14 x 14 throughout.
        position_std: Standard deviation that learned positions start with; the paper's and ViT's is 0.02. Where it is far
            below that of the patch embeddings, attention starts almost blind to position.
        init: Initial weights of linear layers: the `paper`'s (truncated normal of 0.02, zero biases) or `pytorch`'s own.
    """

    width: Annotated[int, Field(gt=0, le=2**17)]
    depth: Annotated[int, Field(gt=0, le=1000)]
    block: tuple[Branch, ...]
    replaced: tuple[Replacement, ...] | None = None
    img_size: Pair = (224, 224)
    patch: Pair = (16, 16)
    in_chans: Side = 3
    num_classes: Annotated[int, Field(ge=0, le=10**8)] = 1000
    readout: Literal["class_token", "mean"] = "class_token"
    position: Literal["map", "vectors", "sincos", "none"] = "map"
    position_grid: Pair | None = None
    position_std: Annotated[float, Field(gt=0)] = 0.02
    init: Literal["paper", "pytorch"] = "paper"

    @field_validator("img_size", "patch", "position_grid", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _consistent(self) -> Architecture:
        if not self.block:
            raise ValueError("block: a block needs at least one branch")
        for side, pixels, patch in zip(("height", "width"), self.img_size, self.patch, strict=True):
            if pixels % patch:
                below, above = pixels // patch * patch, (pixels // patch + 1) * patch
                fits = f"{below} or {above}" if below else f"{above}"
                raise ValueError(
                    f"img_size: {side} {pixels} is no multiple of the patch's {patch}; the nearest is {fits}"
                )
        for number, branch in enumerate(self.block):
            self._check_branch(branch, f"block.{number}")
        self._check_replaced()
        if self.readout == "class_token" and not any(branch.mixes_patches for block in self.blocks for branch in block):
            raise ValueError(
                "readout: nothing in this block brings what the patches hold to the class token, so it would answer "
                "the same for every image; use readout 'mean'"
            )
        if self.position_grid is not None and self.position != "map":
            raise ValueError(f"position_grid is the size of a position map; position is {self.position!r}")
        if self.position == "sincos" and self.width % 4:
            raise ValueError(f"position: sincos needs a width that 4 divides; got {self.width}")
        return self

    def _check_replaced(self) -> None:
        numbers = [number for change in self.replaced or () for number in change.blocks]
        if repeated := sorted({number for number in numbers if numbers.count(number) > 1}):
            raise ValueError(f"replaced: block {repeated[0]} is there twice")
        if numbers and max(numbers) >= self.depth:
            raise ValueError(f"replaced: there are blocks 0 to {self.depth - 1}; got {max(numbers)}")
        for place, change in enumerate(self.replaced or ()):
            for number, branch in enumerate(change.block):
                self._check_branch(branch, f"replaced.{place}.block.{number}")

    def _check_branch(self, branch: Branch, where: str) -> None:
        along_patches, multiple = branch.axis == "patches", branch.row.hidden_multiple
        if branch.heads is not None and (self.width if along_patches else self.tokens) % branch.heads:
            vectors = f"width {self.width}" if along_patches else f"number of tokens {self.tokens}"
            advice = "" if along_patches else "; along features use 1 head"
            raise ValueError(f"{where}.heads: {branch.heads} heads do not divide the {vectors}{advice}")
        if self.hidden(branch) % multiple:
            raise ValueError(
                f"{where}.hidden: the hidden size of {branch.row.name} must be a multiple of {multiple}; "
                f"got {self.hidden(branch)}"
            )

    @property
    def blocks(self) -> tuple[tuple[Branch, ...], ...]:
        """The branches of every block, from the first to the last."""
        other = {number: change.block for change in self.replaced or () for number in change.blocks}
        return tuple(other.get(number, self.block) for number in range(self.depth))

    def with_blocks(self, blocks: Sequence[tuple[Branch, ...]]) -> Architecture:
        """The same network with these blocks, as many as it has.

        Raises:
            UserError: They do not fit it.
        """
        numbers: dict[tuple[Branch, ...], list[int]] = {}
        for number, block in enumerate(blocks):
            if block != self.block:
                numbers.setdefault(block, []).append(number)
        replaced = tuple(Replacement(blocks=tuple(places), block=block) for block, places in numbers.items())
        return self.replace(replaced=replaced or None)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size[0] // self.patch[0], self.img_size[1] // self.patch[1]

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Number of tokens: the patches and, with that readout, the class token in front of them."""
        return self.patches + (self.readout == "class_token")

    def kernel(self, branch: Branch) -> int:
        """Side of the square of patches that a branch sees in this network, in patches."""
        return branch.kernel or branch.row.kernel or 2 * max(self.grid) - 1

    def hidden(self, branch: Branch) -> int:
        """Hidden size of a branch in this network."""
        if branch.hidden is not None:
            return branch.hidden
        row = branch.row
        read = self.tokens if row.read_axis(branch.axis) == "patches" else self.width
        if branch.ratio is not None:
            return max(1, int(read * branch.ratio))
        size = max(1, int(read * row.hidden_ratio))
        return size + -size % row.hidden_multiple


class Network(Value):
    """What it takes to build a network again: its architecture if it is ours, or its name and sizes if it is timm's."""

    name: str | None = None
    architecture: Architecture | None = None
    num_classes: Annotated[int, Field(ge=0, le=10**8)] | None = None
    in_chans: Side | None = None
    img_size: Pair | None = None

    @property
    def title(self) -> str:
        """What to call it before people."""
        return self.name or "custom"


# The named networks. Sizes: the paper, Table 1 (tiny and base are DeiT's; large is ViT-L).

FF_ONLY = (Branch("feedforward", "features"), Branch("feedforward", "patches"))
"""The paper's block, as released: features first, patches second, the second norm over the tokens."""


def transformer(heads: int) -> tuple[Branch, ...]:
    """ViT's block: attention over patches, feed-forward over features."""
    return Branch("attention", "patches", heads=heads), Branch("feedforward", "features")


def attention_only(heads: int) -> tuple[Branch, ...]:
    """The paper's section 3.4: attention over patches, then over features, where the tokens' values are the vectors."""
    return Branch("attention", "patches", heads=heads), Branch("attention", "features", heads=1)


_RELEASED_MAP: dict[str, Any] = {"position": "map", "position_grid": (14, 14)}
_MICRO: dict[str, Any] = {"width": 64, "depth": 4, "img_size": 8, "patch": 2, "in_chans": 1, "num_classes": 10}

NAMED: dict[str, Architecture] = {
    "ff_tiny_patch16_224": Architecture(width=192, depth=12, block=FF_ONLY, **_RELEASED_MAP),
    "ff_small_patch16_224": Architecture(width=384, depth=12, block=FF_ONLY, **_RELEASED_MAP),
    "ff_base_patch16_224": Architecture(width=768, depth=12, block=FF_ONLY, **_RELEASED_MAP),
    "ff_large_patch32_224": Architecture(width=1024, depth=24, block=FF_ONLY, patch=32, **_RELEASED_MAP),
    "attention_only_tiny_patch16_224": Architecture(
        width=192, depth=12, block=attention_only(heads=3), position="vectors"
    ),
    "ff_micro_patch2_8": Architecture(block=FF_ONLY, position="map", **_MICRO),
    "vit_micro_patch2_8": Architecture(block=transformer(heads=2), position="vectors", **_MICRO),
    "attention_only_micro_patch2_8": Architecture(block=attention_only(heads=2), position="vectors", **_MICRO),
}
"""Our networks by name. ViT and DeiT themselves are timm's, by timm's names."""
