"""The parts of a network: embedding, each kind of branch, norms, head; what each computes, moves and takes.

A part is every place of its kind taken together, over all blocks. What is in none of them is `rest`: residual sums, the
class token, positions, the readout.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ffvit.models.attention import WITH_MLP, attention_modules
from ffvit.models.backbone import Backbone, ResidualBranch

REST = "rest"

NORM = re.compile(r"(layer|batch|group|rms|instance)norm|affine", re.IGNORECASE)
"""Modules that normalise, in torch, timm and ResMLP."""

OVER_PATCHES = {"mlp_tokens": "feed-forward along patches", "linear_tokens": "linear along patches"}
"""timm's names of what mixes patches in Mixer and ResMLP."""

MOVES = {"clone", "copy_", "_to_copy", "cat", "stack", "constant_pad_nd", "roll", "index", "fill_", "zeros", "ones"}
"""Operators that only move numbers."""

VIEWS = {"_unsafe_view", "detach", "empty", "empty_like", "new_empty", "_reshape_alias"}
"""Operators that do not even do that, beside those that torch knows for views."""

NORMS = {"native_layer_norm", "native_group_norm", "native_batch_norm", "cudnn_batch_norm", "_fused_rms_norm"}
NORM_OPERATIONS = 7
"""A number that is normalised: one for the mean, three for the variance (less mean, square, sum), three to scale it (by
the deviation, by the weight) and shift it."""


@dataclass(frozen=True)
class Work:
    """What something computes and moves for a batch.

    Attributes:
        flops: Operations of matrix products, convolutions and attention, as torch counts them (a multiply-add is two).
        pointwise: All others, about: seven a number that is normalised, one a number of everything else.
        moved: Bytes that its operators read and write, weights and activations, each operator by itself: what goes to
            and from memory if no cache keeps anything for the next one.
    """

    flops: int = 0
    pointwise: int = 0
    moved: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.pointwise + other.pointwise, self.moved + other.moved)

    @property
    def operations(self) -> int:
        """All of them."""
        return self.flops + self.pointwise

    @property
    def intensity(self) -> float:
        """Operations a byte moved."""
        return self.operations / self.moved if self.moved else 0.0


def profile_ops(
    network: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    by: Literal["part", "operator"] = "part",
) -> dict[str, Work]:
    """Count what a prediction computes and moves, by part or by operator, in the order in which they come.

    The operators are those that run: on the network's device, with the kernel of attention that it has, and under
    autocast if this is called under it. The sum of `flops` over the parts is what torch's `FlopCounterMode` counts.

    Args:
        network: In evaluation mode. On the device `meta` nothing is computed.
        images: A batch. Weights are read once a batch, so that operations a byte rise with its size.
        by: What is told apart.
    """
    found: dict[str, Work] = defaultdict(Work)
    part = REST

    def enter(name: str) -> None:
        nonlocal part
        part = name

    def note(operator: str, work: Work) -> None:
        found[part if by == "part" else operator] += work

    with torch.no_grad(), _entering_parts(network, enter), _Ledger(note):
        network(images)
    return dict(found)


def seconds_by_part(
    network: nn.Module, images: Float[Tensor, "batch channels height width"], passes: int
) -> dict[str, list[float]]:
    """Time each part within predictions as they run operator by operator: seconds of each pass, by part.

    Args:
        network: In evaluation mode, not compiled, on the device to measure.
        images: A batch.
        passes: How many, after one that warms up.
    """
    clock = _gpu_clock if images.device.type == "cuda" else _processor_clock
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(passes + 1):
        with torch.inference_mode(), clock() as (lap, read), _entering_parts(network, lap):
            lap(REST)
            network(images)
            lap(REST)
        if turn:
            for name, seconds in read().items():
                found[name].append(seconds)
    return dict(found)


def part_by_module(network: nn.Module) -> dict[nn.Module, str]:
    """The part that each module is, where it is one; what lies within a part belongs to it, norms apart."""
    parts: dict[nn.Module, str] = {}
    untaken = {module: path for path, module in network.named_modules() if module is not network}

    def take(module: nn.Module, part: str) -> None:
        if module in untaken:
            parts[module] = part
            for each in module.modules():
                untaken.pop(each, None)

    for module, path in list(untaken.items()):
        if NORM.match(type(module).__name__):
            take(module, "norms")
        elif isinstance(network, Backbone) and isinstance(module, ResidualBranch):
            branch = network.architecture.block[int(path.split(".")[2])]
            take(module.mixer, f"{branch.row.name.replace('feedforward', 'feed-forward')} along {branch.axis}")
    for module, part in _ends(network):
        take(module, part)
    attention = {
        module: f"attention along {axis}"
        for module, axis in attention_modules(network).items()
        if type(module).__name__ not in WITH_MLP
    }
    for module, path in list(untaken.items()):
        kind = attention.get(module) or OVER_PATCHES.get(path.rpartition(".")[2]) or _kind(module)
        if kind is not None:
            take(module, kind)
    return parts


def _ends(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """What takes the image in, and what gives the answer."""
    first = (getattr(network, "pretrained_cfg", None) or {}).get("first_conv") or "patch_embed.proj"
    for path in [first] if isinstance(first, str) else first:
        whole = path.split(".")[0]
        if hasattr(network, whole):
            yield network.get_submodule(whole), "embedding"
    head: Any = cast("Any", network).get_classifier() if hasattr(network, "get_classifier") else None
    for module in head if isinstance(head, tuple) else [head]:
        if isinstance(module, nn.Module):
            yield module, "head"


def _kind(module: nn.Module) -> str | None:
    """A part that can be told by the class of its module."""
    name = type(module).__name__
    if name == "GatedMlp":  # gMLP's
        return "gating along patches"
    if name.endswith("Mlp"):
        return "feed-forward along features"
    if isinstance(module, nn.Conv2d):
        return "convolutions"
    return "linear" if isinstance(module, nn.Linear) else None


@contextmanager
def _entering_parts(network: nn.Module, enter: Callable[[str], None]) -> Iterator[None]:
    """While the network runs, tell the part that is entered, and the one that is come back to."""
    inside = [REST]

    def before(part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            inside.append(part)
            enter(part)

        return hook

    def after(*_: Any) -> None:
        inside.pop()
        enter(inside[-1])

    hooks = []
    for module, part in part_by_module(network).items():
        hooks += [module.register_forward_pre_hook(before(part)), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Ledger(TorchDispatchMode):
    """Tells what every operator that runs computes and moves."""

    def __init__(self, note: Callable[[str, Work], None]) -> None:
        super().__init__()
        self.note = note

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Layers that run other operators under counters that know fewer (`PatchLinear`) need not do so under this one."""
        return True

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operator = func.overloadpacket.__name__
        if not func.is_view and operator not in VIEWS:
            given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
            flops = _flops(func.overloadpacket, operator, args, kwargs, result)
            pointwise = 0
            if operator in NORMS:
                pointwise = NORM_OPERATIONS * given[0].numel()
            elif not flops and operator not in MOVES:
                pointwise = max((each.numel() for each in (*given, *made)), default=0)
            self.note(operator, Work(flops, pointwise, sum(map(_bytes, (*given, *made)))))
        return result


def _flops(packet: Any, operator: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if operator.startswith("_scaled_dot_product"):  # a kernel that an older torch has no formula for
        return int(sdpa_flop_count(*(each.shape for each in args[:3])))
    return 0


def _bytes(tensor: Tensor) -> int:
    """Of a tensor, each number once, even where it is expanded."""
    numbers = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return numbers * tensor.element_size()


Lap = Callable[[str], None]
Read = Callable[[], dict[str, float]]


@contextmanager
def _processor_clock() -> Iterator[tuple[Lap, Read]]:
    laps: list[tuple[str, float]] = []

    def read() -> dict[str, float]:
        return _between(laps, lambda one, other: other - one)

    yield lambda part: laps.append((part, time.perf_counter())), read


@contextmanager
def _gpu_clock() -> Iterator[tuple[Lap, Read]]:
    """Marks in the GPU's own queue, so that nothing waits."""
    laps: list[tuple[str, Any]] = []

    def lap(part: str) -> None:
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        laps.append((part, mark))

    def read() -> dict[str, float]:
        torch.cuda.synchronize()
        return _between(laps, lambda one, other: one.elapsed_time(other) / 1e3)

    yield lap, read


def _between(laps: list[tuple[str, Any]], seconds: Callable[[Any, Any], float]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for (part, began), (_, ended) in pairwise(laps):
        found[part] += seconds(began, ended)
    return dict(found)
