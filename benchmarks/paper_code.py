"""The paper's network as released, and DeiT's training loop as its user writes it: what the benchmarks compare with.

Linear, GELU, linear, over patches on the transposed tensor; autocast in bf16; AdamW in one piece (`fused=True`); the
moving average entry by entry; the loss fetched in every step; on a processor with the memory allocator as it comes.
Neither mixup nor augmentation, which `ffvit train` does besides. Parameters are called as in ffvit, so the weights of
one fit the other.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch
from timm.utils import ModelEma
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import ffvit
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.precision import Precision, autocast


class FeedForward(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Branch(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(size, eps=1e-6), FeedForward(size, hidden)


class Block(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        features, patches = self
        x = x + features.mixer(features.norm(x))
        x = x.transpose(-2, -1)
        x = x + patches.mixer(patches.norm(x))
        return x.transpose(-2, -1)


class PaperNetwork(nn.Module):
    """The released network, with the weights of ours.

    Args:
        name: One of our FF-only networks.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        ours = ffvit.create_model(name)
        what = ffvit.NAMED[name]
        self.grid = what.grid
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, what.width, what.patch, what.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, what.width))
        self.position = nn.Module()
        self.position.map = nn.Parameter(torch.empty(1, what.width, *(what.position_grid or what.grid)))
        self.position.class_token = nn.Parameter(torch.empty(1, 1, what.width))
        sizes = {"features": what.width, "patches": what.tokens}
        self.blocks = nn.Sequential(
            *(
                Block(*(Branch(sizes[branch.axis], what.hidden(branch)) for branch in what.block))
                for _ in range(what.depth)
            )
        )
        self.norm, self.head = nn.LayerNorm(what.width, eps=1e-6), nn.Linear(what.width, what.num_classes)
        self.load_state_dict(ours.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        grid = interpolate(self.position.map, self.grid, mode="bilinear").flatten(2).transpose(1, 2)
        x = x + torch.cat((self.position.class_token, grid), dim=1)
        return self.head(self.norm(self.blocks(x))[:, 0])


def returning_memory(work: Callable[[], object]) -> Callable[[], object]:
    """The same work in a process that gives large blocks back to the system as glibc does unless told otherwise (mallopt(3))."""
    set_glibc = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None

    def run() -> None:
        if set_glibc is not None:
            for parameter, value in ((-4, 65_536), (-3, 32 * 2**20), (-1, 64 * 2**20)):  # where it settles by itself
                set_glibc(parameter, value)
        work()
        keep_freed_memory()

    return run


def predict_call(network: Callable[[Tensor], Tensor], images: Tensor, precision: Precision) -> Callable[[], Tensor]:
    """The logits of a batch, in autocast."""

    @torch.inference_mode()
    def predict() -> Tensor:
        with autocast(precision, images.device):
            return network(images)

    return predict


def deit_step(
    network: nn.Module, images: Tensor, labels: Tensor, precision: Precision, *, compiled: bool = False
) -> Callable[[], None]:
    """A step of DeiT's loop, in autocast, with AdamW in one piece."""
    network.train()
    spared = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    groups = [{"params": spared, "weight_decay": 0.0}, {"params": decayed}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05, fused=True)
    average = ModelEma(network, decay=0.99996)
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        with autocast(precision, images.device):
            loss = cross_entropy(forward(images), labels, label_smoothing=0.1)
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(network)

    return step
