"""The sections on what is mixed: which patches, how far, how much the same for every image."""

from __future__ import annotations

from functools import partial

import numpy as np

from ffvit.insight.findings import Inspection
from ffvit.insight.report import figures, map_figures
from ffvit.insight.report.section import Section, blocks, draw, draw_each, image_count, sentence
from ffvit.terminal import percent


def maps(inspection: Inspection) -> Section | None:
    """Weights over patches as maps."""
    drawings = tuple(
        draw(
            f"maps-{number}", network.name, f"{network.name}: weights of its mixers over patches as maps",
            partial(map_figures.mixer_maps, network),
        )
        for number, network in enumerate(inspection.networks) if network.maps
    )  # fmt: skip
    if not drawings:
        return None
    kinds = {maps.kind for network in inspection.networks for maps in network.maps}
    reading = [
        "Every small square is the image, patch by patch, and strong colour is a large weight (each square has its own scale)."
    ]
    if "fields" in kinds:
        reading.append(
            "Feed-forward: a hidden unit reads a fixed pattern of patches (its input field) and writes another (its output "
            "field), the same for every feature and image. Orange adds, blue subtracts. Shown are the units used most: mean "
            "activation times the norm of the output field."
        )
    if "attention" in kinds:
        reading.append(
            "Attention: what the marked patch reads, on average over images. A blob around the mark is local mixing, an even "
            "square reads everything alike."
        )
    if "matrix" in kinds:
        reading.append("Matrices: the row of the marked patch says with which weight it reads every patch.")
    if any(network.network.prefix for network in inspection.networks):
        reading.append("The small square at the left is the class token, on the same scale.")
    without = [network.name for network in inspection.networks if not network.maps]
    if without:
        reading.append(
            f"{' and '.join(without)}: its mixers have no weights over pairs of patches, so there is nothing to draw."
        )
    return Section(
        "maps", "Which patches are mixed?", tuple(reading), drawings,
        source=f"Attention and use of units: means over {image_count(inspection, 'observed')}.",
    )  # fmt: skip


def distances(inspection: Inspection) -> Section | None:
    """Mean mixing distance by depth."""
    networks = [network for network in inspection.networks if network.mixing]
    if not networks:
        return None
    patch = {network.name: network.network.patch for network in networks}
    reading = [
        "How far apart are a patch and the patches that its update depends on? The line asks every mixer the same: the "
        "distance, weighted by the norm of the Jacobian of the update of one token with respect to another. Dots are "
        "attention heads, weighted by attention itself. Low is local; the dotted line is a mixer that reads every patch alike.",
    ]
    if any(found.heads for network in networks for found in network.layers):
        reading.append(
            "The Jacobian also sees what a patch does to itself, and how a norm over patches or a softmax ties patches "
            "together, so line and dots need not agree."
        )
    drawing = draw(
        "distance", "Mean mixing distance", "Mean mixing distance by block", partial(figures.distances, networks)
    )
    said = []
    for network in networks:
        values = [found.jacobian.distance for found in network.mixing if found.jacobian is not None]
        side = float(np.prod(patch[network.name])) ** 0.5
        said.append(
            f"{network.name} mixes over {values[0]:.1f} patches ({values[0] * side:.0f} px) in its first mixer and "
            f"{values[-1]:.1f} ({values[-1] * side:.0f} px) in its last"
        )
    return Section(
        "distance", "How far do patches look?", tuple(reading), (drawing,), sentence(said),
        f"Jacobians: {image_count(inspection, 'jacobians')}, random vectors. Attention distance: Dosovitskiy et al. 2021, figure 7.",
    )  # fmt: skip


def fields(inspection: Inspection) -> Section | None:
    """The effective receptive field."""
    if not any(network.fields for network in inspection.networks):
        return None
    said = [
        f"in {network.name}, half of it lies within {network.fields[0].half_radius:.0f} px after "
        f"{blocks(network.fields[0].blocks)} and {network.fields[-1].half_radius:.0f} px after "
        f"{blocks(network.fields[-1].blocks)}"
        for network in inspection.networks
        if network.fields
    ]
    return Section(
        "field",
        "Which pixels reach the patch in the middle?",
        (
            "The effective receptive field: how strongly the token in the middle (framed) depends on each pixel, after a few "
            "blocks. Without mixing it is one patch. Colour is the square root of the mean absolute derivative, so that weak "
            "dependence shows too.",
        ),
        draw_each(inspection, "field", "receptive field of the patch in the middle", map_figures.receptive_field_maps),
        sentence(said),
        f"Luo et al. 2016, of {image_count(inspection, 'fields')}.",
    )


def static(inspection: Inspection) -> Section | None:
    """Which share of the mixing is the same for every image."""
    networks = [network for network in inspection.networks if network.mixing]
    if not networks:
        return None
    drawings = []
    for number, network in enumerate(networks):
        alt = f"{network.name}: share of the mixing that is the same for every image"
        drawings.append(
            draw(f"static-{number}", network.name, alt, partial(figures.shares, network), "by its Jacobian")
        )
        if any(found.heads for found in network.layers):
            drawings.append(
                draw(f"static-maps-{number}", network.name, alt, partial(figures.attention_shares, network), "by its attention maps")
            )  # fmt: skip
    said = []
    for network in networks:
        static = [found.jacobian.static for found in network.mixing if found.jacobian is not None]
        said.append(
            f"of {network.name}'s Jacobians {percent(float(np.nanmean(static)))} are static, mean over its mixers"
        )
        heads = [head for found in network.layers for head in found.heads]
        if heads:
            said.append(
                f"of its attention maps {percent(float(np.mean([head.static for head in heads])))}: "
                f"{percent(float(np.mean([head.uniform for head in heads])))} are the uniform map, the rest a pattern"
            )
    return Section(
        "static",
        "How much of the mixing is the same for every image?",
        (
            "A feed-forward layer mixes by fixed weights; attention chooses for each image. Full colour is the share of the mean "
            "square that is one fixed pattern for all images: ||mean||² / mean ||.||². Pale is what changes with the image.",
            "A uniform map, which reads every patch alike, is static too and says nothing about places: it is drawn apart, in "
            "grey. By the Jacobian all mixers are asked the same; even fixed weights change with the image there, through GELU "
            "and norms. A norm over patches takes the mean over patches away, so that no part is uniform.",
        ),
        tuple(drawings),
        sentence(said),
        f"Jacobians: {image_count(inspection, 'jacobians')}, without the bias of few images. Attention maps: "
        f"{image_count(inspection, 'observed')}.",
    )


def class_token(inspection: Inspection) -> Section | None:
    """What the class token reads, where there is one."""
    networks = [(number, network) for number, network in enumerate(inspection.networks) if network.class_token]
    if not networks:
        return None
    return Section(
        "class-token",
        "What does the class token read?",
        (
            "The head reads the class token alone, so this is the way by which patches reach the prediction. Each square is one layer "
            "that mixes patches: how strongly the class token's update depends on every patch (norm of the Jacobian, the same "
            "for every mixer), and for attention below it what the class token attends to. The small square is the class token itself.",
        ),
        tuple(
            draw(f"class-{number}", network.name, f"{network.name}: what its class token reads in each layer",
                  partial(map_figures.class_token_maps, network))
            for number, network in networks
        ),
        source=f"Jacobians: {image_count(inspection, 'jacobians')}. Attention: {image_count(inspection, 'observed')}.",
    )  # fmt: skip
