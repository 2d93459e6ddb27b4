"""What the page says: for each question how its pictures are read, what is seen, and from what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ffvit.insight.findings import Inspection, NetworkFindings
from ffvit.insight.report import figures, image_figures, mixing_sections
from ffvit.insight.report.section import Section, draw, image_count, sentence
from ffvit.plot_style import NARROW
from ffvit.terminal import percent


def sections(inspection: Inspection) -> Iterator[Section]:
    """Every section there is something to show in, in reading order."""
    makers: list[Callable[[Inspection], Section | None]] = [
        _image, _faithfulness, _lens, _lesions, mixing_sections.maps, mixing_sections.distances, mixing_sections.fields,
        mixing_sections.static, mixing_sections.class_token, _updates, _similarity,
    ]  # fmt: skip
    if not inspection.networks:
        makers = [_image]  # and no images to measure attributions on
    for make in makers:
        section = make(inspection)
        if section is not None:
            yield section


def _image(inspection: Inspection) -> Section | None:
    if not inspection.image:
        return None
    drawings, said = [], []
    for number, (name, found) in enumerate(inspection.image):
        predicted, removal = found.class_names[found.predicted], found.removal
        drawings += [
            draw(f"image-{number}", name, f"{name}: what speaks for {predicted}",
                  partial(image_figures.attributions_figure, found, NARROW, 2), "what speaks for its prediction"),
            draw(f"removal-{number}", name, f"{name}: patches whose removal changes {predicted}",
                  partial(image_figures.removal_figure, found, NARROW), "which patches change its prediction"),
        ]  # fmt: skip
        count = "no number of" if removal.becomes is None else str(len(removal.patches))
        said.append(f"{name} predicts {predicted}, and {count} of {removal.total} patches removed change that")
    return Section(
        "image",
        "Which patches of this image speak for the prediction?",
        (
            "Red patches speak for the class and blue ones against it, by several methods, which need not agree: gradients "
            "follow the network for a small change, occlusion covers one patch at a time. The other picture removes patches in "
            "the order of integrated gradients until the prediction changes. An attribution that knows what matters needs fewer "
            "patches than a random order, the dashed line.",
        ),
        tuple(drawings),
        sentence(said),
        f"The image: {inspection.image_name}. Removed patches get the mean colour, which is a change too where the background is black or white. One image shows what happens, not how often.",
    )


def _faithfulness(inspection: Inspection) -> Section | None:
    if not inspection.faithfulness:
        return None
    drawings, said = [], []
    for number, (name, results) in enumerate(inspection.faithfulness):
        drawings.append(
            draw(f"faithfulness-{number}", name, f"{name}: deletion and insertion curves of each method",
                  partial(image_figures.faithfulness_figure, results, NARROW))
        )  # fmt: skip
        gains = [
            f"{result.method} {gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"
            for result in results
            if (gain := result.deletion_gain) is not None
        ]
        said.append(f"smaller area under the deletion curve than in random order, in {name}: {', '.join(gains)}")
    return Section(
        "faithfulness",
        "Can these attributions be trusted?",
        (
            "Patches are covered in the order of each attribution, the most important first (deletion), or shown in that order on "
            "an empty image (insertion). An attribution that is faithful to the network makes the probability of the predicted class fall, or "
            "rise, sooner than a random order does, the dashed grey line.",
        ),
        tuple(drawings),
        sentence(said),
        f"Petsiuk et al. 2018 (RISE), of {image_count(inspection, 'attributions')}, with 95 % intervals over images.",
    )


def _lens(inspection: Inspection) -> Section:
    networks = inspection.networks
    half = [
        f"{network.name} predicts {percent(network.lens[0].accuracy.value)} correctly before its first block, "
        f"{percent(network.lens[len(network.lens) // 2].accuracy.value)} after {len(network.lens) // 2} of "
        f"{len(network.lens) - 1} blocks, and {percent(network.accuracy.value)} at the end"
        for network in networks
    ]
    drawings = (
        draw("lens-accuracy", "Accuracy by depth", "Accuracy after each block", partial(figures.lens, networks, "accuracy")),
        draw("lens-agreement", "Agreement with the final prediction", "Agreement after each block", partial(figures.lens, networks, "agreement")),
    )  # fmt: skip
    return Section(
        "lens",
        "At what depth is the prediction made?",
        (
            "The last norm and the head are applied after every block, as if the network ended there. A line that rises "
            "early means that early blocks already decide; one that jumps at the end means that the head reads only what the "
            "last blocks write. A low value does not show that information is missing: the head was trained for the last "
            "tokens alone.",
        ),
        drawings,
        sentence(half),
        f"Logit lens (nostalgebraist 2020), of {image_count(inspection, 'observed')}. Bands: 95 % intervals.",
    )


def _lesions(inspection: Inspection) -> Section:
    networks = inspection.networks
    limits = figures.lesion_limits(networks)
    drawings = tuple(
        draw(
            f"lesions-{number}", network.name, f"{network.name}: accuracy lost without each branch",
            partial(figures.lesions, network, number, limits),
        )
        for number, network in enumerate(networks)
    )  # fmt: skip
    return Section(
        "lesions",
        "Which branches does the prediction need?",
        (
            "Each branch is removed in turn: its update is 0, all else stays. A point is the accuracy that is lost, its line "
            "the paired 95 % interval; where the line crosses 0, these images do not show that the branch is needed. Losses do "
            "not add up, for the other branches were trained with this one.",
        ),
        drawings,
        sentence([f"{network.name} loses most without {_worst(network)}" for network in networks]),
        f"Of {image_count(inspection, 'lesions')}; with many branches, one in twenty intervals misses by chance.",
    )


def _worst(network: NetworkFindings) -> str:
    worst = max(network.layers, key=lambda found: found.accuracy_lost.value)
    lost = worst.accuracy_lost
    return f"{worst.layer.title}: {100 * lost.value:.1f} points (95 % interval {100 * lost.low:.1f} to {100 * lost.high:.1f})"


def _updates(inspection: Inspection) -> Section:
    return Section(
        "updates",
        "How much does each branch change?",
        (
            "The norm of what a branch adds, divided by the norm of the tokens it adds to. Small updates refine; one near 1 or more "
            "writes the tokens anew. Size is not use: see which branches the prediction needs.",
        ),
        (draw("updates", "Size of updates", "Norm of each update relative to the stream", partial(figures.updates, inspection.networks)),),
        source=f"Mean over {image_count(inspection, 'observed')}.",
    )  # fmt: skip


def _similarity(inspection: Inspection) -> Section:
    networks = inspection.networks
    drawings = [
        draw(f"cka-{number}", f"{network.name} with itself", f"{network.name}: CKA between its depths",
              partial(figures.similarity, network.cka, network.name, network.name))
        for number, network in enumerate(networks)
    ]  # fmt: skip
    said = []
    if inspection.cross_cka is not None:
        first, second = networks
        drawings.append(
            draw("cka-cross", f"{first.name} with {second.name}", "CKA between the depths of both",
                  partial(figures.similarity, inspection.cross_cka, second.name, first.name))
        )  # fmt: skip
        last = float(inspection.cross_cka[-1, -1])
        said.append(f"the tokens behind the last blocks of both have a CKA of {last:.2f}")
    return Section(
        "similarity",
        "Where do representations change, and are they alike?",
        (
            "Linear CKA compares what all tokens hold at two depths: 1 (full colour) where the images lie to each other in the same "
            "way, but for a rotation and a scale; about 0 where not. Blocks of full colour are stretches in which little changes.",
        ),
        tuple(drawings),
        sentence(said),
        f"Kornblith et al. 2019, unbiased over minibatches as Nguyen et al. 2021, of {image_count(inspection, 'observed')}.",
    )
