"""The parts of a network (embedding, each kind of branch, norms, head): their FLOPs, their memory traffic, their time.

A part is all modules of its kind, over all blocks. What is in none of them is `rest`: residual sums, the class token,
positions, the readout.
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
from typing import Any, cast

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
"""Class names of norms in torch, timm and ResMLP."""

OVER_PATCHES = {"mlp_tokens": "feed-forward along patches", "linear_tokens": "linear along patches"}
"""timm's names of what mixes patches in Mixer and ResMLP."""

COPIES = {"clone", "copy_", "_to_copy", "cat", "stack", "constant_pad_nd", "roll", "index", "fill_", "zeros", "ones"}
"""Operators that move numbers and compute nothing."""

VIEWS = {"_unsafe_view", "detach", "empty", "empty_like", "new_empty", "_reshape_alias"}
"""Operators that move nothing, besides those that torch marks as views."""

NORM_OPERATORS = {"native_layer_norm", "native_group_norm", "native_batch_norm", "cudnn_batch_norm", "_fused_rms_norm"}
NORM_FLOPS = 7
"""For each number: one for the mean, three for the variance (less mean, square, sum), three to scale by the deviation, scale by
the weight and shift."""


@dataclass(frozen=True)
class Work:
    """What something computes and moves for a batch.

    Attributes:
        flops: Of matrix products, convolutions and attention, as torch counts them (a multiply-add is two).
        pointwise: All other FLOPs, about: seven for a number that is normalized, one for any other.
        moved: Bytes that operators read and write, weights and activations, as if no cache kept anything from one
            operator to the next.
    """

    flops: int = 0
    pointwise: int = 0
    moved: int = 0

    def __add__(self, more: Work) -> Work:
        return Work(self.flops + more.flops, self.pointwise + more.pointwise, self.moved + more.moved)

    @property
    def operations(self) -> int:
        """All FLOPs."""
        return self.flops + self.pointwise

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved."""
        return self.operations / self.moved if self.moved else 0.0


def profile_ops(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> dict[str, Work]:
    """Count what the parts of a network compute and move in a forward pass, in the order in which they run.

    The operators are those that really run: on the network's device, with its attention kernel, and under autocast if this
    is called under it. The sum of `flops` over the parts is what torch's `FlopCounterMode` counts.

    Args:
        network: In evaluation mode. On the device `meta` nothing is computed.
        images: A batch. Weights are read once a batch, so FLOPs per byte rise with its size.
    """
    work: dict[str, Work] = defaultdict(Work)
    part = REST

    def enter(name: str) -> None:
        nonlocal part
        part = name

    def add(more: Work) -> None:
        work[part] += more

    with torch.no_grad(), _watch_parts(network, enter), _OperatorCounter(add):
        network(images)
    return dict(work)


def seconds_by_part(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> dict[str, float]:
    """Time the parts of a network in one forward pass, as PyTorch runs it operator by operator.

    Args:
        network: In evaluation mode, not compiled, on the device to measure.
        images: A batch.
    """
    on_gpu = images.device.type == "cuda"
    marks: list[tuple[str, Any]] = []

    def mark(part: str) -> None:
        if on_gpu:  # in the GPU's own queue, so that nothing waits
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append((part, event))
        else:
            marks.append((part, time.perf_counter()))

    with torch.inference_mode(), _watch_parts(network, mark):
        mark(REST)
        network(images)
        mark(REST)
    if on_gpu:
        torch.cuda.synchronize()
    seconds: dict[str, float] = defaultdict(float)
    for (part, start), (_, end) in pairwise(marks):
        seconds[part] += start.elapsed_time(end) / 1e3 if on_gpu else end - start
    return dict(seconds)


@contextmanager
def _watch_parts(network: nn.Module, enter: Callable[[str], None]) -> Iterator[None]:
    """While the network runs, report the part that is entered, or returned to."""
    inside = [REST]

    def enter_part(part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            inside.append(part)
            enter(part)

        return hook

    def leave_part(*_: Any) -> None:
        inside.pop()
        enter(inside[-1])

    hooks = []
    for module, part in part_by_module(network).items():
        hooks += [module.register_forward_pre_hook(enter_part(part)), module.register_forward_hook(leave_part)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def part_by_module(network: nn.Module) -> dict[nn.Module, str]:
    """The name of the part for each module that is one; modules inside a part belong to it, except norms."""
    parts: dict[nn.Module, str] = {}
    open_modules = {module: path for path, module in network.named_modules() if module is not network}

    def assign(module: nn.Module, part: str) -> None:
        if module in open_modules:
            parts[module] = part
            for inner in module.modules():
                open_modules.pop(inner, None)

    for module, path in list(open_modules.items()):
        if NORM.match(type(module).__name__):
            assign(module, "norms")
        elif isinstance(network, Backbone) and isinstance(module, ResidualBranch):
            block, number = map(int, path.split(".")[1:3])
            branch = network.architecture.blocks[block][number]
            assign(module.mixer, f"{branch.mixer.replace('feedforward', 'feed-forward')} along {branch.axis}")
    for module, part in _embedding_and_head(network):
        assign(module, part)
    attention = {
        module: f"attention along {axis}"
        for module, axis in attention_modules(network).items()
        if type(module).__name__ not in WITH_MLP
    }
    for module, path in list(open_modules.items()):
        kind = attention.get(module) or OVER_PATCHES.get(path.rpartition(".")[2]) or _kind(module)
        if kind is not None:
            assign(module, kind)
    return parts


def _embedding_and_head(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    first = (getattr(network, "pretrained_cfg", None) or {}).get("first_conv") or "patch_embed.proj"
    for path in [first] if isinstance(first, str) else first:
        embedding = path.split(".")[0]
        if hasattr(network, embedding):
            yield network.get_submodule(embedding), "embedding"
    head: Any = cast("Any", network).get_classifier() if hasattr(network, "get_classifier") else None
    for module in head if isinstance(head, tuple) else [head]:
        if isinstance(module, nn.Module):
            yield module, "head"


def _kind(module: nn.Module) -> str | None:
    """The part that the class of a module tells."""
    name = type(module).__name__
    if name == "GatedMlp":  # gMLP's
        return "gating along patches"
    if name.endswith("Mlp"):
        return "feed-forward along features"
    if isinstance(module, nn.Conv2d):
        return "convolutions"
    return "linear" if isinstance(module, nn.Linear) else None


class _OperatorCounter(TorchDispatchMode):
    """Reports what every operator that runs computes and moves."""

    def __init__(self, add: Callable[[Work], None]) -> None:
        super().__init__()
        self.add = add

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Under counters that know fewer operators `PatchLinear` runs other ones; under this one it need not."""
        return True

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operator = func.overloadpacket.__name__
        if not func.is_view and operator not in VIEWS:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            flops = _matmul_flops(func.overloadpacket, operator, args, kwargs, result)
            pointwise = 0
            if operator in NORM_OPERATORS:
                pointwise = NORM_FLOPS * inputs[0].numel()
            elif not flops and operator not in COPIES:
                pointwise = max((tensor.numel() for tensor in (*inputs, *outputs)), default=0)
            self.add(Work(flops, pointwise, sum(map(_bytes, (*inputs, *outputs)))))
        return result


def _matmul_flops(packet: Any, operator: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    if operator.startswith("_scaled_dot_product"):  # a kernel for which this torch has no formula
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    return 0


def _bytes(tensor: Tensor) -> int:
    """Of a tensor; a number that is expanded counts once."""
    numbers = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return numbers * tensor.element_size()
