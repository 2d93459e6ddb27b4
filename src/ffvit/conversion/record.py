"""What a conversion found, and the file that holds it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pydantic import TypeAdapter, ValidationError

from ffvit.conversion.order import Estimate
from ffvit.errors import RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.json_file import AnyObject, read_json
from ffvit.inference.intervals import PairedDifference, Proportion

FILE = "conversion.json"


@dataclass(frozen=True)
class Measured:
    """How good a network is, as shares.

    Attributes:
        validation: Top-1 on the validation images, on which steps are chosen.
        test: Top-1 on the test images.
        less_original: That less the original's, image by image.
    """

    validation: float
    test: Proportion
    less_original: PairedDifference

    @classmethod
    def of(
        cls, validation: float, correct: Bool[np.ndarray, " images"], original: Bool[np.ndarray, " images"]
    ) -> Measured:
        """From the test images that a network, and the original, predict correctly."""
        test = Proportion.of(int(correct.sum()), len(correct))
        return cls(validation, test, PairedDifference.of(correct, original))


@dataclass(frozen=True)
class Step:
    """One more attention layer replaced.

    Attributes:
        arm: The replacement, or the control.
        number: Of the step, counted from 1: how many layers are replaced.
        block: The block whose attention was replaced in it.
        left: Attention layers that are still the original's.
        measured: How good the network is then.
        run: Its run folder, within the conversion's.
    """

    arm: str
    number: int
    block: int
    left: int
    measured: Measured
    run: str


@dataclass(frozen=True)
class Costs:
    """What one image costs: parameters, FLOPs of a forward pass, seconds from image to logits (median, fp32, batch 1)."""

    parameters: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class Conversion:
    """What is known of a conversion so far.

    Attributes:
        folder: Where it is; the run folder of the chosen step, in the end.
        asked: What decides its result.
        max_loss: Points of top-1 that may be lost on the validation images.
        original: How good the network was.
        layers: What each attention layer would cost, before anything is trained.
        order: Block and branch of the attention layers, in the order they are replaced.
        steps: What was reached, of the replacement and of the controls.
        costs: Of the original, then of each step of the replacement.
    """

    folder: Path
    asked: dict[str, Any]
    max_loss: float
    original: Measured | None = None
    layers: tuple[Estimate, ...] = ()
    order: tuple[tuple[int, int], ...] = ()
    steps: tuple[Step, ...] = ()
    costs: tuple[Costs, ...] = ()

    def replace(self, **fields: Any) -> Conversion:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **fields)

    @property
    def replacement(self) -> str:
        """What takes the place of attention."""
        return str(self.asked["replacement"])

    @property
    def arms(self) -> tuple[str, ...]:
        """The replacement, then the controls."""
        return tuple(dict.fromkeys(step.arm for step in self.steps))

    def of_arm(self, arm: str) -> list[Step]:
        """Its steps, in order."""
        return [step for step in self.steps if step.arm == arm]

    def lost(self, measured: Measured) -> float:
        """Points of top-1 that a network lost on the validation images."""
        assert self.original is not None
        return 100 * (self.original.validation - measured.validation)

    @property
    def chosen(self) -> Step | None:
        """The last step before more is lost than is allowed; None, if that is the first."""
        within = None
        for step in self.of_arm(self.replacement):
            if self.lost(step.measured) > self.max_loss:
                break
            within = step
        return within

    def line(self, step: Step) -> str:
        """A step in words."""
        test = step.measured.test
        return (
            f"{step.left} left, block {step.block} {step.arm}: top-1 {100 * test.value:.1f} % "
            f"({100 * test.low:.1f} to {100 * test.high:.1f} %)"
        )


_SCHEMA = TypeAdapter(Conversion)


def write_record(record: Conversion) -> None:
    """Write `conversion.json`."""
    fields = asdict(record)
    del fields["folder"]  # it may be moved
    with atomic_path(record.folder / FILE) as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n")


def read_record(folder: Path) -> Conversion:
    """Read `conversion.json`.

    Raises:
        UserError: It is not there, or damaged.
    """
    if not (folder / FILE).is_file():
        raise RunFolderError(f"{folder}: holds no {FILE}, so there is nothing to resume")
    content = read_json(folder / FILE, "convert again with --overwrite", AnyObject)
    try:
        return _SCHEMA.validate_python({**content, "folder": folder})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunFolderError(f"{folder / FILE}: is damaged ({where}); convert again with --overwrite") from None
