"""Alternatives for the same computation, of which one was kept: `python benchmarks/alternatives.py`.

The feed-forward branch along patches, forward, and forward and backward: on transposed tokens as in the paper's code, with
the matrix on the left (kept), by einsum, and with tokens and hidden units padded to multiples of 16. AdamW's step: all
tensors at once, operation by operation, or in one piece. And what is kept for the backward pass: all, all but the
output of GELUs, or only the input of a block. Each round does all alternatives in turn; multiples are taken within it.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import cyclopts
import torch
from pydantic import PositiveInt
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

import ffvit
from ffvit.models.mixers import FeedForward
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device, random_images, time_calls
from ffvit.terminal import build_table, track

Branch = Callable[[nn.Module, Tensor], Tensor]


def transposed(mixer: nn.Module, x: Tensor) -> Tensor:
    hidden = gelu(nn.functional.linear(x.mT, mixer.fc1.weight, mixer.fc1.bias))
    return nn.functional.linear(hidden, mixer.fc2.weight, mixer.fc2.bias).mT


def left(mixer: nn.Module, x: Tensor) -> Tensor:
    return mixer(x)


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
    "tokens transposed (the paper's)": transposed,
    "matrix on the left (kept)": left,
    "einsum": einsum,
    "padded to multiples of 16": padded,
}


def main(*, batch: PositiveInt = 8, rounds: PositiveInt = 9) -> None:
    """Measure alternatives for the same computation.

    Parameters
    ----------
    batch
        Images at once.
    rounds
        How often everything is measured.
    """
    device = default_device()
    console = Console(width=200, highlight=False)
    console.print(f"{machine_name(device)}; torch {torch.__version__}; batch of {batch} images; {rounds} rounds\n")
    rows = []
    for name in ("ff_tiny_patch16_224", "ff_base_patch16_224"):
        network = ffvit.create_model(name).to(device)
        works = {**_branches(network, batch), "AdamW's step": _steps(network)}
        works["forward and backward, keeping"] = _backward_passes(network, batch)
        times: dict[tuple[str, str], list[float]] = {}
        for _ in track(range(rounds), name):
            for what, alternatives in works.items():
                for alternative, work in alternatives.items():
                    times.setdefault((what, alternative), []).append(median(time_calls(work, device, 0.2)))
        for (what, alternative), seconds in times.items():
            first = times[what, next(iter(works[what]))]
            ratios = [one / two for one, two in zip(first, seconds, strict=True)]
            beside = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if seconds is not first else "1"
            rows.append((name, what, alternative, f"{1e3 * median(seconds):.1f}", beside))
    headings = ("network", "what", "alternative", "ms", "times as fast as the first")
    console.print(build_table(headings, rows, words=(0, 1, 2), markdown=True))


def _branches(network: nn.Module, batch: int) -> dict[str, dict[str, Callable[[], object]]]:
    """The second branch of a block is the one along patches; a norm over tokens hands it a transposed view."""
    mixer = network.blocks[0][1].mixer
    what = network.architecture
    x = torch.randn(batch, what.width, what.tokens, device=next(mixer.parameters()).device).mT
    for branch in BRANCHES.values():
        torch.testing.assert_close(branch(mixer, x), transposed(mixer, x), rtol=1e-4, atol=1e-5)

    def forward(branch: Branch) -> Callable[[], object]:
        def predict() -> Tensor:
            with torch.no_grad():
                return x + branch(mixer, x)

        return predict

    def both(branch: Branch) -> Callable[[], object]:
        tokens, gradient = x.detach().requires_grad_(), torch.randn(batch, what.tokens, what.width, device=x.device)
        return lambda: (tokens + branch(mixer, tokens)).backward(gradient)

    return {
        "branch along patches, forward": {name: forward(branch) for name, branch in BRANCHES.items()},
        "branch along patches, forward and backward": {name: both(branch) for name, branch in BRANCHES.items()},
    }


def _steps(network: nn.Module) -> dict[str, Callable[[], object]]:
    steps: dict[str, Callable[[], object]] = {}
    for name, settings in {"all tensors at once": {"foreach": True}, "in one piece": {"fused": True}}.items():
        copies = [nn.Parameter(parameter.detach().clone()) for parameter in network.parameters()]
        for parameter in copies:
            parameter.grad = torch.full_like(parameter, 1e-3)
        steps[name] = torch.optim.AdamW(copies, lr=1e-5, **settings).step
    return steps


def _backward_passes(network: nn.Module, batch: int) -> dict[str, Callable[[], object]]:
    images = random_images(network, batch)

    def keeping(recompute: str) -> Callable[[], object]:
        def run() -> None:
            network.train().set_grad_checkpointing(recompute == "blocks")
            for module in network.modules():
                if isinstance(module, FeedForward):
                    module.recomputes = recompute == "GELUs"
            network(images).sum().backward()
            network.zero_grad()

        return run

    return {
        "all": keeping(""),
        "all but GELUs' output": keeping("GELUs"),
        "what enters a block": keeping("blocks"),
    }


if __name__ == "__main__":
    cyclopts.run(main)
