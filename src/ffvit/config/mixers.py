"""The table of mixers: one row for each, with everything that is known of it. PyTorch is loaded only to build one.

A mixer from outside the package is a row too: see `register_mixer` and docs/custom_mixers.md.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ffvit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

Axis = Literal["patches", "features"]
TokenResizeMethod = Literal["pinv", "bilinear", "interpolate", "block"]
"""How weights over patches are resized to another grid (`ffvit.models.token_resize`)."""

TokenUse = Literal["read", "write", "mix", "values", "hidden"]
SETTINGS = ("hidden", "ratio", "heads", "kernel")
"""The fields of a `Branch` that a mixer may read."""

MODULES_VARIABLE = "FFVIT_MIXERS"
"""The environment variable that names modules to import before a mixer is said to be unknown."""


@dataclass(frozen=True)
class MixerArgs:
    """What a mixer is built from. It takes `batch length width`, mixes along `length`, and returns the same shape.

    Attributes:
        length: Positions along the mixer's axis: the tokens along patches, the features along features.
        width: Numbers at each position.
        axis: `patches` or `features`.
        grid: Rows and columns of patches. With `on_grid` the mixer takes `batch width rows columns` instead.
        hidden: The hidden size that the branch asks for.
        heads: Attention heads.
        kernel: Side of the square of patches that is seen, in patches.
        dropout: Rate.
    """

    length: int
    width: int
    axis: Axis
    grid: tuple[int, int]
    hidden: int
    heads: int
    kernel: int
    dropout: float


@dataclass(frozen=True)
class Mixer:
    """A row of the table.

    Attributes:
        name: What architectures call it.
        build: Makes the module: a class or function of one `MixerArgs`, or where to find one ("package.module:name").
        settings: The fields of a branch that it reads; any other is refused, so that no setting is silently without effect.
        axes: The axes it can mix along.
        reads: The axis whose vectors its first matrix reads: the mixer's `own`, the `other`, or always `features`.
            LayerNorm runs over that axis by default, and hidden sizes are multiples of its length.
        mixes_all: Whether what one position holds can reach every other position along the axis.
        on_grid: Whether it takes the patches as an image, `batch width rows columns`. A class token gets nothing then.
        is_attention: Whether it counts as attention when a study asks which arms have it.
        hidden_ratio: The hidden size by default, as a multiple of what its first matrix reads.
        hidden_multiple: What must divide the hidden size.
        kernel: The kernel by default; None: one that sees every patch from every patch.
        initialize: Runs on the module after the backbone's initialization, or where to find it.
        token_weights: What `ffvit resize` does with the weights along patches whose size goes by the number of tokens. By name,
            what they do with tokens: `read` (hidden x tokens), `write` (tokens x hidden), `mix` (tokens x tokens),
            `values` (one for each token), `hidden` (one for each hidden unit). Empty: no weight does. None: not known.
    """

    name: str
    build: Callable[[MixerArgs], nn.Module] | str
    settings: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ("patches", "features")
    reads: Literal["own", "other", "features"] = "features"
    mixes_all: bool = False
    on_grid: bool = False
    is_attention: bool = False
    hidden_ratio: float = 4.0
    hidden_multiple: int = 1
    kernel: int | None = 3
    initialize: Callable[[Any], object] | str | None = None
    token_weights: Mapping[str, TokenUse] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.settings if name not in SETTINGS]
        if unknown:
            raise ConfigError(
                f"mixer {self.name!r}: settings must be of {', '.join(SETTINGS)}; got {unknown[0]!r}"
                f"{did_you_mean(unknown[0], SETTINGS)}"
            )
        if self.on_grid and self.axes != ("patches",):
            raise ConfigError(f"mixer {self.name!r}: features form no grid: with on_grid, axes must be ('patches',)")

    @property
    def path(self) -> str | None:
        """Where other processes can import an outside mixer from; None if they cannot, and for the built-in ones."""
        module, name = getattr(self.build, "__module__", "__main__"), getattr(self.build, "__qualname__", "<locals>")
        if isinstance(self.build, str) or module == "__main__" or "<locals>" in name:
            return None
        return f"{module}:{name}"

    @property
    def is_built_in(self) -> bool:
        """Whether it is of this package."""
        return self in _TABLE

    def read_axis(self, axis: Axis) -> Axis:
        """The axis whose vectors the first matrix reads, where the mixer runs along `axis`."""
        other: Axis = "features" if axis == "patches" else "patches"
        by_word: dict[str, Axis] = {"own": axis, "other": other, "features": "features"}
        return by_word[self.reads]

    def mixes_patches(self, axis: Axis) -> bool:
        """Whether what one patch holds can reach every token, the class token among them."""
        return self.mixes_all if axis == "patches" else self.read_axis(axis) == "patches"


_LAYERS = "ffvit.models.mixers"
_TABLE = (
    Mixer(
        "feedforward", f"{_LAYERS}:feed_forward", ("hidden", "ratio"), reads="own", mixes_all=True,
        token_weights={"fc1.weight": "read", "fc1.bias": "hidden", "fc2.weight": "write", "fc2.bias": "values"},
    ),
    Mixer(
        "attention", f"{_LAYERS}:attention", ("heads",), reads="other", mixes_all=True, is_attention=True,
        token_weights={},
    ),
    Mixer(
        "static_attention", f"{_LAYERS}:static_attention", ("heads",), axes=("patches",), reads="other", mixes_all=True,
        token_weights={"maps": "mix"},
    ),
    Mixer(
        "linear", f"{_LAYERS}:linear", reads="own", mixes_all=True,
        token_weights={"fc.weight": "mix", "fc.bias": "values"},
    ),
    Mixer(
        "gmlp", f"{_LAYERS}:gmlp", ("hidden", "ratio"), reads="other", mixes_all=True,
        hidden_ratio=6.0, hidden_multiple=2, initialize=f"{_LAYERS}:open_gate",
        token_weights={"gate.proj.weight": "mix", "gate.proj.bias": "values"},
    ),
    Mixer("pooling", f"{_LAYERS}:pooling", ("kernel",), axes=("patches",), on_grid=True, token_weights={}),
    Mixer("convolution", f"{_LAYERS}:convolution", ("kernel",), axes=("patches",), on_grid=True, token_weights={}),
    Mixer(
        "toeplitz", f"{_LAYERS}:toeplitz", ("kernel",), axes=("patches",), on_grid=True, kernel=None, token_weights={}
    ),
    Mixer("fourier", f"{_LAYERS}:fourier", mixes_all=True, token_weights={}),
    Mixer("random", f"{_LAYERS}:random", reads="own", mixes_all=True, token_weights={"matrix": "mix"}),
    Mixer("identity", f"{_LAYERS}:identity", token_weights={}),
)  # fmt: skip

MIXERS: dict[str, Mixer] = {row.name: row for row in _TABLE}
"""The table by name; `register_mixer` adds to it."""

_imports_refused: ContextVar[bool] = ContextVar("imports_refused", default=False)


def register_mixer(mixer: Mixer) -> None:
    """Add a mixer of your own to the table; a row of the same name that you registered before is replaced.

    If `mixer.build` can be imported from a module, architectures store it by that path ("package.module:Class"), so that
    other processes find it by themselves.

    Raises:
        UserError: The name is that of a built-in mixer.
    """
    if mixer.name in {row.name for row in _TABLE}:
        raise ConfigError(f"a built-in mixer is called {mixer.name!r}: choose another name")
    MIXERS[mixer.name] = mixer


def find_mixer(name: str) -> Mixer:
    """The row of a mixer, by its name or by the path it is imported from ("package.module:Class").

    Raises:
        UserError: There is none, it cannot be imported, or `refuse_imports` forbids to import it.
    """
    row = _registered(name)
    if row is None:
        for module in filter(None, os.environ.get(MODULES_VARIABLE, "").split(",")):
            _imported(module, MODULES_VARIABLE)
        row = _registered(name)
    if row is None and ":" not in name:
        raise ConfigError(
            f"no mixer is called {name!r}{did_you_mean(name, MIXERS)} (there are: {', '.join(MIXERS)}). One of your own "
            "must be registered in this process (docs/custom_mixers.md)"
        )
    if row is None:
        module = name.partition(":")[0]
        if _imports_refused.get():
            raise ConfigError(
                f"these weights ask to import {name!r}, which would run its code. If you trust it, import it first "
                f"(Python: import {module}; command line: {MODULES_VARIABLE}={module} ffvit ...)"
            )
        build = _imported(name, "mixer")
        row = next((row for row in MIXERS.values() if row.build is build), None)
        if row is None:
            raise ConfigError(f"{name} is no mixer: its module must register it (docs/custom_mixers.md)")
    return row


def _registered(name: str) -> Mixer | None:
    return MIXERS.get(name) or next((row for row in MIXERS.values() if row.path == name), None)


def _imported(path: str, what: str) -> Any:
    try:
        return pkgutil.resolve_name(path) if ":" in path else importlib.import_module(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} {path!r} cannot be imported: {error}") from None


def load_part(part: Callable[..., Any] | str) -> Callable[..., Any]:
    """A function or class of a row, imported if the row only says where it is."""
    found: Callable[..., Any] = pkgutil.resolve_name(part) if isinstance(part, str) else part
    return found


@contextmanager
def refuse_imports() -> Iterator[None]:
    """Within this block a mixer is used only if it was imported before: for what a file of weights says of itself."""
    token = _imports_refused.set(True)
    try:
        yield
    finally:
        _imports_refused.reset(token)
