"""Alternatives for the same computation, of which one was kept: `python benchmarks/alternatives.py`.

The feed-forward branch along patches, forward, and forward and backward: on transposed tokens as in the paper's code
(kept in bf16), with the matrix on the left (kept in fp32), by einsum, and with tokens and hidden units padded to multiples
of 16. Prediction: eager, compiled, compiled with frozen weights (kept: the engine `compiled`), the same with products
chosen by timing (max-autotune), and by AMD's zentorch where it is installed and its logits are the network's. AdamW's
step: all tensors at once, operation by operation, or in one piece. And what is kept for the backward pass: all, all but
the output of GELUs, or only the input of a block. Each round does all alternatives in turn; multiples are taken within it.

In bf16 where this machine is fast at it, else in fp32; `--precision` says otherwise.
"""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from paper_code import predict_call
from pydantic import PositiveInt
from rich.console import Console
from script import run, spread
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

import ffvit
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.precision import Precision, autocast
from ffvit.models.mixers import FeedForward
from ffvit.profiling.hardware_peak import machine_name, slow_precision_reason
from ffvit.profiling.timing import default_device, random_images, time_calls
from ffvit.terminal import build_table, track

Branch = Callable[[nn.Module, Tensor], Tensor]

NEAR = 0.05
"""How far logits may be from those in fp32, in standard deviations of these."""

ZENTORCH = """
import sys, torch, zentorch, ffvit
from ffvit.hardware.precision import autocast
from ffvit.profiling.timing import random_images
network = ffvit.create_model(sys.argv[1]).eval()
images = random_images(network, 4)
with torch.no_grad():
    expected = network(images)
    with autocast(sys.argv[2], images.device):
        logits = torch.compile(network, backend="zentorch")(images)
print(float((logits.float() - expected).abs().max() / expected.std()))
"""


def transposed(mixer: nn.Module, x: Tensor) -> Tensor:
    hidden = gelu(nn.functional.linear(x.mT, mixer.fc1.weight, mixer.fc1.bias))
    return nn.functional.linear(hidden, mixer.fc2.weight, mixer.fc2.bias).mT


def left(mixer: nn.Module, x: Tensor) -> Tensor:
    hidden = gelu(_left(mixer.fc1, x))
    return _left(mixer.fc2, hidden)


def _left(layer: nn.Linear, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    if torch.is_autocast_enabled(x.device.type):  # autocast would cast the matrix, and so write it out, once an image
        weight, bias = (tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in (weight, bias))
    return torch.baddbmm(bias[:, None], weight.expand(x.shape[0], -1, -1), x)


def einsum(mixer: nn.Module, x: Tensor) -> Tensor:
    hidden = gelu(torch.einsum("hn,bnd->bhd", mixer.fc1.weight, x) + mixer.fc1.bias[:, None])
    return torch.einsum("nh,bhd->bnd", mixer.fc2.weight, hidden) + mixer.fc2.bias[:, None]


def padded(mixer: nn.Module, x: Tensor) -> Tensor:
    hidden, tokens = mixer.fc1.weight.shape
    more, wider = -tokens % 16, -hidden % 16
    first, second = pad(mixer.fc1.weight, (0, more, 0, wider)), pad(mixer.fc2.weight, (0, wider, 0, more))
    x = pad(x, (0, 0, 0, more))
    inner = gelu(torch.baddbmm(pad(mixer.fc1.bias, (0, wider))[:, None], first.expand(x.shape[0], -1, -1), x))
    outer = torch.baddbmm(pad(mixer.fc2.bias, (0, more))[:, None], second.expand(x.shape[0], -1, -1), inner)
    return outer[:, :tokens]


BRANCHES: dict[str, Branch] = {
    "tokens transposed (the paper's; kept in bf16)": transposed,
    "matrix on the left (kept in fp32)": left,
    "einsum": einsum,
    "padded to multiples of 16": padded,
}


def main(*, batch: PositiveInt = 16, rounds: PositiveInt = 7, precision: Precision | None = None) -> None:
    """Measure alternatives for the same computation.

    Parameters
    ----------
    batch
        Images at once.
    rounds
        How often everything is measured.
    precision
        What to compute in. Default: bf16 where this machine is fast at it, else fp32.
    """
    device = default_device()
    if device.type == "cpu":
        keep_freed_memory()
    precision = precision or ("fp32" if slow_precision_reason("bf16", device) else "bf16")
    console = Console(width=200, highlight=False)
    what = f"{precision}; batch of {batch} images; {rounds} rounds"
    console.print(f"{machine_name(device)}; torch {torch.__version__}; {what}\n")
    rows = []
    for name in ("ff_tiny_patch16_224", "ff_base_patch16_224"):
        network = ffvit.create_model(name).to(device)
        works = {**_branches(network, batch, precision), "prediction": _predictions(name, network, batch, precision)}
        works |= {"AdamW's step": _steps(network)}
        works["forward and backward, keeping"] = _backward_passes(network, batch, precision)
        times: dict[tuple[str, str], list[float]] = {}
        for _ in track(range(rounds), name):
            for what, alternatives in works.items():
                for alternative, work in alternatives.items():
                    times.setdefault((what, alternative), []).append(median(time_calls(work, device, 0.2)))
        for (what, alternative), seconds in times.items():
            first = times[what, next(iter(works[what]))]
            ratios = [one / two for one, two in zip(first, seconds, strict=True)]
            beside = spread(ratios, 2) if seconds is not first else "1"
            rows.append((name, what, alternative, f"{1e3 * median(seconds):.1f}", beside))
    headings = ("network", "what", "alternative", "ms", "times as fast as the first")
    console.print(build_table(headings, rows, words=(0, 1, 2), markdown=True))


def _branches(network: nn.Module, batch: int, precision: Precision) -> dict[str, dict[str, Callable[[], object]]]:
    """The second branch of a block is the one along patches; a norm over tokens hands it a transposed view."""
    mixer = network.blocks[0][1].mixer
    what = network.architecture
    x = torch.randn(batch, what.width, what.tokens, device=next(mixer.parameters()).device).mT
    for branch in BRANCHES.values():
        torch.testing.assert_close(branch(mixer, x), transposed(mixer, x), rtol=1e-4, atol=1e-5)

    def forward(branch: Branch) -> Callable[[], object]:
        def predict() -> Tensor:
            with torch.no_grad(), autocast(precision, x.device):
                return x + branch(mixer, x)

        return predict

    def both(branch: Branch) -> Callable[[], object]:
        tokens, gradient = x.detach().requires_grad_(), torch.randn(batch, what.tokens, what.width, device=x.device)

        def step() -> None:
            with autocast(precision, x.device):
                y = tokens + branch(mixer, tokens)
            y.backward(gradient)

        return step

    return {
        "branch along patches, forward": {name: forward(branch) for name, branch in BRANCHES.items()},
        "branch along patches, forward and backward": {name: both(branch) for name, branch in BRANCHES.items()},
    }


def _predictions(name: str, network: nn.Module, batch: int, precision: Precision) -> dict[str, Callable[[], object]]:
    network = copy.deepcopy(network).eval()
    images = random_images(network, batch)
    compiled: dict[str, Callable[[Tensor], Tensor]] = {
        "eager": network,
        "compiled": torch.compile(network),
        "compiled, frozen (kept)": _frozen(network),
    }
    if images.device.type == "cpu":
        compiled["compiled, frozen, max-autotune"] = _frozen(
            network, max_autotune=True, max_autotune_gemm_backends="CPP,ATEN"
        )
        if importlib.util.find_spec("zentorch") is not None and _zentorch_is_right(name, precision):
            import zentorch  # noqa: F401

            compiled["zentorch"] = torch.compile(network, backend="zentorch")
    calls = {name: predict_call(function, images, precision) for name, function in compiled.items()}
    with torch.inference_mode():
        expected = network(images)
    for call in calls.values():
        torch.testing.assert_close(call().float(), expected, rtol=0, atol=NEAR * float(expected.std()))
    return calls


def _zentorch_is_right(name: str, precision: Precision) -> bool:
    """Whether its logits are the network's; in a separate process, since it changes what PyTorch computes in bf16."""
    command = [sys.executable, "-c", ZENTORCH, name, precision]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    difference = float(printed.split()[-1])
    right = difference <= NEAR
    if not right:
        print(
            f"{name}: zentorch is not timed: its logits are {difference:.1f} standard deviations from the network's\n"
        )
    return right


def _frozen(network: nn.Module, **options: Any) -> Callable[[Tensor], Tensor]:
    """Compiled with weights as constants: this is read where the network is traced, at the first call."""
    function = torch.compile(network, options={"freezing": True, **options})  # its own compiled code

    def predict(images: Tensor) -> Tensor:
        with torch._inductor.config.patch(freezing=True, **options):
            return function(images)

    return predict


def _steps(network: nn.Module) -> dict[str, Callable[[], object]]:
    steps: dict[str, Callable[[], object]] = {}
    for name, settings in {"all tensors at once": {"foreach": True}, "in one piece": {"fused": True}}.items():
        copies = [nn.Parameter(parameter.detach().clone()) for parameter in network.parameters()]
        for parameter in copies:
            parameter.grad = torch.full_like(parameter, 1e-3)
        steps[name] = torch.optim.AdamW(copies, lr=1e-5, **settings).step
    return steps


def _backward_passes(network: nn.Module, batch: int, precision: Precision) -> dict[str, Callable[[], object]]:
    images = random_images(network, batch)

    def keeping(recompute: str) -> Callable[[], object]:
        def run() -> None:
            network.train().set_grad_checkpointing(recompute == "blocks")
            for module in network.modules():
                if isinstance(module, FeedForward):
                    module.recomputes = recompute == "GELUs"
            with autocast(precision, images.device):
                logits = network(images)
            logits.sum().backward()
            network.zero_grad()

        return run

    return {
        "all": keeping(""),
        "all but GELUs' output": keeping("GELUs"),
        "what enters a block": keeping("blocks"),
    }


if __name__ == "__main__":
    run(main)
