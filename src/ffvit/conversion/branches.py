"""The branches of a backbone that attend over patches: where they are, what enters and leaves them, what can take their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffvit.config.architecture import Branch
from ffvit.errors import ConfigError, ModelError
from ffvit.models.backbone import Backbone, ResidualBranch
from ffvit.models.description import preprocess_of, set_preprocess
from ffvit.models.vit_conversion import backbone_of_vit
from ffvit.models.weights import check_finite

Kind = Literal["static", "linear", "pooling", "identity", "attention"]
"""What takes the place of attention: the same maps for every image, one matrix, pooling, nothing, or attention afresh."""

Tokens = Float[Tensor, "batch tokens width"]


class Place(NamedTuple):
    """Where a branch is: its block, and its place in the block, counted from 0."""

    block: int
    branch: int


def as_backbone(network: nn.Module) -> Backbone:
    """The network as a `Backbone`: itself, or a copy of a plain ViT or DeiT of timm's.

    Raises:
        UserError: It is another network, has no attention over patches, or has weights that are not finite.
    """
    check_finite(network, "this network")
    backbone = network if isinstance(network, Backbone) else backbone_of_vit(network)
    if not attention_places(backbone):
        raise ModelError("this network has no attention over patches, so there is nothing to convert")
    return backbone


def attention_places(network: Backbone) -> list[Place]:
    """The branches with attention over patches, from the first to the last."""
    return [
        Place(block, number)
        for block, body in enumerate(network.architecture.blocks)
        for number, branch in enumerate(body)
        if branch.row.is_attention and branch.axis == "patches"
    ]


def branch_at(network: Backbone, place: Place) -> ResidualBranch:
    """The residual branch there."""
    block: Any = network.blocks[place.block]
    branch: ResidualBranch = block[place.branch]
    return branch


def substitute(kind: Kind, attention: Branch) -> Branch | None:
    """The branch that takes the place of attention, its norm kept; None: the branch is left out."""
    norm = attention.norm or "features"
    match kind:
        case "identity":
            return None
        case "attention":
            return attention
        case "static":
            return Branch("static_attention", "patches", norm=attention.norm, heads=attention.heads)
        case _:
            return Branch(kind, "patches", norm=norm)


def with_branch(network: Backbone, place: Place, branch: Branch | None, mixer: nn.Module | None = None) -> Backbone:
    """A copy of a network with another branch in one place, or with none there.

    Args:
        network: Stays as it is.
        place: Of the branch that goes.
        branch: The one that comes.
        mixer: Its mixer. Default: one with initial weights.

    Raises:
        UserError: The network cannot be built, as where nothing would reach the class token any more.
    """
    blocks = list(network.architecture.blocks)
    body = list(blocks[place.block])
    body[place.branch : place.branch + 1] = [branch] if branch else []
    blocks[place.block] = tuple(body)
    try:
        architecture = network.architecture.with_blocks(blocks)
    except ConfigError as error:
        raise ModelError(f"block {place.block} cannot be changed: {error}") from None
    changed: Any = Backbone(architecture)
    if mixer is not None:
        changed.blocks[place.block][place.branch].mixer = mixer
    kept = dict(_kept(network, place, removed=branch is None))
    _, unexpected = changed.load_state_dict(kept, strict=False)
    assert not unexpected, unexpected  # the new branch keeps the norm of the old one
    set_preprocess(changed, preprocess_of(network))
    changed.class_names = getattr(network, "class_names", None)
    built: Backbone = changed.eval()
    return built


def _kept(network: Backbone, place: Place, removed: bool) -> Iterator[tuple[str, Tensor]]:
    """The weights that stay, under their new names: behind a branch that goes, the others move up."""
    for name, tensor in network.state_dict().items():
        parts = name.split(".")
        if parts[0] != "blocks" or int(parts[1]) != place.block:
            yield name, tensor
            continue
        number, rest = int(parts[2]), parts[3:]
        if number == place.branch and (removed or rest[0] == "mixer"):
            continue
        yield ".".join([*parts[:2], str(number - (removed and number > place.branch)), *rest]), tensor


class Nothing(nn.Module):
    """A mixer that adds nothing: the branch is as good as removed."""

    def forward(self, x: Tokens) -> Tokens:
        """Zeros."""
        return torch.zeros_like(x)


@contextmanager
def mixers_in(network: Backbone, mixers: Sequence[tuple[Place, nn.Module]]) -> Iterator[Backbone]:
    """The network itself with other mixers; afterwards it has its own again."""
    own = [(place, branch_at(network, place).mixer) for place, _ in mixers]
    for place, mixer in mixers:
        branch_at(network, place).mixer = mixer
    try:
        yield network
    finally:
        for place, mixer in own:
            branch_at(network, place).mixer = mixer


@torch.no_grad()
def visit_mixers(
    network: Backbone,
    places: Sequence[Place],
    batches: Iterable[Float[Tensor, "_ channels height width"]],  # the last one may be smaller
    visit: Callable[[Place, Tokens, Tokens], None],
) -> None:
    """Call `visit` with what enters and what leaves the mixer in each place, batch by batch."""

    def visit_at(place: Place) -> Callable[[nn.Module, tuple[Tokens, ...], Tokens], None]:
        def hook(_: nn.Module, args: tuple[Tokens, ...], output: Tokens) -> None:
            visit(place, args[0], output)

        return hook

    handles = [branch_at(network, place).mixer.register_forward_hook(visit_at(place)) for place in places]
    try:
        for images in batches:
            network(images)
    finally:
        for handle in handles:
            handle.remove()
