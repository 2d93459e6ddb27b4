"""One pass over images: what is read off the tokens between layers, and the predictions without one branch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from timm.layers import Attention
from torch import Tensor

from ffvit.config.preprocess import Preprocess
from ffvit.data.loader import NormalizeOnDevice
from ffvit.hardware.precision import float32
from ffvit.insight.attention_maps import MapStatistics, attention_maps
from ffvit.insight.layers import LayeredNetwork
from ffvit.insight.similarity import MINIBATCH, gram
from ffvit.insight.token_maps import HiddenUse
from ffvit.models.mixers import FeedForward

KEPT_BYTES = 2**28
"""Of the inputs of all layers, kept to start again behind any of them."""

MAP_IMAGES = 8
"""Images whose attention maps are held at one time."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class PreparedImages:
    """Images as a network takes them.

    Attributes:
        levels: Bytes.
        labels: The class of each.
        preprocess: How they were prepared.
        device: Where batches go.
    """

    levels: Tensor
    labels: Int[Tensor, " images"]
    preprocess: Preprocess
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, count: int) -> PreparedImages:
        """At most so many of them, evenly spaced."""
        places = torch.as_tensor(np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64))
        return PreparedImages(self.levels[places], self.labels[places], self.preprocess, self.device)

    def normalized(self) -> Float[Tensor, "images channels height width"]:
        """All of them as numbers, on the device."""
        return NormalizeOnDevice(self.preprocess).normalized(self.levels.to(self.device))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as numbers and labels, in batches of nearly the same size."""
        normalize = NormalizeOnDevice(self.preprocess)
        for places in torch.arange(len(self)).tensor_split(-(-len(self) // size)):
            yield normalize.normalized(self.levels[places].to(self.device)), self.labels[places]


@dataclass
class Observation:
    """What one pass saw.

    Attributes:
        grams: For each minibatch the Gram matrices of the tokens in front of the first block and behind every block.
        correct: Whether each image is predicted correctly by the tokens after 0, 1, ... blocks.
        agrees: Whether that prediction is the network's own.
        ratios: ||update|| / ||x|| of each layer, mean over images.
        maps: Of each layer with attention over patches, its statistics.
        entropy: Of each of these, the mean entropy of each head's rows, as a share of that of a uniform row.
        use: Of each feed-forward layer over patches, the mean absolute activation of its hidden units.
    """

    grams: list[Float[Tensor, "depths _ _"]]
    correct: Bool[np.ndarray, "depths images"]
    agrees: Bool[np.ndarray, "depths images"]
    ratios: list[float]
    maps: dict[int, MapStatistics] = field(default_factory=dict)
    entropy: dict[int, Float[Tensor, " _"]] = field(default_factory=dict)
    use: dict[int, Float[Tensor, " _"]] = field(default_factory=dict)


@torch.no_grad()
def observe(network: LayeredNetwork, images: PreparedImages, advance: Advance) -> Observation:
    """Pass images through a network; `advance` is told of every batch's number of images."""
    layers = network.layers
    attention = [n for n, layer in enumerate(layers) if layer.axis == "patches" and type(layer.module) is Attention]
    maps = {number: MapStatistics() for number in attention}
    entropy: dict[int, Tensor | float] = dict.fromkeys(attention, 0.0)
    uses = {
        number: HiddenUse(layer.module)
        for number, layer in enumerate(layers)
        if layer.axis == "patches" and isinstance(layer.module, FeedForward)
    }
    last = {layer.block: number for number, layer in enumerate(layers)}
    grams, correct, agrees, ratios = [], [], [], torch.zeros(len(layers), dtype=torch.float64)
    try:
        for batch, labels in images.batches(MINIBATCH):
            with float32(images.device):
                tokens = network.embed(batch)
                states, predicted = [gram(tokens).cpu()], [network.readout(tokens).argmax(dim=1)]
                for number, (layer, before, update) in enumerate(network.run(tokens)):
                    ratios[number] += float((_norms(update) / _norms(before).clamp(min=1e-12)).sum())
                    if number in maps:
                        entropy[number] += _add_maps(layer.module, layer.normalized(before), maps[number])
                    if last[layer.block] == number:
                        tokens = before + update
                        states.append(gram(tokens).cpu())
                        predicted.append(network.readout(tokens).argmax(dim=1))
            predictions = torch.stack(predicted).cpu()
            grams.append(torch.stack(states))
            correct.append((predictions == labels).numpy())
            agrees.append((predictions == predictions[-1]).numpy())
            advance(len(labels))
    finally:
        use = {number: each.remove() for number, each in uses.items()}
    count = len(images)
    return Observation(
        grams,
        np.concatenate(correct, axis=1),
        np.concatenate(agrees, axis=1),
        (ratios / max(1, count)).tolist(),
        maps,
        {number: torch.as_tensor(total) / max(1, count) for number, total in entropy.items()},
        use,
    )


def _norms(tokens: Float[Tensor, "batch tokens features"]) -> Float[Tensor, " batch"]:
    return tokens.flatten(1).double().norm(dim=1)


def _add_maps(
    module: Attention, x: Float[Tensor, "batch tokens width"], statistics: MapStatistics
) -> Float[Tensor, " heads"]:
    """Add a batch's maps; returns the sum over images of the mean entropy of their rows, 0 to 1."""
    total: Tensor | float = 0.0
    for part in x.split(MAP_IMAGES):
        maps = attention_maps(module, part)
        statistics.add(maps)
        rows = torch.special.entr(maps.double()).sum(dim=-1) / np.log(max(2, maps.shape[-1]))
        total = total + rows.mean(dim=2).sum(dim=0).cpu()
    return torch.as_tensor(total)


@torch.no_grad()
def correct_without(
    network: LayeredNetwork, images: PreparedImages, advance: Advance
) -> tuple[Bool[np.ndarray, " images"], Bool[np.ndarray, "layers images"]]:
    """Whether each image is predicted correctly: by the network, and without each branch in turn (its update is 0).

    The layers in front of the branch compute the same as before, so only those behind it are run again.
    """
    layers, whole, without = network.layers, [], []
    size = max(4, min(MINIBATCH, KEPT_BYTES // (4 * network.tokens * _width(network, images) * max(1, len(layers)))))
    for batch, labels in images.batches(size):
        with float32(images.device):
            tokens = network.embed(batch)
            inputs = []
            for _, before, update in network.run(tokens):
                inputs.append(before)
                tokens = before + update
            whole.append((network.readout(tokens).argmax(dim=1).cpu() == labels).numpy())
            rows = []
            for number, before in enumerate(inputs):
                logits = network.readout(network.after(before, number + 1))
                rows.append((logits.argmax(dim=1).cpu() == labels).numpy())
                advance(len(labels))
            without.append(np.stack(rows))
    return np.concatenate(whole), np.concatenate(without, axis=1)


@torch.no_grad()
def _width(network: LayeredNetwork, images: PreparedImages) -> int:
    return network.embed(images.some(1).normalized()).shape[2]


@torch.no_grad()
def inputs_of(network: LayeredNetwork, images: PreparedImages, which: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The numbers of these layers, in order, with their inputs on all these images."""
    with float32(images.device):
        tokens = network.embed(images.normalized())
        for number, (_, before, _update) in enumerate(network.run(tokens)):
            if number in which:
                yield number, before
