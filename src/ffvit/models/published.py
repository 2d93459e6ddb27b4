"""Accuracies that were published for networks by name, with their source.

ImageNet-1k top-1 in percent, at 224 px unless said otherwise.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A published figure: top-1 in percent, and where it is from."""

    top1: float
    source: str


PUBLISHED: dict[str, Published] = {
    "ff_tiny_patch16_224": Published(61.4, "paper, Table 1"),
    "ff_base_patch16_224": Published(74.9, "paper, Table 1"),
    "ff_large_patch32_224": Published(71.4, "paper, Table 1"),
    "attention_only_tiny_patch16_224": Published(28.2, "paper, 3.4, stopped after 100 epochs"),
    "deit_tiny_patch16_224": Published(72.2, "DeiT, Table 5"),
    "deit_small_patch16_224": Published(79.9, "DeiT, Table 5"),
    "deit_base_patch16_224": Published(81.8, "DeiT, Table 5"),
    "vit_base_patch16_384": Published(77.9, "ViT, trained on ImageNet-1k"),
    "vit_large_patch32_384": Published(71.2, "ViT, trained on ImageNet-1k"),
}
"""The paper prints 79.9 for DeiT-base, which in DeiT's own table is DeiT-small's."""

SOURCES = {"paper": "arXiv 2105.02723", "DeiT": "arXiv 2012.12877", "ViT": "arXiv 2010.11929"}
