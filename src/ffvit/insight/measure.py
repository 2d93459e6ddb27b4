"""Measures everything there is to show of one network, with as many images as its size and the device allow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from ffvit.hardware.precision import float32
from ffvit.inference.intervals import PairedDifference, Proportion
from ffvit.insight.attention_maps import MapStatistics
from ffvit.insight.distance import mean_distance
from ffvit.insight.findings import (
    HeadFindings,
    ImageCounts,
    JacobianFindings,
    LayerFindings,
    LensFindings,
    NetworkFindings,
)
from ffvit.insight.layers import Layer, LayeredNetwork
from ffvit.insight.observation import (
    Advance,
    Observation,
    PreparedImages,
    correct_without,
    inputs_of,
    observe,
)
from ffvit.insight.receptive_field import receptive_fields
from ffvit.insight.similarity import Similarity
from ffvit.insight.token_jacobian import TokenJacobian, evenly_spread, token_jacobian
from ffvit.insight.token_maps import (
    LayerMaps,
    TokenMap,
    head_maps,
    hidden_unit_maps,
    matrix_maps,
)
from ffvit.models.mixers import FeedForward, StaticAttention

ClassTokenMaps = tuple[tuple[Layer, TokenMap], ...]

MOST = 1000
"""Images at most, where their number is not given."""

QUERIES = 16
"""Patches whose updates are looked at, at most."""

SHOWN_LAYERS, SHOWN_COLUMNS = 4, 4

GPU_FACTOR = 50
"""How much more a GPU is given to do."""

OBSERVE, LESIONS, JACOBIANS, FIELDS, ATTRIBUTIONS = 1e12, 3e12, 2e12, 1.4e12, 5e12
"""FLOPs that each part may take on a CPU: 28 GFLOPs an image, as FF-base's, are then inspected in under a minute on two cores.

Attributions are measured where an image is explained, and where at least two images fit.
"""


PREDICTIONS = 400
"""About as many as the attributions of one image and their curves take."""


def image_counts(flops: int, layers: int, gpu: bool, asked: int | None) -> ImageCounts:
    """How many images each part takes: a function of the network and the kind of device, never of a timing.

    Args:
        flops: Of one image.
        layers: How many branches there are.
        gpu: Whether there is one.
        asked: For accuracies and similarities, if the user says.
    """
    factor = (GPU_FACTOR if gpu else 1) / max(flops, 1)
    return ImageCounts(
        observed=asked or _between(32, OBSERVE * factor, MOST),
        lesions=asked or _between(8, LESIONS * factor / max(1.0, layers / 2), MOST),
        jacobians=_between(4, JACOBIANS * factor / (QUERIES + 1), 16),
        fields=_between(8, FIELDS * factor / 6, 64),
        attributions=_between(0, ATTRIBUTIONS * factor / PREDICTIONS, 32),
    )


def _between(least: int, wanted: float, most: int) -> int:
    return int(min(max(least, wanted), most))


@dataclass(frozen=True)
class Measured:
    """What was found in a network, and what a comparison with another needs besides."""

    findings: NetworkFindings
    grams: list[Float[Tensor, "depths _ _"]]


def work_of(network: LayeredNetwork, counts: ImageCounts) -> int:
    """How many images `measure` tells `advance` of."""
    return counts.observed + counts.lesions * len(network.layers) + counts.jacobians * len(_mixing(network))


def measure(
    name: str, network: LayeredNetwork, images: PreparedImages, counts: ImageCounts, advance: Advance
) -> Measured:
    """Measure a network.

    Args:
        name: What to call it.
        network: The network, on its device.
        images: The images; `counts` asks for no more.
        counts: How many images each part takes.
        advance: Told of every number of images that was passed.
    """
    seen = observe(network, images.some(counts.observed), advance)
    whole, without = correct_without(network, images.some(counts.lesions), advance)
    jacobians = _jacobians(network, images.some(counts.jacobians), advance)
    with float32(images.device):
        depths = sorted({1, (network.depth + 1) // 2, network.depth}) if network.depth else []
        fields = receptive_fields(network, images.some(counts.fields).normalized(), depths) if depths else []
    layers = tuple(
        LayerFindings(
            layer,
            seen.ratios[number],
            PairedDifference.of(whole, without[number]),
            _jacobian_findings(network, jacobians.get(number)),
            _heads(network, seen, number),
        )
        for number, layer in enumerate(network.layers)
    )
    similarity = Similarity()
    for grams in seen.grams:
        similarity.add(grams, grams)
    findings = NetworkFindings(
        name, network, counts, layers, _lens(seen), tuple(fields), _maps(network, seen),
        *_class_token(network, seen, jacobians), similarity.cka,
    )  # fmt: skip
    return Measured(findings, seen.grams)


def cross_similarity(first: Measured, second: Measured) -> Float[Tensor, "depths others"]:
    """Linear CKA of the depths of two networks, which were measured on the same images."""
    similarity = Similarity()
    for own, other in zip(first.grams, second.grams, strict=True):
        similarity.add(own, other)
    return similarity.cka


def _mixing(network: LayeredNetwork) -> list[int]:
    return [number for number, layer in enumerate(network.layers) if layer.mixes_patches]


def _jacobians(network: LayeredNetwork, images: PreparedImages, advance: Advance) -> dict[int, TokenJacobian]:
    queries = evenly_spread(network, QUERIES)
    if network.has_class_token:
        queries = [0, *queries]
    found = {}
    for number, tokens in inputs_of(network, images, _mixing(network)):
        found[number] = token_jacobian(network.layers[number].update, tokens, queries, projections=1, seed=number)
        advance(len(images))
    return found


def _jacobian_findings(network: LayeredNetwork, jacobian: TokenJacobian | None) -> JacobianFindings | None:
    if jacobian is None:
        return None
    rows = [place for place, query in enumerate(jacobian.queries) if query >= network.prefix]
    weights = jacobian.strength[rows][:, network.prefix :]
    queries = [jacobian.queries[place] - network.prefix for place in rows]
    distance = float(mean_distance(weights, network.grid, queries))
    return JacobianFindings(distance, jacobian.static, jacobian.uniform)


def _heads(network: LayeredNetwork, seen: Observation, number: int) -> tuple[HeadFindings, ...]:
    if number not in seen.maps:
        return ()
    statistics, prefix = seen.maps[number], network.prefix
    distances = mean_distance(statistics.mean[:, prefix:, prefix:], network.grid)
    static, uniform = statistics.static_share.cpu(), _uniform_share(statistics)
    return tuple(
        HeadFindings(float(distances[head]), float(static[head]), float(uniform[head]), float(entropy))
        for head, entropy in enumerate(seen.entropy[number])
    )


def _uniform_share(statistics: MapStatistics) -> Float[Tensor, " heads"]:
    """The squared norm of the uniform map, 1, over the mean squared norm of the maps: both have rows that sum to 1."""
    squares = statistics.mean.square().sum(dim=(1, 2)) / statistics.static_share
    return (1 / squares).cpu()


def _lens(seen: Observation) -> tuple[LensFindings, ...]:
    def share(rows: Bool[np.ndarray, " images"]) -> Proportion:
        return Proportion.of(int(rows.sum()), len(rows))

    return tuple(
        LensFindings(blocks, share(correct), share(agrees))
        for blocks, (correct, agrees) in enumerate(zip(seen.correct, seen.agrees, strict=True))
    )


def _shown(numbers: list[int]) -> list[int]:
    """At most `SHOWN_LAYERS` of these, the first and the last among them."""
    places = np.linspace(0, len(numbers) - 1, min(SHOWN_LAYERS, len(numbers))).round().astype(int)
    return [numbers[place] for place in sorted(set(places.tolist()))]


def _maps(network: LayeredNetwork, seen: Observation) -> tuple[LayerMaps, ...]:
    rows, columns = network.grid
    quarter = network.prefix + (rows // 4) * columns + columns // 4
    queries = [network.center, quarter]
    maps: list[LayerMaps | None] = []
    for number in _shown([n for n, layer in enumerate(network.layers) if layer.axis == "patches"]):
        layer = network.layers[number]
        if isinstance(layer.module, FeedForward):
            maps.append(hidden_unit_maps(layer, seen.use[number], SHOWN_COLUMNS))
        elif number in seen.maps:
            maps.append(head_maps(layer, seen.maps[number].mean, queries, SHOWN_COLUMNS))
        elif isinstance(layer.module, StaticAttention):
            maps.append(head_maps(layer, layer.module.maps.detach(), queries, SHOWN_COLUMNS, "matrix"))
        else:
            maps.append(matrix_maps(network, layer, queries))
    return tuple(each for each in maps if each is not None)


def _class_token(
    network: LayeredNetwork, seen: Observation, jacobians: dict[int, TokenJacobian]
) -> tuple[ClassTokenMaps, ClassTokenMaps]:
    if not network.has_class_token:
        return (), ()
    layers = network.layers
    depends = tuple(
        (layers[number], TokenMap("depends on", jacobian.strength[0].float(), 0))
        for number, jacobian in jacobians.items()
        if jacobian.queries[0] == 0
    )
    attends = tuple(
        (layers[number], TokenMap("attends to", statistics.mean[:, 0].mean(dim=0).float().cpu(), 0))
        for number, statistics in seen.maps.items()
    )
    return depends, attends
