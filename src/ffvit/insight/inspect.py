"""`ffvit inspect`: opens networks and images, and measures what the networks do."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ffvit.config.hardware import Hardware
from ffvit.config.preprocess import Preprocess
from ffvit.data.images import BadImageError, Images, read_file
from ffvit.data.loader import evaluation_loader, worker_count
from ffvit.data.splits import open_images
from ffvit.data.transforms import LazyImage, evaluation_transform
from ffvit.errors import DataError, ModelError, UserError
from ffvit.hardware.launch import start_fabric
from ffvit.inference.exported import is_exported
from ffvit.inference.run_images import evenly_spaced, run_of, splits_of
from ffvit.insight.findings import ImageCounts, Inspection
from ffvit.insight.image.faithfulness import Faithfulness, measure_faithfulness
from ffvit.insight.image.image_findings import ImageFindings, image_findings
from ffvit.insight.layers import LayeredNetwork, layers_of
from ffvit.insight.measure import Measured, cross_similarity, image_counts, measure, work_of
from ffvit.insight.observation import PreparedImages
from ffvit.models.description import class_names_of, preprocess_of
from ffvit.models.weights import check_finite, load
from ffvit.profiling.count import count
from ffvit.terminal import progress

BATCH = 64
"""Images at once while they are loaded."""

FEWEST = 4
"""Images: fewer have no unbiased similarity."""

Weights = str | Path | nn.Module


def inspect(
    weights: Sequence[Weights],
    *,
    image: str | Path | None = None,
    data: str | Path | None = None,
    root: Path | None = None,
    images: int | None = None,
    hardware: Hardware | None = None,
    console: Console | None = None,
) -> Inspection:
    """Measure what one or two networks do, in float32.

    Args:
        weights: Run folders, files of weights, or networks.
        image: A file: what the networks see in it is shown too. A network that cannot be taken apart has this alone.
        data: Images, as for `ffvit evaluate`. Default: the validation split of the first run.
        root: Where a data set that timm opens lies.
        images: How many images accuracies and similarities are from. Default: `image_counts`.
        hardware: Where to compute.
        console: Where progress is shown.

    Raises:
        UserError: The weights or the images cannot be used.
    """
    check_count(weights)
    hardware, console = hardware or Hardware(), console or Console(quiet=True)
    names = names_of(weights)
    networks = [_open(each) for each in weights]
    classes = class_names_of(networks[0])
    if len(networks) > 1 and class_names_of(networks[1]) != classes:
        raise ModelError(f"{names[1]}: has other classes than {names[0]}, or has them in another order")
    device = start_fabric(hardware.replace(precision="fp32")).device
    layered: dict[str, LayeredNetwork] = {}
    warnings = []
    for name, network in zip(names, networks, strict=True):
        try:
            layered[name] = layers_of(network.eval().to(device))
        except ModelError as error:
            if image is None:
                raise ModelError(f"{name}: {error}; --image alone is possible") from None
            warnings.append(f"{name}: only the image is shown, for {error}")
    inspection = Inspection((), "no images", classes)
    if layered:
        source, words, more = _images(weights, networks, names, None if data is None else str(data), root)
        warnings += more
        prepared, counts = _prepared(layered, source, words, images, device, hardware.workers)
        measured = _measure(layered, prepared, counts, console)
        cross = cross_similarity(*measured) if len(measured) == 2 else None
        inspection = Inspection(tuple(one.findings for one in measured), words, classes, (), cross)
        if image is not None:
            inspection = replace(inspection, faithfulness=_faithfulness(layered, prepared, counts, console))
    seen = () if image is None else _see(Path(image), dict(zip(names, networks, strict=True)), classes, device)
    return replace(inspection, warnings=tuple(warnings), image=seen, image_name="" if image is None else str(image))


def _prepared(
    networks: dict[str, LayeredNetwork],
    source: Images,
    words: str,
    asked: int | None,
    device: torch.device,
    workers: int | None,
) -> tuple[list[PreparedImages], ImageCounts]:
    """The images as each network takes them, and how many of them each part takes: what is compared is from the same ones."""
    layered, gpu = list(networks.values()), device.type == "cuda"
    by_network = [
        vars(image_counts(count(each.network).flops, len(each.layers), gpu, asked)).values() for each in layered
    ]
    counts = ImageCounts(*map(min, zip(*by_network, strict=True)))
    prepared = _prepare(evenly_spaced(source, max(vars(counts).values())), layered, device, workers)
    if len(prepared[0]) < FEWEST:
        raise DataError(f"{words}: {len(prepared[0])} images could be read; at least {FEWEST} are needed")
    counts = counts.at_most(len(prepared[0]))
    for each, own in zip(layered, prepared, strict=True):
        each.check(own.some(FEWEST).normalized())
    return prepared, counts


def _measure(
    networks: dict[str, LayeredNetwork], prepared: list[PreparedImages], counts: ImageCounts, console: Console
) -> list[Measured]:
    """Measure each network."""
    measured = []
    with progress(console, "images") as bar:
        task = bar.add_task("inspecting", total=sum(work_of(each, counts) for each in networks.values()))
        for (name, each), own in zip(networks.items(), prepared, strict=True):
            measured.append(measure(name, each, own, counts, lambda done: bar.advance(task, done)))
    return measured


def _faithfulness(
    networks: dict[str, LayeredNetwork], prepared: list[PreparedImages], counts: ImageCounts, console: Console
) -> tuple[tuple[str, tuple[Faithfulness, ...]], ...]:
    """How faithful attributions are to each network; nothing where the network is too large for two images."""
    if counts.attributions < 2:
        return ()
    results = []
    with progress(console, "images") as bar:
        task = bar.add_task("attributions", total=counts.attributions * len(networks))
        for (name, each), images in zip(networks.items(), prepared, strict=True):
            some = images.some(counts.attributions)
            pixels = list(some.levels.permute(0, 2, 3, 1).contiguous().numpy())
            found = measure_faithfulness(
                each.network, some.preprocess, pixels, advance=lambda done: bar.advance(task, done)
            )
            results.append((name, found))
    return tuple(results)


def _see(
    path: Path, networks: dict[str, nn.Module], classes: tuple[str, ...], device: torch.device
) -> tuple[tuple[str, ImageFindings], ...]:
    """What each network sees in an image file."""
    try:
        stored = read_file(path)
        found = []
        for name, network in networks.items():
            preprocess = preprocess_of(network)
            pixels = evaluation_transform(preprocess)(LazyImage(stored, str(path))).pixels
            temperature = getattr(network, "temperature", None) or 1.0
            network.eval().to(device)
            found.append((name, image_findings(network, preprocess, pixels, classes, temperature=temperature)))
    except BadImageError as error:
        raise DataError(f"--image {error}") from None
    return tuple(found)


def check_count(weights: Sequence[Weights]) -> None:
    """Check that there are one or two networks.

    Raises:
        UserError: There are not.
    """
    if not 1 <= len(weights) <= 2:
        raise UserError(f"weights: one network is inspected, or two side by side; got {len(weights)}")


def names_of(weights: Sequence[Weights]) -> list[str]:
    """What to call the networks: the last parts of their paths, whole paths where these are the same."""
    paths = [type(each).__name__ if isinstance(each, nn.Module) else str(each) for each in weights]
    short = [Path(path).name or path for path in paths]
    if len(set(short)) == len(short):
        return short
    return paths if len(set(paths)) == len(paths) else [f"{path} ({n})" for n, path in enumerate(paths, 1)]


def _open(weights: Weights) -> nn.Module:
    if isinstance(weights, nn.Module):
        return deepcopy(weights)  # the caller's stays as it is, wherever it is
    if is_exported(weights):
        raise ModelError(f"{weights}: an exported file shows no layers; inspect the run it was made of")
    network = load(weights)
    check_finite(network, str(weights))
    return network


def _images(
    weights: Sequence[Weights], networks: Sequence[nn.Module], names: Sequence[str], data: str | None, root: Path | None
) -> tuple[Images, str, list[str]]:
    """The images, what they are in words, and what to warn of."""
    runs = [None if isinstance(each, nn.Module) else run_of(Path(each)) for each in weights]
    if data is None:
        if runs[0] is None:
            raise UserError(f"{names[0]}: lies in no run folder, which would say what images to use: give --data")
        splits = splits_of(runs[0])
        validation = splits.validation
        source, part = (splits.test, "test") if validation is None else (validation, "validation")
        words = f"{runs[0].config.data.source}, the {part} split of {names[0]}"
        others = list(zip(names, runs, strict=True))[1:]
    else:
        known: Any = getattr(networks[0], "class_names", None)
        source, words = open_images(data, root, known), data
        others = list(zip(names, runs, strict=True))
    return source, words, [said for name, run in others if (said := _warning(name, run, source))]


def _warning(name: str, run: Any, images: Images) -> str | None:
    """What must be known of a run's images: whether it was trained on these."""
    trained = None
    if run is not None:
        try:
            trained = splits_of(run)
        except UserError:
            return (
                f"{name}: its training images are not where they were, so it is not known whether these are among them"
            )
    if trained is None:
        return None
    seen = {trained.train.name(index) for index in range(len(trained.train))}
    used = sum(images.name(index) in seen for index in range(len(images)))
    return (
        f"{name} was trained on {used:,} of these {len(images):,} images: its accuracies are too good" if used else None
    )


def _prepare(
    images: Images, networks: Sequence[LayeredNetwork], device: torch.device, workers: int | None
) -> list[PreparedImages]:
    """The images as each network takes them; those that cannot be read are left out."""
    loaded: dict[Preprocess, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    prepared = []
    for network in networks:
        preprocess = preprocess_of(network.network)
        if preprocess not in loaded:
            processes = worker_count(images, 1, device) if workers is None else workers
            loader = evaluation_loader(images, evaluation_transform(preprocess), preprocess.shape, BATCH, processes)
            parts = [(batch.images.clone(), batch.labels.clone(), batch.weights.clone()) for batch in loader]
            levels, labels, read = (torch.cat(part) for part in zip(*parts, strict=True))
            loaded[preprocess] = levels, labels, read > 0
    read = torch.stack([each[2] for each in loaded.values()]).all(dim=0)
    for network in networks:
        preprocess = preprocess_of(network.network)
        levels, labels, _ = loaded[preprocess]
        prepared.append(PreparedImages(levels[read], labels[read], preprocess, device))
    return prepared
