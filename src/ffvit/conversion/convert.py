"""Attention taken out of a trained network, layer by layer, until more accuracy would be lost than is allowed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from torch import Tensor, nn

from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.conversion.branches import Kind, Place, as_backbone, attention_places
from ffvit.conversion.chain import Chain
from ffvit.conversion.closed_form import CLOSED_FORMS, check_enough
from ffvit.conversion.order import Batches, estimate, fit_each, greedy_order
from ffvit.conversion.plot import write as write_plot
from ffvit.conversion.record import Conversion, Costs, Measured, Step, read_record, write_record
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import DataError, ModelError, RunFolderError, RunStoppedError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.lock import FolderLock
from ffvit.files.output_folder import CONVERSION, existing_paths, make_folder
from ffvit.hardware.launch import start_fabric
from ffvit.inference.evaluator import Evaluator, readable_names
from ffvit.inference.predictions import Predictions, read_predictions
from ffvit.inference.run_images import evenly_spaced
from ffvit.models.backbone import Backbone
from ffvit.models.description import class_names_of, preprocess_of
from ffvit.models.weights import load, save_weights
from ffvit.profiling.count import count
from ffvit.profiling.timing import latency
from ffvit.run_folder import Run
from ffvit.seeding import seeded
from ffvit.terminal import track

CONTROLS: dict[str, Kind] = {"removed": "identity", "refitted attention": "attention"}
"""Beside the replacement: nothing in the place of attention, and attention fitted from scratch by the same procedure."""

VALIDATION_IMAGES = 1024
"""On so many the order of the layers is chosen, at most."""

FIT_BATCH = 64
ROUNDS, CALLS = 5, 20
"""Latency is measured in so many rounds over all networks, of so many calls each."""


@dataclass(frozen=True)
class Inputs:
    """What a conversion begins with.

    Attributes:
        network: The original.
        data: Its images.
        recipe: Of the training after each replacement.
        hardware: Where to compute.
        seed: Reaches every draw.
        images: Training images that replacements are fitted on, at most.
    """

    network: nn.Module
    data: Data
    recipe: Recipe
    hardware: Hardware
    seed: int
    images: int


def convert(
    inputs: Inputs, replacement: Kind, max_loss: float, out: Path, *, resume: bool, overwrite: bool, console: Console
) -> Conversion:
    """Replace attention layer by layer; each step ends with an ordinary training, taught by the original.

    Args:
        inputs: What to begin with.
        replacement: What takes the place of attention.
        max_loss: Points of top-1 that may be lost on the validation images.
        out: The folder.
        resume: Go on in that folder; finished steps are kept.
        overwrite: Replace a folder of a conversion.
        console: Where to show progress.

    Raises:
        UserError: The network has no attention or weights that are not finite, the images are of other classes or too few,
            or the folder cannot be used.
        RunStoppedError: A training was interrupted; what is finished is kept.
    """
    network = as_backbone(inputs.network)
    splits = open_splits(inputs.data)
    _check_images(network, splits, inputs, replacement)
    lock, steps = FolderLock(out, "conversion"), out / "steps"
    asked = _asked(inputs, network, replacement)
    if resume:
        lock.acquire()
    else:
        make_folder(out, CONVERSION, lock, overwrite, existing_paths({"the data": inputs.data.source}))
    try:
        original = out / "original.safetensors"
        if not resume:
            save_weights(original, network, class_names_of(network))
            write_record(Conversion(out, asked, max_loss))
        record = read_record(out)
        if record.asked != asked:
            raise RunFolderError(
                f"{out}: was begun with other weights, images or options: give the same, or another --out"
            )
        work = _Work(inputs, network, splits, replacement, out)
        record = (
            record.replace(max_loss=max_loss)
            if record.layers
            else work.begin(record.replace(max_loss=max_loss), console)
        )
        record = work.steps(record, steps, original, console)
        record = record.replace(costs=work.costs(record, console))
        write_record(record)
        write_plot(record, out / "conversion.png")
        _bring(record, out)
        return record
    except RunStoppedError as error:
        if error.asked:  # the training of a step says how to go on with that step alone
            error.args = (f"stopped; finished steps are kept: resume with the same options and --out {out} --resume",)
        raise
    finally:
        lock.release()


class _Work:
    """The parts of a conversion, in order."""

    def __init__(self, inputs: Inputs, network: Backbone, splits: Splits, replacement: Kind, out: Path) -> None:
        self.inputs, self.network, self.replacement, self.out = inputs, network, replacement, out
        self.splits, self.places = splits, attention_places(network)
        self.fabric = start_fabric(inputs.hardware.replace(precision="fp32"))
        network.to(self.fabric.device)
        assert splits.validation is not None  # it was checked
        train = evenly_spaced(splits.train, inputs.images)
        self.batches: Batches = partial(_prepared, self._evaluator(train, FIT_BATCH))
        self.validation = self._evaluator(splits.validation)
        self.few = self._evaluator(evenly_spaced(splits.validation, VALIDATION_IMAGES))

    def _evaluator(self, images: Any, batch: int = 256) -> Evaluator:
        preprocess, workers = preprocess_of(self.network), self.inputs.hardware.workers
        return Evaluator(self.fabric, images, preprocess, self.splits.classes, batch, workers)

    def begin(self, record: Conversion, console: Console) -> Conversion:
        """Score the original, estimate what each layer costs, and choose their order."""
        (validation, _), (test, bad) = self.validation(self.network), self._evaluator(self.splits.test)(self.network)
        test.to_csv(self.out / "original.csv", readable_names(self.splits.test, bad))
        original = self._score(self.network)
        with seeded(self.inputs.seed):
            fitted = fit_each(self.network, self.places, self.replacement, self.batches)
        layers = estimate(self.network, fitted, original, self._score, console)
        order = greedy_order(self.network, fitted, original, self._score, console)
        measured = Measured.of(float(validation.correct.mean()), test.correct, test.correct)
        record = record.replace(original=measured, layers=tuple(layers), order=tuple(order))
        write_record(record)
        return record

    def _score(self, network: nn.Module) -> Predictions:
        return self.few(network)[0]

    def steps(self, record: Conversion, folder: Path, original: Path, console: Console) -> Conversion:
        """Replace layer after layer, the controls beside, until more is lost than is allowed."""
        inputs = self.inputs
        recipe = inputs.recipe.replace(teacher=str(original.absolute()))
        common = folder, original, inputs.data, recipe, inputs.hardware, inputs.seed, self.batches
        chains = [Chain(name, kind, *common) for name, kind in {self.replacement: self.replacement, **CONTROLS}.items()]
        folder.mkdir(exist_ok=True)
        done: list[Step] = []
        plan = [(number, chain) for number in range(1, len(record.order) + 1) for chain in chains]
        for number, chain in track(plan, "layers replaced", console, unit=" trainings"):
            main = [step for step in done if step.arm == self.replacement]
            if chain is chains[0] and main and record.lost(main[-1].measured) > record.max_loss:
                break
            if (step := self._step(chain, number, record)) is not None:
                done.append(step)
                console.print(record.line(step), markup=False, highlight=False)
        return record.replace(steps=tuple(done))

    def _step(self, chain: Chain, number: int, record: Conversion) -> Step | None:
        """One more layer; None, if the network without it cannot be built, as where nothing would reach the class token."""
        place = Place(*record.order[number - 1])
        before = [Place(*other) for other in record.order[: number - 1]]
        gone = sum(other.block == place.block and other.branch < place.branch for other in before)
        try:
            run = chain.run(number, place, gone if chain.kind == "identity" else 0, Console(quiet=True))
        except ModelError:
            if chain.kind != "identity" or number < len(record.order):
                raise
            return None
        summary: Any = run.summary()
        ours, theirs = (read_predictions(path) for path in (run.predictions_file, self.out / "original.csv"))
        correct = theirs.set_index("image")["correct"].loc[ours["image"]].to_numpy()
        measured = Measured.of(summary["validation"]["top1"], ours["correct"].to_numpy(), correct)
        left = len(record.order) - number
        return Step(chain.name, number, place.block, left, measured, str(run.path.relative_to(self.out)))

    def costs(self, record: Conversion, console: Console) -> tuple[Costs, ...]:
        """Parameters, FLOPs and latency of the original and of each step of the replacement, measured in turns."""
        own = [step for step in record.steps if step.arm == self.replacement]
        files = [self.out / "original.safetensors", *(Run(self.out / step.run).best_file for step in own)]
        networks = [load(file).to(self.fabric.device) for file in files]
        times: list[list[float]] = [[] for _ in networks]
        rounds = [(number, network) for _ in range(ROUNDS) for number, network in enumerate(networks)]
        for number, network in track(rounds, "latency", console):
            times[number].append(latency(network, CALLS).median)
        counts = [count(network) for network in networks]
        return tuple(
            Costs(counted.parameters, counted.flops, float(np.median(seconds)))
            for counted, seconds in zip(counts, times, strict=True)
        )


def _prepared(evaluator: Evaluator) -> Iterator[Float[Tensor, "_ channels height width"]]:
    """Batches of images as the network takes them, without those that could not be read."""
    for batch in evaluator.batches:
        images = evaluator.prepare(batch.to(evaluator.fabric.device))
        yield images[batch.weights.to(images.device) > 0]


def _check_images(network: Backbone, splits: Splits, inputs: Inputs, replacement: Kind) -> None:
    """Check that the images fit the network and the closed form.

    Raises:
        UserError: They do not.
    """
    names = class_names_of(network)
    if tuple(splits.classes) != names:
        others = [name for name in splits.classes if name not in names]
        what = f"it has the class {others[0]!r}, which the network does not know" if others else (
            f"it has {len(splits.classes):,} classes, the network {len(names):,}" if len(names) != len(splits.classes) else
            "its classes are in another order"
        )  # fmt: skip
        raise DataError(f"{inputs.data.source}: {what}: give the images that the network was trained on (--data)")
    if splits.validation is None:
        raise DataError("no validation split: the order of the layers is chosen on one (--data.validation 0.1)")
    architecture = network.architecture
    if replacement in CLOSED_FORMS:
        heads = max(branch.heads or 1 for block in architecture.blocks for branch in block if branch.row.is_attention)
        heads = heads if replacement == "static" else 1
        check_enough(min(inputs.images, len(splits.train)), architecture.tokens, architecture.width, heads)


def _asked(inputs: Inputs, network: Backbone, replacement: Kind) -> dict[str, Any]:
    """What decides the result, to know it again."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return {
        "network": network.architecture.model_dump(mode="json"),
        "weights": digest.hexdigest(),
        "data": inputs.data.model_dump(mode="json"),
        "recipe": inputs.recipe.model_dump(mode="json"),
        "seed": inputs.seed,
        "images": inputs.images,
        "replacement": replacement,
    }


def _bring(record: Conversion, out: Path) -> None:
    """Copy the chosen step's run into the folder, which so becomes a run folder."""
    chosen = record.chosen
    if chosen is None:
        return
    run = out / chosen.run
    names = (
        "split.csv.gz",
        "predictions.csv",
        "metrics.jsonl",
        "last.safetensors",
        "best.safetensors",
        "summary.json",
        "config.yaml",
    )
    for name in names:
        with atomic_path(out / name) as temporary:
            shutil.copyfile(run / name, temporary)
