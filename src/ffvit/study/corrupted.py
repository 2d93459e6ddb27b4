"""A study's runs on corrupted images: a secondary outcome, shown beside the accuracy, from which no verdict is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from rich.console import Console

from ffvit.config.architecture import Network
from ffvit.config.hardware import Hardware
from ffvit.errors import ConfigError, RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.inference.corruptions import check_corruptions
from ffvit.inference.evaluate import Extra, evaluate
from ffvit.models.create import create_model
from ffvit.models.description import preprocess_of
from ffvit.run_folder import Run


def score_run(folder: Path, corruptions: Sequence[str], hardware: Hardware, console: Console) -> None:
    """Evaluate a finished run on corrupted copies of its test images, at all severities, and write `corruptions.csv`.

    Each test image has a row, in the order of `predictions.csv`, with a column for each corruption: under which share of
    the severities it is predicted correctly.

    Args:
        folder: The run's.
        corruptions: As `choose_corruptions` gives them.
        hardware: Of the run; one device scores.
        console: Where progress is shown.

    Raises:
        UserError: As `score_corrupted`.
    """
    extra = Extra(corruptions=tuple(corruptions), console=console)
    alone = hardware.replace(devices=1, nodes=1, precision="fp32")
    robustness = evaluate(folder, hardware=alone, extra=extra).robustness
    assert robustness is not None
    shares = pd.DataFrame({name: robustness.table([name]).mean(axis=0) for name in corruptions})
    with atomic_path(Run(folder).corruptions_file) as temporary:
        shares.to_csv(temporary, index=False, lineterminator="\n")


def check_arms(corruptions: Sequence[str], networks: Sequence[Network], classes: int, hardware: Hardware) -> None:
    """Make sure that every network's runs can be scored, before any of them is trained.

    Args:
        corruptions: As `choose_corruptions` gives them.
        networks: Of the arms.
        classes: How many there are.
        hardware: What one run computes on.

    Raises:
        UserError: A package is missing, images are too small, or runs lie on several machines.
    """
    if corruptions and hardware.nodes > 1:
        raise ConfigError(
            "corruptions: runs over several machines are not scored on them: evaluate these runs afterwards"
        )
    for network in networks if corruptions else ():
        with torch.device("meta"):
            preprocess = preprocess_of(create_model(network, classes))
        check_corruptions(corruptions, preprocess)


def is_scored(folder: Path, corruptions: Sequence[str]) -> bool:
    """Whether a run was scored on all of these corruptions."""
    try:
        with Run(folder).corruptions_file.open(encoding="utf-8") as file:
            return set(corruptions) <= set(file.readline().strip().split(","))
    except (OSError, ValueError):
        return False


def read_shares(folder: Path, corruptions: Sequence[str], images: int) -> Float[np.ndarray, " images"] | None:
    """Under which share of the corruptions each test image is predicted correctly; None if the run is not scored on them.

    Args:
        folder: The run's.
        corruptions: The mean is over these.
        images: Test images that the run has predictions of.

    Raises:
        RunFolderError: The file is damaged.
    """
    if not corruptions or not is_scored(folder, corruptions):
        return None
    path = Run(folder).corruptions_file
    try:
        shares = pd.read_csv(path)[list(corruptions)].to_numpy(dtype=np.float64).mean(axis=1)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise RunFolderError(
            f"{path}: is damaged ({' '.join(str(error).split())}); delete it to have the run scored again"
        ) from None
    if len(shares) != images or not ((shares >= 0) & (shares <= 1)).all():
        raise RunFolderError(
            f"{path}: is not of this run's {images:,} test images; delete it to have the run scored again"
        )
    return shares
