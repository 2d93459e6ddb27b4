"""One attention branch after another replaced: each replacement is fitted, then the whole network is trained by an ordinary run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.conversion.branches import Kind, Place, branch_at, substitute, visit_mixers, with_branch
from ffvit.conversion.closed_form import CLOSED_FORMS
from ffvit.conversion.layerwise import kept_images, regress
from ffvit.conversion.order import Batches, untrained
from ffvit.models.backbone import Backbone
from ffvit.models.weights import load, save_weights
from ffvit.run_folder import Config, Run
from ffvit.seeding import seed_of, seeded
from ffvit.training.train import configure, resume, run_config


@dataclass(frozen=True)
class Chain:
    """Replaces attention step by step, always by the same kind.

    Attributes:
        name: Of its runs.
        kind: What takes the place of attention.
        folder: Where its runs lie.
        original: The file of the network to begin with, which is also the teacher.
        data: To train on.
        recipe: Of each run.
        hardware: Likewise.
        seed: Likewise.
        batches: Training images, prepared, to fit replacements on.
    """

    name: str
    kind: Kind
    folder: Path
    original: Path
    data: Data
    recipe: Recipe
    hardware: Hardware
    seed: int
    batches: Batches

    def run(self, step: int, place: Place, removed: int, console: Console) -> Run:
        """The run of a step; if it is finished, nothing is computed.

        Args:
            step: Counted from 1.
            place: The branch that is replaced, in the original network.
            removed: How many branches in front of it in its block are no longer there.
            console: Where to show progress.
        """
        folder, start = self.step_folder(step), self.folder / f"{self.name}-{step:02}.safetensors"
        if (folder / "config.yaml").is_file():
            run = Run(folder)
            return run if run.summary() is not None else resume(folder, console=console)
        before = self.original if step == 1 else Run(self.step_folder(step - 1)).best_file
        network: Any = load(before)
        with seeded(self.seed, step):
            changed = self._replaced(network, Place(place.block, place.branch - removed), step)
        save_weights(start, changed, network.class_names)
        return run_config(self._config(changed, start), folder, console=console)

    def step_folder(self, step: int) -> Path:
        """The run folder of a step."""
        return self.folder / f"{self.name}-{step:02}"

    def _config(self, network: Backbone, start: Path) -> Config:
        return configure(
            network.architecture,
            self.data,
            self.recipe,
            hardware=self.hardware,
            seed=self.seed,
            start_from=start,
            loggers=(),
        )

    def _replaced(self, network: Backbone, place: Place, step: int) -> Backbone:
        """The network with one more branch replaced, fitted in closed form, then by regression, as far as its kind allows."""
        branch = substitute(self.kind, network.architecture.blocks[place.block][place.branch])
        if branch is None:
            return with_branch(network, place, None)
        inputs, outputs, mixer = self._activations(network, place)
        mixer, _ = regress(mixer, inputs, outputs, seed_of(self.seed, step))
        return with_branch(network, place, branch, mixer)

    def _activations(self, network: Backbone, place: Place) -> tuple[Tensor, Tensor, nn.Module]:
        """What enters and leaves attention, and the mixer to begin the regression with."""
        tokens, width = network.architecture.tokens, network.architecture.width
        most, form, pairs = kept_images(tokens, width), None, list[tuple[Tensor, Tensor]]()
        if self.kind in CLOSED_FORMS:
            form = CLOSED_FORMS[self.kind](branch_at(network, place).mixer, tokens)

        def add(_: Place, x: Tensor, y: Tensor) -> None:
            if form is not None:
                form.add(x, y)
            if sum(len(inputs) for inputs, _ in pairs) < most:
                pairs.append((x, y))

        visit_mixers(network, [place], self.batches(), add)
        mixer = form.fit() if form is not None else untrained(network, place, self.kind)
        inputs, outputs = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        return inputs, outputs, mixer
