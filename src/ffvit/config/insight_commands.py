"""The command that shows what trained networks do, as those of `commands`."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, PositiveInt
from pydantic import SkipValidation as Unchecked
from pydantic.dataclasses import dataclass

from ffvit.config.choices import HardwareChoice
from ffvit.config.command_fields import Overwrite, Root, option
from ffvit.config.commands import CHECKED, Command
from ffvit.config.hardware import Hardware
from ffvit.config.options import Nested

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.nn import Module

    Networks = str | Path | Module | Sequence[str | Path | Module]
else:
    Networks = tuple[Any, ...]

Device = Annotated[
    HardwareChoice,
    Unchecked,
    option("Where to compute."),
    Nested(Hardware, "Hardware", fields=("accelerator", "workers"), common=("accelerator", "workers")),
]


def _networks(given: object) -> object:
    """One network needs no list."""
    return tuple(given) if isinstance(given, list | tuple) else (given,)


@dataclass(frozen=True, config=CHECKED)
class Inspect(Command):
    """Write a page that shows what one network does, or two side by side: what they mix, how far, where the prediction is made."""

    examples = """ffvit inspect runs/flowers                       then open inspect.html
ffvit inspect runs/flowers runs/flowers-vit --out both.html
ffvit inspect runs/flowers --image cat.jpg
ffvit inspect vit.safetensors --data photos/ --json both.json"""

    weights: Annotated[
        Networks,
        BeforeValidator(_networks),
        option("Run folders or files of weights: one network, or two for the same classes."),
    ]
    _: KW_ONLY
    image: Annotated[
        Path | None,
        option(
            "An image file: show too which of its patches speak for the prediction, and which change it when they are removed "
            "(pip install 'ffvit[insight]')."
        ),
    ] = None
    data: Annotated[
        str | Path | None,
        option(
            "Images, as for `ffvit train --data`. Default: the validation split of the run that the first weights are from."
        ),
    ] = None
    root: Root = None
    images: Annotated[
        PositiveInt | None,
        option(
            "How many images accuracies and similarities are from, at most. Default: 1,000, fewer for a large network; "
            "the page says how many.",
            ge=4,
        ),
    ] = None
    out: Annotated[Path, option("The page, an .html file.")] = Path("inspect.html")
    json: Annotated[Path | None, option("Write the numbers to this file too.")] = None
    overwrite: Overwrite = False
    hardware: Device = None
